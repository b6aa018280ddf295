"""The pictures of the evaluation, each a PNG that `dvc plots show` finds; the same figures give the same bytes."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from service.contract.files import write_atomic
from training import figures

if TYPE_CHECKING:
    from training.evaluate import Judged

NAMES = ("confusion_matrix", "reliability", "roc", "embedding", "risk_coverage")
# Colour-blind safe (Wong, Nature Methods 8 (2011) 441), in an order in which neighbours differ in lightness too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
GREY = "#888888"


def draw_all(folder: Path, judged: "Judged", embedding: npt.NDArray[np.float32], abstain: float) -> None:
    """Draw every picture of NAMES into `folder`."""
    drawings: tuple[Callable[[Axes], None], ...] = (
        lambda axes: confusion_matrix(axes, judged),
        lambda axes: reliability(axes, judged),
        lambda axes: roc(axes, judged),
        lambda axes: embedding_map(axes, judged, embedding),
        lambda axes: risk_coverage(axes, judged, abstain),
    )
    for name, draw in zip(NAMES, drawings, strict=True):
        save(folder / f"{name}.png", draw)


def save(path: Path, draw: Callable[[Axes], None]) -> None:
    """One picture in the one style: what `draw` puts on the axes."""
    figure = Figure(figsize=(6, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())


def confusion_matrix(axes: Axes, judged: "Judged") -> None:
    """Counts, shaded by the share of the true class."""
    counts = figures.confusion_matrix(judged.label, judged.called, len(judged.labels))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        dark = share[row, column] > 0.5
        text = f"{counts[row, column]}\n{share[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black")
    axes.set_xticks(range(len(judged.labels)), judged.labels)
    axes.set_yticks(range(len(judged.labels)), judged.labels)
    axes.set(xlabel="called", ylabel="true", title=f"{len(judged.label)} cells of unseen patients")


def reliability(axes: Axes, judged: "Judged") -> None:
    """Share correct against confidence in bins of equal number, with the interval that chance alone explains."""
    confidence = judged.probabilities.max(axis=1)
    bins = figures.calibration_bins(confidence, judged.called == judged.label, weight=judged.weight)
    spread = 1.96 * np.sqrt(bins.confidence * (1 - bins.confidence) / bins.effective)
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, label="perfect")
    low, high = np.maximum(bins.confidence - spread, 0), np.minimum(bins.confidence + spread, 1)
    axes.vlines(bins.confidence, low, high, color=GREY, alpha=0.4, lw=5, label="95 % by chance alone")
    axes.plot(bins.confidence, bins.correct, "o", color=COLOURS[0], label="network")
    lowest = max(0.0, min(float(bins.confidence.min()), float(bins.correct.min())) - 0.05)
    plain, debiased = figures.expected_calibration_error(bins), figures.debiased_calibration_error(bins)
    axes.set(
        xlabel="probability of the answered label", ylabel="share correct", xlim=(lowest, 1.01), ylim=(lowest, 1.01),
        title=f"Reliability: ECE {plain:.3f}, debiased {debiased:.3f}",
    )  # fmt: skip
    axes.legend(frameon=False, loc="upper left")


def roc(axes: Axes, judged: "Judged") -> None:
    """Malignant against healthy; says so where that does not apply."""
    positive = judged.is_malignant[judged.label]
    axes.set(xlabel="1 − specificity", ylabel="sensitivity", title="Malignant against healthy")
    if positive.all() or not positive.any():
        axes.text(0.5, 0.5, "not applicable:\nnot both malignant and healthy test cells", ha="center", va="center")
        return
    false_positive, true_positive = figures.roc_curve(judged.malignant_probability, positive)
    two = figures.two_class(
        figures.confusion_matrix(judged.label, judged.called, len(judged.labels)), judged.is_malignant
    )
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, label="chance")
    area = figures.roc_auc(judged.malignant_probability, positive)
    axes.plot(false_positive, true_positive, color=COLOURS[0], label=f"network, area {area:.3f}")
    axes.plot(
        1 - figures.specificity(two), figures.sensitivity(two), "o", color=COLOURS[3], label="as answered", zorder=3
    )
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.legend(frameon=False, loc="lower right")


def embedding_map(axes: Axes, judged: "Judged", embedding: npt.NDArray[np.float32]) -> None:
    """The two principal axes of the embedding: colour by label, shape by site."""
    sites = np.unique(judged.site).tolist()
    for place, site in enumerate(sites):
        for k, name in enumerate(judged.labels):
            chosen = (judged.label == k) & (judged.site == site)
            label = name if len(sites) == 1 else f"{name}, {site}"
            axes.scatter(
                embedding[chosen, 0], embedding[chosen, min(1, embedding.shape[1] - 1)], s=14, alpha=0.7, linewidths=0,
                color=COLOURS[k % len(COLOURS)], marker=MARKERS[place % len(MARKERS)], label=label,
            )  # fmt: skip
    axes.set(xlabel="first component", ylabel="second component", title="Embedding of the test cells")
    axes.legend(frameon=False, fontsize="small")


def risk_coverage(axes: Axes, judged: "Judged", abstain: float) -> None:
    """Share of wrong answers when only the surest cells are answered."""
    confidence = judged.probabilities.max(axis=1)
    _, coverage, risk = figures.risk_coverage(confidence, judged.called == judged.label)
    axes.plot(coverage, risk, color=COLOURS[0], drawstyle="steps-pre")
    answered = confidence >= abstain
    share = float(answered.mean())
    wrong = float((judged.called != judged.label)[answered].mean()) if answered.any() else 0.0
    label = f"threshold {abstain:.2f}: {share:.0%} answered, {wrong:.1%} wrong"
    axes.plot(share, wrong, "o", color=COLOURS[3], label=label)
    axes.vlines(share, 0, wrong, color=COLOURS[3], lw=1, ls=":")
    axes.hlines(wrong, 0, share, color=COLOURS[3], lw=1, ls=":")
    axes.set(xlabel="share of cells answered", ylabel="share of them wrong", title="Risk and coverage", xlim=(0, 1.01))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper left")
