"""What the covariate tests want to know of a patient's cells, from sums that are added up block by block.

A million embeddings fit in memory once and in single precision. Everything here is a sum over cells, so that they are
turned into double precision and centred a block at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitoring.resampling import ordinals, patient_counts, sum_by

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Values = npt.NDArray[np.floating]

BLOCK = 1 << 15  # cells: 16 MB of 64 dimensions


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over the cells of P patients in d dimensions.

    sizes    [P] cells
    mean     [P, d]
    squares  [P, d] of the cells around their patient's mean, what the answered class explains taken out
    cross    [d, d] products of the same, over all cells
    freedom  degrees of freedom of `cross`
    """

    sizes: Integers
    mean: Floats
    squares: Floats
    cross: Floats
    freedom: int

    @property
    def variance(self) -> Floats:
        """Pooled within patients [d]."""
        return np.asarray(np.maximum(np.diag(self.cross) / self.freedom, 1e-24))


def moments(parts: Sequence[tuple[Values, Flags]], index: Integers, answer: Integers) -> Moments:
    """The chosen cells of each part ([m, d] and chosen [m]), n of all; patient [n] from 0 to P − 1; any answer [n]."""
    answers, classes = ordinals(answer)
    sizes = np.bincount(index)
    width = parts[0][0].shape[1]
    by_patient, by_answer = np.zeros((len(sizes), width)), np.zeros((classes, width))
    for values, rows in _blocks(parts):
        _add_by(by_patient, values, index[rows])
        _add_by(by_answer, values, answers[rows])
    mean = by_patient / sizes[:, None]
    of_class = by_answer / np.bincount(answers)[:, None]
    counts = patient_counts(index, answers, len(sizes), classes)
    left = mean - counts @ of_class / sizes[:, None]  # a patient's mean once the classes are taken out
    squares, cross = np.zeros_like(by_patient), np.zeros((width, width))
    for values, rows in _blocks(parts):
        values -= of_class[answers[rows]]
        values -= left[index[rows]]
        cross += values.T @ values
        _add_by(squares, np.square(values, out=values), index[rows])
    return Moments(sizes, mean, squares, cross, max(len(index) - len(sizes) - classes + 1, 1))


def patient_means(parts: Sequence[tuple[Values, Flags]], index: Integers) -> Floats:
    """`moments`, its means [P, d] alone: a third of the work."""
    sums = np.zeros((int(index.max()) + 1, parts[0][0].shape[1]))
    for values, rows in _blocks(parts):
        _add_by(sums, values, index[rows])
    return np.asarray(sums / np.bincount(index)[:, None])


def _blocks(parts: Sequence[tuple[Values, Flags]]) -> Iterator[tuple[Floats, slice]]:
    """Chosen cells in double precision, to be changed at will, and where they stand among all that are chosen."""
    first = 0
    for values, chosen in parts:
        for start in range(0, len(values), BLOCK):
            block = values[start : start + BLOCK][chosen[start : start + BLOCK]].astype(np.float64)
            if len(block):
                yield block, slice(first, first + len(block))
                first += len(block)


def _add_by(sums: Floats, values: Floats, index: Integers) -> None:
    # A block has few of the patients: those it has are numbered anew, without sorting.
    here = np.bincount(index, minlength=len(sums)) > 0
    sums[here] += sum_by(values, (np.cumsum(here) - 1)[index])
