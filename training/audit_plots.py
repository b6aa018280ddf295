"""The pictures of the audit, in the style of training.plots: scores of strange pictures, slices, shortcuts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from training.flagged import Scores
from training.plots import COLOURS, GREY, save
from training.slices import INSUFFICIENT

NAMES = ("out_of_distribution", "slices", "shortcuts")
_FIGURES = (("accuracy", COLOURS[0], "o"), ("sensitivity", COLOURS[3], "^"), ("specificity", COLOURS[2], "s"))


def draw_all(
    folder: Path,
    evidence: Mapping[str, Any],
    shortcuts: Mapping[str, Any],
    scores: Scores,
    strange: Mapping[str, tuple[Scores, npt.NDArray[np.str_]]],
) -> None:
    """Draw every picture of NAMES into `folder`, from the two reports and the scores they count."""
    found = evidence["out_of_distribution"]
    save(folder / f"{NAMES[0]}.png", lambda axes: out_of_distribution(axes, found, scores, strange))
    save(folder / f"{NAMES[1]}.png", lambda axes: slices(axes, evidence["slices"]))
    save(folder / f"{NAMES[2]}.png", lambda axes: shortcut_bars(axes, shortcuts))


def out_of_distribution(
    axes: Axes, found: Mapping[str, Any], scores: Scores, strange: Mapping[str, tuple[Scores, npt.NDArray[np.str_]]]
) -> None:
    """One histogram a row: the test cells and each kind of picture, with the share that is flagged."""
    rows = [("test cells", scores, found["false_flags"], COLOURS[0])]
    rows += [(kind, theirs, found["kinds"][kind]["flagged"], COLOURS[3]) for kind, (theirs, _) in strange.items()]
    everything = np.log10(np.maximum(np.concatenate([values for _, values, _, _ in rows]), 1e-3))
    edges = np.linspace(everything.min() - 0.02, everything.max() + 0.02, 50)
    for row, (_, values, _, colour) in enumerate(rows):
        count, _ = np.histogram(np.log10(np.maximum(values, 1e-3)), edges)
        base = float(len(rows) - 1 - row)
        top = base + 0.85 * count / max(int(count.max()), 1)
        axes.fill_between(10 ** edges[:-1], base, top, step="post", color=colour, alpha=0.75, lw=0)
    axes.axvline(found["threshold"], color="black", lw=1, ls="--")
    axes.set_xscale("log")
    labels = [f"{name}\n{share:.1%} flagged" for name, _, share, _ in rows]
    axes.set_yticks(np.arange(len(rows))[::-1] + 0.3, labels)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.1, len(rows))
    axes.set(xlabel="out-of-distribution score (flagged right of the line)", title="What is flagged")


def slices(axes: Axes, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Figures of each slice with their intervals; those with too few cells are named, without figures."""
    rows = [(kind, name, entry) for kind, entries in found.items() for name, entry in entries.items()]
    for row, (_, _, entry) in enumerate(rows):
        at = len(rows) - 1 - row
        if entry["state"] == INSUFFICIENT:
            axes.text(0.02, at, INSUFFICIENT, va="center", color=GREY, transform=axes.get_yaxis_transform())
            continue
        for place, (figure, colour, marker) in enumerate(_FIGURES):
            value = entry[figure]
            if value is not None:
                y = at + 0.22 * (1 - place)
                low, high = value["interval"] or (value["value"], value["value"])
                axes.plot([low, high], [y, y], color=colour, lw=2)
                axes.plot(value["value"], y, marker, color=colour, ms=6)
    for figure, colour, marker in _FIGURES:
        axes.plot([], [], marker, color=colour, label=figure)
    axes.set_yticks(
        np.arange(len(rows))[::-1], [f"{kind}: {name}\n{entry['cells']} cells" for kind, name, entry in rows]
    )
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(right=1.005)
    axes.set(xlabel="figure, 95 % interval by patients", title="Parts of the test set")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)


def shortcut_bars(axes: Axes, found: Mapping[str, Any]) -> None:
    """Balanced accuracy of the network and of each forest that sees no cell."""
    rows: list[tuple[str, Mapping[str, Any]]] = [("network", found["network"]), *found["forests"].items()]
    for row, (name, entry) in enumerate(rows):
        at = len(rows) - 1 - row
        if "balanced_accuracy" not in entry:
            axes.text(0.02, at, "not available", va="center", color=GREY)
            continue
        value = entry["balanced_accuracy"]
        low, high = entry["interval"] or (value, value)
        axes.barh(at, value, height=0.6, color=COLOURS[0] if name == "network" else COLOURS[1])
        axes.plot([low, high], [at, at], color="black", lw=1.5)
        axes.text(high + 0.015, at, f"{value:.2f}", va="center")
    axes.axvline(found["chance"], color=GREY, lw=1, ls="--")
    axes.text(found["chance"] + 0.01, len(rows) - 0.45, "chance", color=GREY, va="bottom", ha="left")
    axes.set_yticks(np.arange(len(rows))[::-1], [name for name, _ in rows])
    axes.set(xlim=(0, 1.1), ylim=(-0.6, len(rows) - 0.1))
    axes.set(xlabel="balanced accuracy, 95 % interval by patients", title="Could it be had without the cell?")
