"""Metric maths, pure: arrays in, numbers out.

Whatever is counted in a confusion matrix takes any leading axes ([..., C, C], rows true, columns called), so that one
function serves a test set and a thousand resamplings of it. A figure without cells to count is NaN, never a made-up
0 or 1.

Table 3 of the review gives sensitivity as TP/(TN+FP); that is a slip, it is TP/(TP+FN) here.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import erf

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

BINS = 15


def confusion_matrix(label: Integers, called: Integers, classes: int) -> Integers:
    """Counts [C, C], rows true, columns called, from two index arrays [n]. Raises ValueError for an index outside
    0…C−1.
    """
    for name, index in (("label", label), ("called", called)):
        if len(index) and (index.min() < 0 or index.max() >= classes):
            raise ValueError(f"{name} has an index outside 0…{classes - 1}")
    return np.bincount(label * classes + called, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def accuracy(confusion: npt.ArrayLike) -> Floats:
    """Share of cells called by their true name, [...] of [..., C, C]."""
    counts = np.asarray(confusion, dtype=np.float64)
    return _ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)))


def recall(confusion: npt.ArrayLike) -> Floats:
    """Of each class's cells the share that is called so, [..., C]."""
    counts = np.asarray(confusion, dtype=np.float64)
    return _ratio(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1))


def precision_by_class(confusion: npt.ArrayLike) -> Floats:
    """Of the cells called by each class's name the share that is of it, [..., C]."""
    counts = np.asarray(confusion, dtype=np.float64)
    return _ratio(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-2))


def f1_by_class(confusion: npt.ArrayLike) -> Floats:
    """2·TP / (2·TP + FP + FN) of each class against the rest, [..., C]."""
    counts = np.asarray(confusion, dtype=np.float64)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return _ratio(2 * hits, counts.sum(axis=-1) + counts.sum(axis=-2))


def balanced_accuracy(confusion: npt.ArrayLike) -> Floats:
    """Mean recall over the classes that have cells, [...]."""
    recalls = recall(confusion)
    there = ~np.isnan(recalls)
    return _ratio(np.where(there, recalls, 0.0).sum(axis=-1), there.sum(axis=-1))


def two_class(confusion: npt.ArrayLike, malignant: Flags) -> Floats:
    """Fold [..., C, C] into [..., 2, 2], index 1 being malignant, by `malignant` [C]."""
    fold = np.stack([~malignant, malignant]).astype(np.float64)  # (2, C)
    folded: Floats = fold @ np.asarray(confusion, dtype=np.float64) @ fold.T
    return folded


def sensitivity(two: npt.ArrayLike) -> Floats:
    """TP / (TP + FN), [...] of [..., 2, 2]."""
    counts = np.asarray(two, dtype=np.float64)
    return _ratio(counts[..., 1, 1], counts[..., 1, :].sum(axis=-1))


def specificity(two: npt.ArrayLike) -> Floats:
    """TN / (TN + FP), [...] of [..., 2, 2]."""
    counts = np.asarray(two, dtype=np.float64)
    return _ratio(counts[..., 0, 0], counts[..., 0, :].sum(axis=-1))


def precision(two: npt.ArrayLike) -> Floats:
    """TP / (TP + FP), [...] of [..., 2, 2]."""
    counts = np.asarray(two, dtype=np.float64)
    return _ratio(counts[..., 1, 1], counts[..., :, 1].sum(axis=-1))


def f1(two: npt.ArrayLike) -> Floats:
    """2·TP / (2·TP + FP + FN), [...] of [..., 2, 2]."""
    counts = np.asarray(two, dtype=np.float64)
    return _ratio(2 * counts[..., 1, 1], 2 * counts[..., 1, 1] + counts[..., 0, 1] + counts[..., 1, 0])


def roc_curve(score: npt.ArrayLike, positive: Flags, weight: npt.ArrayLike | None = None) -> tuple[Floats, Floats]:
    """False-positive and true-positive rates, both [k], over falling thresholds; equal scores make one step.

    Raises ValueError unless there are cells of both kinds.
    """
    values = np.asarray(score, dtype=np.float64)
    weights = np.ones(len(values)) if weight is None else np.asarray(weight, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    last_of_equals = np.append(np.diff(values[order]) != 0, True)
    hits = np.cumsum(weights[order] * positive[order])
    alarms = np.cumsum(weights[order] * ~positive[order])
    if len(values) == 0 or hits[-1] <= 0 or alarms[-1] <= 0:
        raise ValueError("a ROC curve needs cells of both kinds")
    return (
        np.concatenate([[0.0], alarms[last_of_equals] / alarms[-1]]),
        np.concatenate([[0.0], hits[last_of_equals] / hits[-1]]),
    )


def roc_auc(score: npt.ArrayLike, positive: Flags, weight: npt.ArrayLike | None = None) -> float:
    """Area under the ROC curve: the chance that a positive cell scores above a negative one, equal scores counting ½.

    >>> roc_auc([0.9, 0.4, 0.6, 0.1], np.array([True, True, False, False]))
    0.75
    """
    false_positive, true_positive = roc_curve(score, positive, weight)
    return float(np.trapezoid(true_positive, false_positive))


class Bins(NamedTuple):
    """Cells in order of confidence, cut into bins of equal number: mean confidence and share correct, each [b]."""

    confidence: Floats
    correct: Floats
    cells: Floats
    """How many the bin's cells count for."""
    effective: Floats
    """How many cells that count alike would tell as much (Kish); the cells themselves where they do."""


def equal_parts(values: npt.ArrayLike, bins: int = BINS) -> list[Integers]:
    """Cells in order of their value, cut into parts of equal number: indices; fewer parts where a part would have
    fewer than two cells. Raises ValueError without cells.
    """
    order = np.argsort(np.asarray(values, dtype=np.float64), kind="stable").astype(np.int64)
    if len(order) == 0:
        raise ValueError("calibration needs at least one cell")
    return np.array_split(order, max(1, min(bins, len(order) // 2)))


def calibration_bins(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = BINS, weight: npt.ArrayLike | None = None
) -> Bins:
    """Bins of equal numbers of cells, fewer of them where there are fewer than two cells a bin.

    weight: for how many cells each counts [n], where they stand for another case mix. Raises ValueError without cells.
    """
    values = np.asarray(confidence, dtype=np.float64)
    parts = equal_parts(values, bins)
    hits = np.asarray(correct, dtype=np.float64)
    counts = np.ones(len(values)) if weight is None else np.asarray(weight, dtype=np.float64)
    if weight is not None:
        parts = [part for part in parts if counts[part].any()]
    return Bins(
        np.array([np.average(values[part], weights=counts[part]) for part in parts]),
        np.array([np.average(hits[part], weights=counts[part]) for part in parts]),
        np.array([counts[part].sum() for part in parts]),
        np.array([counts[part].sum() ** 2 / (counts[part] ** 2).sum() for part in parts]),
    )


def expected_calibration_error(bins: Bins) -> float:
    """ECE: Σ (cells of the bin / cells) · |mean confidence − share correct| (Guo et al., arXiv 1706.04599)."""
    return float(np.average(np.abs(bins.confidence - bins.correct), weights=bins.cells))


def debiased_calibration_error(bins: Bins) -> float:
    """ECE less the part that chance alone adds: a perfectly calibrated network has a positive plain ECE on few cells.

    The bias is estimated as Kumar, Liang and Ma do for the L1 error in the library beside "Verified Uncertainty
    Calibration" (arXiv 1909.10155): the share correct of each bin is redrawn from a normal around the observed one,
    and the ECE of the redrawn bins less the observed ECE is the bias. Their draws are replaced by the expectation
    that they estimate, the mean of a folded normal (Leone et al. 1961), so that the figure is the same every time.
    Not below 0.
    """
    gap = np.abs(bins.confidence - bins.correct)
    spread = np.sqrt(bins.correct * (1 - bins.correct) / bins.effective)
    redrawn = folded_normal_mean(gap, spread)
    plain = expected_calibration_error(bins)
    return max(0.0, 2 * plain - float(np.average(redrawn, weights=bins.cells)))


def risk_coverage(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, weight: npt.ArrayLike | None = None
) -> tuple[Floats, Floats, Floats]:
    """What answering only the surest cells gives: thresholds falling, coverage and risk at each, all [k].

    Coverage is the share of cells whose confidence is at least the threshold, risk their share of wrong answers
    (El-Yaniv and Wiener, JMLR 11 (2010) 1605–1641). Equal confidences are answered together. `weight` [n]: for how many
    cells each counts.
    """
    values = np.asarray(confidence, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    ordered = values[order]
    last_of_equals = np.append(np.diff(ordered) != 0, True) if len(ordered) else np.zeros(0, dtype=bool)
    counts = np.ones(len(ordered)) if weight is None else np.asarray(weight, dtype=np.float64)[order]
    answered = np.cumsum(counts)
    wrong = np.cumsum(counts * (1 - np.asarray(correct, dtype=np.float64)[order]))
    return (
        ordered[last_of_equals],
        (answered / max(answered[-1] if len(ordered) else 1.0, 1e-12))[last_of_equals],
        (wrong / answered)[last_of_equals],
    )


def _ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> Floats:
    whole = np.asarray(whole, dtype=np.float64)
    result: Floats = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return result


def folded_normal_mean(mean: Floats, spread: Floats) -> Floats:
    """Of |X| where X is normal with `mean` ≥ 0 and standard deviation `spread`, elementwise (Leone et al. 1961)."""
    wide = np.where(spread > 0, spread, 1.0)
    found = wide * np.sqrt(2 / np.pi) * np.exp(-(mean**2) / (2 * wide**2)) + mean * erf(mean / (wide * np.sqrt(2)))
    result: Floats = np.where(spread > 0, found, mean)
    return result
