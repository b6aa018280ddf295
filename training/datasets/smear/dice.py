"""Randomness with one generator a row, consumed in the same order by every row.

A row's numbers depend on its own seed alone, never on what else is in the batch, yet everything is computed on arrays.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

Floats = npt.NDArray[np.float64]


class Dice:
    """`len(generators)` rows of up to `capacity` uniform numbers; each call takes the next columns."""

    def __init__(self, generators: Sequence[np.random.Generator], capacity: int) -> None:
        self._uniform = np.stack([generator.random(capacity) for generator in generators])
        self._used = 0

    def uniform(self, low: npt.ArrayLike = 0.0, high: npt.ArrayLike = 1.0, size: int | None = None) -> Floats:
        """Uniform in [low, high): [n], or [n, size]; bounds broadcast from scalars, [n] or [n, 1]."""
        drawn = self._take(size)
        low, high = np.asarray(low), np.asarray(high)
        return np.asarray(low + (high - low) * drawn)

    def normal(self, mean: npt.ArrayLike = 0.0, sd: npt.ArrayLike = 1.0, size: int | None = None) -> Floats:
        """Normal, cut at ± 3 SD so that no picture is a freak: [n], or [n, size]."""
        return np.asarray(np.asarray(mean) + np.asarray(sd) * np.clip(ndtri(self._take(size)), -3.0, 3.0))

    def happens(self, probability: npt.ArrayLike, size: int | None = None) -> npt.NDArray[np.bool_]:
        """True with the given probability: [n], or [n, size]."""
        return self._take(size) < np.asarray(probability)

    def count(self, low: npt.ArrayLike, high: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Integers in [low, high], both included: [n]."""
        return np.floor(self.uniform(low, np.asarray(high) + 1.0)).astype(np.int64)

    def _take(self, size: int | None) -> Floats:
        width = 1 if size is None else size
        if self._used + width > self._uniform.shape[1]:
            raise ValueError(f"dice capacity {self._uniform.shape[1]} is used up")
        columns = self._uniform[:, self._used : self._used + width]
        self._used += width
        return np.asarray(columns[:, 0] if size is None else columns)
