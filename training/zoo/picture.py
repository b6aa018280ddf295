"""The table as a picture: accuracy against what a row costs is what a reader asks first."""

import io
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from training.zoo.rows import TRAINED

# Colour-blind safe (Wong, Nature Methods 8 (2011) 441), as in training.plots.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
GREY = "#888888"

_KINDS = {
    "ours": COLOURS[0], "network": COLOURS[1], "composed": COLOURS[4], "features": COLOURS[2],
    "autoencoder": COLOURS[5], "classical": COLOURS[3], "shortcut": GREY,
}  # fmt: skip
_NAMES = {
    "ours": "CNN-GRU and kin", "network": "networks", "composed": "composed", "features": "features + head",
    "autoencoder": "autoencoder", "classical": "classical", "shortcut": "shortcut baselines",
}  # fmt: skip


def draw(table: Mapping[str, Any]) -> bytes:
    """PNG: accuracy with its interval, one line a row, the CNN-GRU's as a line through all."""
    rows = [row for row in table["rows"] if row["status"] == "ran" and row["kind"] in _KINDS]
    rows.sort(key=lambda row: row["figures"]["accuracy"])
    figure = Figure(figsize=(8, 1.5 + 0.26 * max(len(rows), 4)), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        low, high = row["figures"]["accuracy_interval"]
        colour = _KINDS[row["kind"]]
        axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=2)
        untrained = row["mode"] != TRAINED and any(not part["sha256"] for part in row["weights"])
        axes.plot(
            100 * row["figures"]["accuracy"], place, "o", color=colour, markerfacecolor="white" if untrained else colour
        )
        if row["row"] == "cnn_gru":
            axes.axvline(100 * row["figures"]["accuracy"], color=colour, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(rows)), [row["title"] for row in rows], fontsize=8)
    for kind in dict.fromkeys(row["kind"] for row in rows):
        axes.plot([], [], "o-", color=_KINDS[kind], label=_NAMES[kind])
    if rows:
        axes.plot([], [], "o", color=GREY, markerfacecolor="white", label="untrained trunk")
        axes.legend(fontsize=7, loc="upper left")
    title = f"{table['data']['name']}: {table['data']['cells']} cells" if table["data"] else "no row was run"
    axes.set(xlabel="accuracy, % (95 % interval)", title=title)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
