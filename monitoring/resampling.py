"""Drawing patients, not cells: what every test and interval of monitoring stands on.

Cells of one patient are alike, so that two hundred cells of twenty patients say about as much as twenty numbers do. A
resampling scheme that draws cells takes them for two hundred and finds shifts in quiet windows.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy import sparse

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_DRAWN_TOGETHER = 1 << 20  # numbers: bounds the memory of a bootstrap, whatever the patients


def ordinals(patient: Integers) -> tuple[Integers, int]:
    """Patients [n], any numbers → the same as 0 … P−1 in order of their number [n], and P."""
    if len(patient) and patient.min() >= 0 and patient.max() < 4 * len(patient):  # counted faster than sorted
        there = np.bincount(patient) > 0
        return (np.cumsum(there, dtype=np.int64) - 1)[patient], int(there.sum())
    names, index = np.unique(patient, return_inverse=True)
    return index.astype(np.int64).reshape(-1), len(names)


def sum_by(values: Floats, index: Integers) -> Floats:
    """values [n, d], index [n] in which every number from 0 to P−1 occurs → sums [P, d]."""
    # A row of the sparse matrix says which patient a cell is of: one pass over the values, none to sort them.
    rows = np.arange(len(index) + 1)
    member = sparse.csr_array((np.ones(len(index)), index, rows), shape=(len(index), int(index.max()) + 1))
    return np.asarray(member.T @ values)


def patient_counts(index: Integers, columns: Integers, patients: int, width: int) -> Floats:
    """How often each patient has each column: index [n], columns [n] → counts [patients, width]."""
    flat = np.bincount(index * width + columns, minlength=patients * width)
    return flat.reshape(patients, width).astype(np.float64)


def bootstrap_weights(rng: np.random.Generator, patients: int, draws: int) -> Floats:
    """How often each patient is drawn when `patients` are drawn with replacement → [draws, patients]."""
    drawn = rng.integers(patients, size=(draws, patients)) + patients * np.arange(draws)[:, None]
    return np.bincount(drawn.reshape(-1), minlength=draws * patients).reshape(draws, patients).astype(np.float64)


def bootstrap_sums(rng: np.random.Generator, table: Floats, draws: int) -> Floats:
    """Sums of a table over patients drawn anew: [patients, w] → [draws, w]; `bootstrap_weights` a part at a time."""
    together = max(1, _DRAWN_TOGETHER // len(table))
    parts = [
        bootstrap_weights(rng, len(table), min(together, draws - start)) @ table for start in range(0, draws, together)
    ]
    return np.concatenate(parts)


def percentile_interval(draws: Floats, confidence: float) -> tuple[float, float]:
    """draws [B] → the percentile interval (Efron and Tibshirani 1993, section 13.3)."""
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    return float(low), float(high)


def effective(weights: Floats) -> float:
    """How many equal weights say as much as these: (Σw)² / Σw² (Kish 1965, section 11.7)."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def permutation_count(per_hypothesis: int, hypotheses: int, q: float) -> int:
    """Permutations that a family needs: with fewer the smallest possible p could hardly pass its first bound q/m."""
    return math.ceil(per_hypothesis * hypotheses / q)


class Permutations:
    """The same random orders for every hypothesis of a family that has as many residuals."""

    def __init__(self, rng: np.random.Generator, count: int) -> None:
        self._rng = rng
        self._count = count
        self._orders: dict[int, npt.NDArray[np.unsignedinteger]] = {}

    def of(self, size: int) -> npt.NDArray[np.unsignedinteger]:
        """[count, size], each row an order of 0 … size−1, in the smallest type that holds it."""
        if size not in self._orders:
            plain = np.broadcast_to(np.arange(size, dtype=np.min_scalar_type(size)), (self._count, size))
            self._orders[size] = self._rng.permuted(plain, axis=1)
        return self._orders[size]


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
