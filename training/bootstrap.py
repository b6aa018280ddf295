"""Intervals by resampling patients: cells of one patient are alike, and counting them as independent flatters a
model.
"""

import numpy as np
import numpy.typing as npt

from training.figures import Flags, Floats, Integers, equal_parts, folded_normal_mean
from training.units import main_class

LEVEL = 0.95


def patient_weights(
    unit: npt.NDArray[np.str_], label: Integers, classes: int, *, draws: int, seed: int
) -> npt.NDArray[np.float32]:
    """How often each cell counts in each resampling, [draws, n].

    Units are drawn with replacement within their class (units.main_class), so that no draw is without a rare
    class; a cell counts as often as its unit is drawn. Stratified cluster bootstrap: Davison and Hinkley, Bootstrap
    Methods and their Application (1997), section 3.8. Deterministic by seed, whatever the order of the cells.
    """
    names, cell_unit = np.unique(unit, return_inverse=True)
    classes_of = main_class(unit, label, classes)
    stratum = np.array([classes_of[name] for name in names.tolist()], dtype=np.int64)
    rng = np.random.default_rng(seed)
    times = np.zeros((draws, len(names)), dtype=np.float32)
    for wanted in range(classes):
        members = np.flatnonzero(stratum == wanted)
        if len(members):
            times[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=draws)
    weights: npt.NDArray[np.float32] = times[:, cell_unit]
    return weights


def confusions(weight: npt.NDArray[np.float32], label: Integers, called: Integers, classes: int) -> Floats:
    """Confusion matrix of each resampling, [draws, C, C], from weights [draws, n]."""
    one_hot = np.zeros((len(label), classes**2), dtype=np.float32)
    one_hot[np.arange(len(label)), label * classes + called] = 1
    # Counts are small integers: float32 sums of them are exact.
    counts: Floats = (weight @ one_hot).astype(np.float64)
    return counts.reshape(-1, classes, classes)


def calibration_error_interval(
    weight: npt.NDArray[np.float32],
    confidence: npt.ArrayLike,
    correct: Flags,
    case_weight: npt.ArrayLike | None = None,
) -> tuple[float, float]:
    """Interval of figures.debiased_calibration_error, not below 0, from weights [draws, n] of n ≥ 1 cells.

    A resampling is noisy twice: the cells were drawn once, and now again. An error cannot be less than 0, so the noise
    of the draws lifts them above the figure; their spread is kept and laid around it (Efron and Tibshirani, An
    Introduction to the Bootstrap (1993), chapter 10). The bins are those of the cells as they are.
    """
    values = np.asarray(confidence, dtype=np.float64)
    parts = equal_parts(values)
    member = np.zeros((len(values), len(parts)))
    for k, part in enumerate(parts):
        member[part, k] = 1
    drawn = np.concatenate([np.ones((1, len(values))), weight.astype(np.float64)])  # the first: as they are
    if case_weight is not None:
        drawn *= np.asarray(case_weight, dtype=np.float64)
    cells = drawn @ member  # (1 + draws, bins)
    some = np.maximum(cells, 1)
    said, right = (drawn @ (member * column[:, None]) / some for column in (values, correct.astype(np.float64)))
    gap = np.abs(said - right)
    redrawn = folded_normal_mean(gap, np.sqrt(right * (1 - right) / some))
    errors = ((2 * gap - redrawn) * cells).sum(axis=1) / np.maximum(cells.sum(axis=1), 1)
    around = errors[1:] - errors[1:].mean() + errors[0]
    low, high = np.quantile(around, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return max(0.0, float(low)), max(0.0, float(high))


def interval(values: npt.ArrayLike, level: float = LEVEL) -> tuple[float, float] | None:
    """Percentile interval of the draws in which the figure exists; None when it exists in none."""
    there = np.asarray(values, dtype=np.float64)
    there = there[~np.isnan(there)]
    if len(there) == 0:
        return None
    low, high = np.quantile(there, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
