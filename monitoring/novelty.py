"""Are there patients unlike any that the reference has? A new kind of cell in few patients moves no mean by much.

Each patient's mean embedding is predicted from the patient's shares of the answers, by the reference's patients (under
label shift alone it is linear in them, see drift.py). What is left has a distance along the principal axes of the
reference's own remainders and one off them (T² and Q of Jackson and Mudholkar 1979), each less what a patient's few
cells make uncertain. The reference's distances are measured with the patient left out, so that they are those of a new
patient; their logarithms are about normal. A patient beyond the upper `novel_tail` of the predictive distribution
(Student's t: the reference is a sample too) in either is unlike them, and the share of such patients is held against
that tail, by the exact binomial test, and against a floor.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from monitoring.evidence import evidence
from monitoring.findings import Finding, insufficient, judged
from monitoring.judge_settings import JudgeSettings
from monitoring.moments import moments, patient_means
from monitoring.resampling import ordinals, patient_counts
from monitoring.window import NO_PATIENT, WindowArrays
from service.contract.reference import Reference

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

NAME = "unlike_patients"
_FOLDS = 50
_EXPLAINED = 0.95
_RIDGE = 1e-3
_TINY = 1e-12


def novelty(window: WindowArrays, reference: Reference, settings: JudgeSettings, name: str = NAME) -> Finding:
    """Judge the window's patients.

    figure: the share of them that are unlike the reference's, with its exact interval (Clopper and Pearson 1934).
    `unknown` when the reference has too few patients to say how patients differ.
    """
    mine, known = window.patient != NO_PATIENT, reference.patient != NO_PATIENT
    cells, patients = int(mine.sum()), window.patients
    floor = settings.novel_floor
    if patients < settings.min_patients:
        return insufficient(name, "covariate", cells, patients, "too few patients", floor)
    answered = reference.probabilities.argmax(axis=1)
    there = _patients(reference.embedding, known, reference.patient[known], answered[known], reference.classes)
    if len(there.sizes) < max(settings.min_reference_patients, 2 * reference.classes):
        why = "the reference has too few patients"
        return Finding(name, "covariate", "unknown", None, None, floor, cells, patients, {"why": why})
    here = _patients(
        window.embedding, mine, window.patient[mine], window.predicted[mine], reference.classes, there.within
    )
    usual, found, n = np.log(_left_out(there)), np.log(_distances(there, here)), len(there.sizes)
    limit = usual.mean(axis=0) + usual.std(axis=0, ddof=1) * np.sqrt(1 + 1 / n) * stats.t.isf(
        settings.novel_tail / 2, n - 1
    )
    unlike = int((found > limit).any(axis=1).sum())
    figure = unlike / patients
    p = float(stats.binom.sf(unlike - 1, patients, settings.novel_tail))
    exact = stats.binomtest(unlike, patients).proportion_ci(settings.confidence)
    return judged(
        name,
        "covariate",
        severity=min(figure / floor, evidence(p, settings.long_q)),
        figure=figure,
        interval=(float(exact.low), float(exact.high)),
        threshold=floor,
        cells=cells,
        patients=patients,
        detail={"p": p, "unlike": unlike, "expected": round(patients * settings.novel_tail, 3)},
    )


@dataclass(frozen=True, eq=False)
class _Patients:
    """P patients: means of the embedding [P, E], shares of the answers [P, C], cells [P]; variance of the cells around
    their patients [E, E], pooled.
    """

    mean: Floats
    mix: Floats
    sizes: Floats
    within: Floats

    def take(self, chosen: Flags) -> "_Patients":
        return _Patients(self.mean[chosen], self.mix[chosen], self.sizes[chosen], self.within)


def _patients(
    embedding: npt.NDArray[np.floating],
    chosen: Flags,
    patient: Integers,
    answer: Integers,
    classes: int,
    within: Floats | None = None,
) -> _Patients:
    """Of the chosen cells; `patient` and `answer` of each of them. `within` where these patients' own is not wanted."""
    index, number = ordinals(patient)
    counts = patient_counts(index, answer, number, classes)
    sizes = counts.sum(axis=1)
    if within is None:
        found = moments([(embedding, chosen)], index, answer)
        return _Patients(found.mean, counts / sizes[:, None], sizes, found.cross / found.freedom)
    return _Patients(patient_means([(embedding, chosen)], index), counts / sizes[:, None], sizes, within)


def _left_out(every: _Patients) -> Floats:
    """The distances [P, 2] of each patient from the others: one by one, or in folds where there are many."""
    folds = np.arange(len(every.sizes)) % min(_FOLDS, len(every.sizes))
    found = np.empty((len(folds), 2))
    for fold in range(folds.max() + 1):
        out = folds == fold
        found[out] = _distances(every.take(~out), every.take(out))
    return found


def _distances(these: _Patients, other: _Patients) -> Floats:
    """How far the other patients are from what these predict for them: [Q, 2], along the axes and off them."""
    gram = these.mix.T @ these.mix + _RIDGE * np.eye(these.mix.shape[1])
    fitted = np.linalg.solve(gram, these.mix.T @ these.mean)
    left = these.mean - these.mix @ fitted
    values, axes = np.linalg.eigh(left.T @ left / max(len(left) - these.mix.shape[1], 1))
    values, axes = np.maximum(values[::-1], _TINY), axes[:, ::-1]
    kept = int(np.searchsorted(np.cumsum(values) / values.sum(), _EXPLAINED)) + 1
    leverage = 1.0 + np.einsum("ij,jk,ik->i", other.mix, np.linalg.inv(gram), other.mix)
    turned = (other.mean - other.mix @ fitted) @ axes
    # Few cells make a mean uncertain: that is no distance.
    cell = np.maximum(np.einsum("ij,ik,kj->j", axes, these.within, axes), 0.0)
    between = np.maximum(values - cell * float((1.0 / these.sizes).mean()), 0.05 * values)
    variance = between + cell / other.sizes[:, None]
    along = (turned[:, :kept] ** 2 / variance[:, :kept]).sum(axis=1)
    off = (turned[:, kept:] ** 2).sum(axis=1) / np.maximum(variance[:, kept:].sum(axis=1), _TINY)
    return np.asarray(np.sqrt(np.maximum(np.column_stack([along, off]) / leverage[:, None], _TINY)))
