"""Drawing patients, not cells: what every test and interval of monitoring stands on.

Cells of one patient are alike, so that two hundred cells of twenty patients say about as much as twenty numbers do. A
resampling scheme that draws cells takes them for two hundred and finds shifts in quiet windows.
"""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def ordinals(patient: Integers) -> tuple[Integers, int]:
    """Patients [n], any numbers → the same as 0 … P−1 in order of their number [n], and P."""
    names, index = np.unique(patient, return_inverse=True)
    return index.astype(np.int64).reshape(-1), len(names)


def sum_by(values: Floats, index: Integers, groups: int) -> Floats:
    """values [n, d], index [n] in 0 … groups−1 → sums [groups, d], by a matrix of ones (no slower than bincount a column)."""
    ones = np.zeros((groups, len(index)))
    ones[index, np.arange(len(index))] = 1.0
    return np.asarray(ones @ values)


def patient_counts(index: Integers, columns: Integers, patients: int, width: int) -> Floats:
    """How often each patient has each column: index [n], columns [n] → counts [patients, width]."""
    flat = np.bincount(index * width + columns, minlength=patients * width)
    return flat.reshape(patients, width).astype(np.float64)


def bootstrap_weights(rng: np.random.Generator, patients: int, draws: int) -> Floats:
    """How often each patient is drawn when `patients` are drawn with replacement → [draws, patients]."""
    return rng.multinomial(patients, np.full(patients, 1.0 / patients), size=draws).astype(np.float64)


def percentile_interval(draws: Floats, confidence: float) -> tuple[float, float]:
    """draws [B] → the percentile interval (Efron and Tibshirani 1993, section 13.3)."""
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    return float(low), float(high)


def effective(weights: Floats) -> float:
    """How many equal weights say as much as these: (Σw)² / Σw² (Kish 1965, section 11.7)."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def permutation_count(per_hypothesis: int, hypotheses: int, q: float) -> int:
    """Permutations that a family needs: with fewer the smallest possible p could hardly pass its first threshold q/m."""
    return math.ceil(per_hypothesis * hypotheses / q)


def benjamini_hochberg(p: Floats) -> Floats:
    """p values [m] → adjusted ones [m]: rejecting those at most q keeps the false discovery rate at q.

    Benjamini and Hochberg 1995; adjusted as in Yekutieli and Benjamini 1999.
    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03, 0.5])).round(4).tolist()
    [0.04, 0.0533, 0.0533, 0.5]
    """
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return adjusted
