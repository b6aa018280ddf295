"""How far two readers agree on the cells that both have read. Pure.

Kappa: Cohen, A coefficient of agreement for nominal scales, Educational and Psychological Measurement 20 (1960).
Intervals: percentiles over patients drawn anew, for cells of one patient are alike.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from monitoring.resampling import bootstrap_weights, ordinals, patient_counts, percentile_interval
from service.contract.reading import Read, is_adjudicator

Floats = npt.NDArray[np.float64]

DRAWS = 2000
LEVEL = 0.95
MIN_PATIENTS = 10
"""Fewer say nothing about patients to come: then there is no interval."""


@dataclass(frozen=True)
class Agreement:
    """Two readers on `cells` cells of `patients` patients; `left_out` more cells name no patient.

    share, kappa  of equal labels, and beyond chance; kappa is None where chance alone would agree on everything
    interval      of kappa, None with too few patients
    confusion     counts [C, C]; rows are the labels of `readers[0]`, in the order of `labels`
    """

    readers: tuple[str, str]
    cells: int
    patients: int
    left_out: int
    share: float
    kappa: float | None
    interval: tuple[float, float] | None
    labels: tuple[str, ...]
    confusion: npt.NDArray[np.int64]


def agreements(read: Sequence[Read], seed: int) -> list[Agreement]:
    """Every two readers with a cell in common, adjudicators left out: they know that others disagreed."""
    common: dict[tuple[str, str], list[tuple[str, str, str]]] = defaultdict(list)
    for stored, reading in read:
        labels = {review.role: review.label for review in reading.readers if not is_adjudicator(review.role)}
        for one, other in combinations(sorted(labels), 2):
            common[one, other].append((stored.record.patient, labels[one], labels[other]))
    return [found for pair in sorted(common) if (found := _agreement(pair, common[pair], seed)) is not None]


def kappa(confusions: Floats) -> Floats:
    """Of confusion counts [n, C, C] → [n]; nan where chance alone would agree on everything.

    >>> kappa(np.array([[[20.0, 5.0], [10.0, 15.0]]])).round(3).tolist()
    [0.4]
    """
    total = confusions.sum(axis=(1, 2))
    observed = np.trace(confusions, axis1=1, axis2=2) / total
    chance = (confusions.sum(axis=1) * confusions.sum(axis=2)).sum(axis=1) / total**2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(chance < 1, (observed - chance) / (1 - chance), np.nan), dtype=np.float64)


def _agreement(readers: tuple[str, str], said: Sequence[tuple[str, str, str]], seed: int) -> Agreement | None:
    named = [row for row in said if row[0]]
    if not named:
        return None
    labels = sorted({label for _, *both in named for label in both})
    people = sorted({patient for patient, *_ in named})
    index, patients = ordinals(np.array([people.index(patient) for patient, *_ in named], dtype=np.int64))
    cell = np.array([labels.index(one) * len(labels) + labels.index(other) for _, one, other in named], dtype=np.int64)
    counts = patient_counts(index, cell, patients, len(labels) ** 2)
    table = counts.sum(axis=0).reshape(1, len(labels), len(labels))
    figure = float(kappa(table)[0])
    interval = None
    if patients >= MIN_PATIENTS and not np.isnan(figure):
        weights = bootstrap_weights(np.random.default_rng(seed), patients, DRAWS)
        drawn = kappa((weights @ counts).reshape(DRAWS, len(labels), len(labels)))
        drawn = drawn[~np.isnan(drawn)]
        interval = percentile_interval(drawn, LEVEL) if len(drawn) >= LEVEL * DRAWS else None
    return Agreement(
        readers=readers,
        cells=len(named),
        patients=patients,
        left_out=len(said) - len(named),
        share=float(np.trace(table[0]) / len(named)),
        kappa=None if np.isnan(figure) else figure,
        interval=interval,
        labels=tuple(labels),
        confusion=table[0].astype(np.int64),
    )
