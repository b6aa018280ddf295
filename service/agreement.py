"""How far two models agree on the same cells. Pure.

Kappa: Cohen, A coefficient of agreement for nominal scales, Educational and Psychological Measurement 20 (1960).
Intervals: percentiles over resamplings of patients, since cells of one patient are alike (Davison and Hinkley,
Bootstrap Methods and their Application (1997), section 3.8).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.contract.shadows import Pair

DRAWS = 2000
SEED = 20201
LEVEL = 0.95
MIN_PATIENTS = 10
"""Fewer say nothing about patients to come: then there is no interval."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A value and its interval; nan where it is not defined, None where there are too few patients."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Agreement:
    """n cells of so many patients (cells without one count as one each), and what the two models say of them.

    confusion [C, C]: rows are the label sent, columns the shadow's. difference: of the malignant probability, absolute.
    """

    cells: int
    patients: int
    labels: tuple[str, ...]
    confusion: npt.NDArray[np.int64]
    label: Figure
    kappa: Figure
    malignant: Figure
    refer: Figure
    difference: Figure


def agreement(pairs: Sequence[Pair], malignant: Sequence[str]) -> Agreement:
    """Compare, with `malignant` labels of both models. Deterministic. Raises ValueError without pairs."""
    if not pairs:
        raise ValueError("nothing to compare")
    labels = tuple(pairs[0].live.probabilities)
    index = {label: number for number, label in enumerate(labels)}
    units, unit = np.unique([pair.live.patient or pair.live.record_id for pair in pairs], return_inverse=True)
    size = len(labels)
    live = np.array([index[pair.live.label] for pair in pairs])
    shadow = np.array([index[pair.shadow.label] for pair in pairs])
    # What is summed over cells, by unit: the confusion, cells, agreements on malignancy and referral, differences.
    sums = np.zeros((len(units), size * size + 4))
    np.add.at(sums, (unit, live * size + shadow), 1)
    is_malignant = np.array([label in malignant for label in labels])
    per_cell = np.column_stack(
        [
            np.ones(len(pairs)),
            is_malignant[live] == is_malignant[shadow],
            [pair.live.refer == pair.shadow.refer for pair in pairs],
            [abs(pair.live.malignant_probability - pair.shadow.malignant_probability) for pair in pairs],
        ]
    )
    np.add.at(sums[:, size * size :], unit, per_cell)
    total = sums.sum(axis=0)
    rng = np.random.default_rng(SEED)
    weights = rng.multinomial(len(units), np.full(len(units), 1 / len(units)), size=DRAWS).astype(np.float64)
    drawn = np.vstack([total, weights @ sums])
    confusions = drawn[:, : size * size].reshape(-1, size, size)

    def figure(values: Floats) -> Figure:
        if len(units) < MIN_PATIENTS or np.isnan(values).mean() > 1 - LEVEL:
            return Figure(float(values[0]), None)
        low, high = np.nanquantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Figure(float(values[0]), (float(low), float(high)))

    def share(column: int) -> Figure:
        return figure(drawn[:, size * size + column] / drawn[:, size * size])

    return Agreement(
        cells=len(pairs),
        patients=len(units),
        labels=labels,
        confusion=confusions[0].astype(np.int64),
        label=figure(np.trace(confusions, axis1=1, axis2=2) / confusions.sum(axis=(1, 2))),
        kappa=figure(kappa(confusions)),
        malignant=share(1),
        refer=share(2),
        difference=share(3),
    )


def kappa(confusions: Floats) -> Floats:
    """Of confusion matrices [n, C, C] → [n]; nan where chance alone would agree on everything."""
    total = confusions.sum(axis=(1, 2))
    observed = np.trace(confusions, axis1=1, axis2=2) / total
    chance = (confusions.sum(axis=1) * confusions.sum(axis=2)).sum(axis=1) / total**2
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)
    return found
