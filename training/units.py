"""What is split and resampled: units, which are patients, or groups of exact duplicates where patients are unknown."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def rarest_class(unit: npt.NDArray[np.str_], label: npt.NDArray[np.int64], classes: int) -> dict[str, int]:
    """The class that each unit stands for: of the labels of its cells, the one with the fewest cells in all.

    A patient with blasts has healthy cells too; a rare subtype must not vanish behind them. `unit` and `label` are
    [n]; ties go to the later class.
    """
    count = np.bincount(label, minlength=classes)
    result: dict[str, int] = {}
    for name, found in zip(unit.tolist(), label.tolist(), strict=True):
        held = result.get(name)
        if held is None or (count[found], -found) < (count[held], -held):
            result[name] = found
    return result


def ordinals(unit: npt.NDArray[np.str_], names: Sequence[str] | None = None) -> npt.NDArray[np.int64]:
    """Position of each unit in `names`, by default in the sorted list of all; [n]."""
    known = np.unique(unit) if names is None else np.asarray(names)
    return np.searchsorted(known, unit).astype(np.int64)
