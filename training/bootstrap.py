"""Intervals by resampling patients: cells of one patient are alike, and counting them as independent flatters a
model.
"""

import numpy as np
import numpy.typing as npt

from training.figures import Floats, Integers
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


def interval(values: npt.ArrayLike, level: float = LEVEL) -> tuple[float, float] | None:
    """Percentile interval of the draws in which the figure exists; None when it exists in none."""
    there = np.asarray(values, dtype=np.float64)
    there = there[~np.isnan(there)]
    if len(there) == 0:
        return None
    low, high = np.quantile(there, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
