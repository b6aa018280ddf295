"""What is split and resampled: units, which are patients, or groups of exact copies where patients are unknown."""

import numpy as np
import numpy.typing as npt


def main_class(unit: npt.NDArray[np.str_], label: npt.NDArray[np.int64], classes: int) -> dict[str, int]:
    """The class that each unit stands for: the one of whose cells, in all units, it holds the largest share.

    A leukemic patient has healthy cells too, and a rare subtype must not vanish behind a common one. `unit` and `label`
    are [n]; of equal shares the later class counts.
    """
    names, row = np.unique(unit, return_inverse=True)
    held = np.zeros((len(names), classes))
    np.add.at(held, (row, label), 1)
    share = held / np.maximum(held.sum(axis=0), 1)
    last_of_largest = classes - 1 - share[:, ::-1].argmax(axis=1)
    return dict(zip(names.tolist(), last_of_largest.tolist(), strict=True))
