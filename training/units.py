"""What is split and resampled: units, which are patients where they are known (training/grouping.py makes them).

A unit has one or more members, each a patient or, of nobody named, a picture with its exact copies. Members have names
that no other cell changes, so it is they that the frozen test set remembers.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd


def members(manifest: pd.DataFrame) -> npt.NDArray[np.object_]:
    """Of each row the patient, or without one the group of exact copies, [n]."""
    return np.where((manifest["patient"] != "").to_numpy(), manifest["patient"], manifest["group"]).astype(object)


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
