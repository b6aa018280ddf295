"""Have the cells changed in any way at all? The maximum mean discrepancy of patients (MMD; Gretton et al. 2012).

Each patient is the mean of a Gaussian kernel's features over the patient's cells (random Fourier features; Rahimi and
Recht 2007). The window's patients are held against the reference's, reweighted so that their shares of the answers are
the window's (calibration weights; Deville and Särndal 1992), and the distance against what it is when the remainders of
the patients, once their shares are accounted for, are permuted (Freedman and Lane 1983). The test of drift.py asks
whether the mean moved; this one also sees a new kind of cell in few patients, whose mean hardly moves
(benchmarks/results/covariate_tests.md compares them).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import pdist

from monitoring.evidence import evidence
from monitoring.findings import Finding, insufficient, judged
from monitoring.judge_settings import JudgeSettings
from monitoring.resampling import Permutations, ordinals, patient_counts, percentile_interval, sum_by
from monitoring.window import NO_PATIENT, WindowArrays
from service.contract.reference import Reference

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

NAME = "embedding_mmd"
_FREQUENCIES = 256
_MOST_PATIENTS = 500
"""What five hundred patients do not show is no change that anybody has to act on."""
_MOST_CELLS = 32
"""Of a patient: a mean over more of them is hardly better known, since patients differ."""
_WIDTH_CELLS = 500
_BLOCK = 1 << 11  # cells: 8 MB of features
_RIDGE = 1e-3


@dataclass(frozen=True, eq=False)
class Discrepancy:
    """MMD of a window's patients and the reference's.

    p         of no change, by permutation
    effect    the distance without bias, in deviations of a patient (all directions together): 0 is typical of none
    interval  of the effect, by bootstrap of the patients in each group
    """

    p: float
    effect: float
    interval: tuple[float, float]


def mmd(
    window: WindowArrays, reference: Reference, settings: JudgeSettings, rng: np.random.Generator, name: str = NAME
) -> Finding:
    """Judge the window's cells.

    figure: see Discrepancy.effect. `unknown` when the reference has too few patients.
    """
    known = reference.patient != NO_PATIENT
    cells, patients, floor = int((window.patient != NO_PATIENT).sum()), window.patients, settings.mmd_floor
    if patients < settings.min_patients:
        return insufficient(name, "covariate", cells, patients, "too few patients", floor)
    if len(np.unique(reference.patient[known])) < settings.min_reference_patients:
        why = "the reference has too few patients"
        return Finding(name, "covariate", "unknown", None, None, floor, cells, patients, {"why": why})
    here, there = _some(window.patient, rng), _some(reference.patient, rng)
    first, count = ordinals(window.patient[here])
    second, others = ordinals(reference.patient[there])
    index = np.concatenate([first, second + count])
    answer = np.concatenate([window.predicted[here], reference.probabilities[there].argmax(axis=1)])
    counts = patient_counts(index, answer, count + others, reference.classes)
    values = np.concatenate([window.embedding[here], reference.embedding[there]]).astype(np.float64)
    values /= np.maximum(reference.embedding[known].std(axis=0, dtype=np.float64), 1e-12)
    mean = _mean_features(values, index, count, rng)
    found = discrepancy(
        mean,
        counts / counts.sum(axis=1, keepdims=True),
        np.arange(count + others) < count,
        orders=Permutations(rng, math.ceil(settings.permutations_per_hypothesis / settings.mmd_level)),
        bootstraps=settings.bootstraps,
        confidence=settings.confidence,
        rng=rng,
    )
    sure = evidence(found.p, settings.mmd_level)
    return judged(
        name,
        "covariate",
        severity=min(found.effect / floor if floor > 0 else sure, sure),
        figure=found.effect,
        interval=found.interval,
        threshold=floor,
        cells=cells,
        patients=patients,
        detail={"p": found.p},
    )


def discrepancy(
    mean: Floats,
    mix: Floats,
    new: Flags,
    *,
    orders: Permutations,
    bootstraps: int,
    confidence: float,
    rng: np.random.Generator,
) -> Discrepancy:
    """Mean features [P, F] of patients with shares of answers [P, C]; new [P]: whether the patient is the window's."""
    contrast = _contrast(mix, new)
    rest = mix[:, mix.any(axis=0)]
    left = mean - rest @ np.linalg.lstsq(rest, mean, rcond=None)[0]
    left *= math.sqrt(len(left) / max(len(left) - rest.shape[1], 1))
    # Only inner products of patients matter: [P, P] instead of [P, F].
    products = left @ left.T
    observed = float(((contrast @ mean) ** 2).sum())
    directions = contrast[orders.of(len(left))]
    null = np.einsum("bi,bi->b", directions @ products, directions)
    p = (1 + int((null >= observed * (1 - 1e-9)).sum())) / (len(null) + 1)
    deviation = float(np.trace(products)) / len(left)
    bias = float(null.mean())
    # A draw has the noise of the estimate and its own.
    drawn = np.stack([_contrast(mix, new, *_drawn(new, rng)) for _ in range(bootstraps)])
    lengths = np.einsum("bi,bi->b", drawn @ (mean @ mean.T), drawn) - 2.0 * bias
    low, high = percentile_interval(np.sqrt(np.maximum(lengths, 0.0) / deviation), confidence)
    return Discrepancy(p, math.sqrt(max(observed - bias, 0.0) / deviation), (low, high))


def _contrast(mix: Floats, new: Flags, here: Floats | None = None, there: Floats | None = None) -> Floats:
    """Weights [P] of the window's mean less the reference's, the reference's with the window's mix.

    here, there [P]: how often a patient counts in either group; by default once.
    """
    here = new.astype(np.float64) if here is None else here
    there = (~new).astype(np.float64) if there is None else there
    here, there = here / here.sum(), there / there.sum()
    gram = (mix * there[:, None]).T @ mix + _RIDGE * np.eye(mix.shape[1])
    return np.asarray(here - there * (mix @ np.linalg.solve(gram, here @ mix)))


def _drawn(new: Flags, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """How often each patient of either group is drawn when as many are drawn with replacement: [P], [P]."""
    found = []
    for group in (new, ~new):
        members = np.flatnonzero(group)
        drawn = members[rng.integers(len(members), size=len(members))]
        found.append(np.bincount(drawn, minlength=len(new)).astype(np.float64))
    return found[0], found[1]


def _some(patient: Integers, rng: np.random.Generator) -> Integers:
    """Rows of up to _MOST_CELLS cells of each of up to _MOST_PATIENTS patients."""
    names = np.unique(patient[patient != NO_PATIENT])
    if len(names) > _MOST_PATIENTS:
        names = rng.choice(names, _MOST_PATIENTS, replace=False)
    rows = np.flatnonzero(np.isin(patient, names))
    rows = rows[rng.permutation(len(rows))]
    rows = rows[np.argsort(patient[rows], kind="stable")]
    sizes = np.unique(patient[rows], return_counts=True)[1]
    place = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.asarray(np.sort(rows[place < _MOST_CELLS]))


def _mean_features(values: Floats, index: Integers, window: int, rng: np.random.Generator) -> Floats:
    """values [n, E] of patients [n], of whom the first are the `window`'s → means [P, 2 × _FREQUENCIES] of features
    whose inner products are about a Gaussian kernel's. Its width is the median distance of the reference's cells.
    """
    cells = np.flatnonzero(index >= window)
    cells = cells[rng.permutation(len(cells))[:_WIDTH_CELLS]]
    distance = pdist(values[cells], "sqeuclidean")
    width = float(np.median(distance)) or 1.0
    frequencies = rng.normal(size=(values.shape[1], _FREQUENCIES)) * math.sqrt(2.0 / width)
    sizes = np.bincount(index)
    sums = np.zeros((len(sizes), 2 * _FREQUENCIES))
    for start in range(0, len(values), _BLOCK):
        phase = values[start : start + _BLOCK] @ frequencies
        part = sum_by(np.hstack([np.cos(phase), np.sin(phase)]), index[start : start + _BLOCK])
        sums[: len(part)] += part
    return np.asarray(sums / sizes[:, None] / math.sqrt(_FREQUENCIES))
