"""The long view: the last windows judged together, for what a dozen patients cannot show.

A window closes with about 200 cells, that is with a dozen patients, and three of five windows must be out. For a change
that every cell shows that is soon enough; a change of the case mix, of the embedding alone, or of a few patients, is
within what a dozen patients differ by, and five weak answers counted by threes are weaker than one answer of all of
them. So the newest windows are also judged as one. Neighbouring long views share most of their patients: they are one
answer that is given several times, so that they are held against stricter levels and none of them needs a second one.
Reviews are few and reach back as far as needed; of them the long view takes those of the last patients.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from monitoring import drift, mmd, novelty, performance
from monitoring.evidence import evidence
from monitoring.findings import LONG, Family, Finding, insufficient, judged
from monitoring.judge_settings import JudgeSettings
from monitoring.resampling import effective, ordinals, patient_counts
from monitoring.shift import label_shift, label_weight, solve_shares
from monitoring.window import NO_PATIENT, WindowArrays
from service.contract.records import ReviewRecord
from service.contract.reference import Reference
from service.contract.store import StoredPrediction

Floats = npt.NDArray[np.float64]

LABEL_SHIFT, EMBEDDING = LONG + "label_shift", LONG + drift.EMBEDDING
UNLIKE, MMD = LONG + novelty.NAME, LONG + mmd.NAME
REVIEWED = LONG + performance.SAMPLED
NAMES: Final[tuple[tuple[str, Family], ...]] = (
    (LABEL_SHIFT, "label_shift"),
    (EMBEDDING, "covariate"),
    (UNLIKE, "covariate"),
    (MMD, "covariate"),
    (REVIEWED, "performance"),
)
_PATIENT_CORRELATION = 0.5


def long_view(
    cells: WindowArrays,
    reference: Reference,
    settings: JudgeSettings,
    rng: np.random.Generator,
    labels: Sequence[str],
    known_shift: tuple[Finding, Sequence[Finding]] | None = None,
) -> list[Finding]:
    """Judge the last windows as one → findings named NAMES but the last one.

    Insufficient below `long_cells` of `long_patients`. `known_shift`: what label_shift and covariate said of these very
    cells, where somebody asked already.
    """
    patients, known = cells.patients, int((cells.patient != NO_PATIENT).sum())
    if patients < settings.long_patients or known < settings.long_cells:
        why = "the last windows together have too few cells or patients"
        return [insufficient(name, family, known, patients, why) for name, family in NAMES[:-1]]
    answers = replace(cells, embedding=cells.embedding[:, :0])
    if known_shift is None:
        plain, shares = label_shift(answers, reference, settings, rng, labels)
        covariate: Sequence[Finding] = drift.covariate(cells, reference, plain, shares, settings, rng)
    else:
        plain, covariate = known_shift
    embedding = _stricter(next(item for item in covariate if item.name == drift.EMBEDDING), settings)
    unlike = novelty.novelty(cells, reference, settings, UNLIKE)
    mix = _case_mix(answers, reference, settings, plain, labels)
    anything = mmd.mmd(cells, reference, settings, rng, MMD)
    changed = unlike.out or anything.out or any(_stricter(item, settings).out for item in covariate)
    if mix.judged and changed:
        why = "the cells themselves changed, so that the answers no longer tell their shares"
        mix = replace(mix, state="unknown", severity=None, detail={**mix.detail, "why": why})
    return [mix, embedding, unlike, anything]


def performance_now(
    reviewed: Sequence[tuple[StoredPrediction, ReviewRecord]],
    reference: Reference,
    settings: JudgeSettings,
    rng: np.random.Generator,
    labels: Sequence[str],
) -> Finding:
    """Balanced accuracy by the sampled reviews of the last `long_patients_reviewed`: older ones hide what is new."""
    latest = performance.reviews(
        reviewed, labels, sampled=True, most=settings.max_reviews, patients=settings.long_patients_reviewed
    )
    stricter = settings.model_copy(update={"confidence": 1.0 - settings.long_q})
    return performance.reviewed_performance(latest, reference, stricter, rng, labels, sampled=True, name=REVIEWED)


def _stricter(finding: Finding, settings: JudgeSettings) -> Finding:
    """A covariate finding held against the long view's floor and level: the same effect and the same p."""
    floor = settings.long_covariate_floor
    if finding.figure is None or not finding.judged:
        return replace(finding, name=EMBEDDING, threshold=floor)
    sure = evidence(finding.detail["p_adjusted"], settings.long_q)
    return judged(
        EMBEDDING,
        finding.family,
        severity=min(finding.figure / floor if floor > 0 else sure, sure),
        figure=finding.figure,
        interval=finding.interval,
        threshold=floor,
        cells=finding.cells,
        patients=finding.patients,
        detail=finding.detail,
    )


def _case_mix(
    window: WindowArrays,
    reference: Reference,
    settings: JudgeSettings,
    plain: Finding,
    labels: Sequence[str],
) -> Finding:
    """The shares of the answers against those that the model was calibrated for: Hotelling's T² over patients.

    What the model was calibrated for is a number in it and no estimate; that of how patients differ is one. A patient
    of n cells counts n / (1 + ρ (n − 1)) with ρ = 0.5, a cautious design effect (Kish 1965, section 8.2): a patient
    with ten times the cells says hardly more of the case mix. figure: the largest change of a class's share.
    """
    if not plain.judged:
        return replace(plain, name=LABEL_SHIFT)
    kept = window.take(~window.ood).with_patient()
    known = reference.patient >= 0
    here, weight = _shares(kept.patient, kept.predicted, np.ones(len(kept)), reference.classes)
    expected = label_weight(reference)[reference.label[known]]
    answered = reference.probabilities.argmax(axis=1)[known]
    there, others = _shares(reference.patient[known], answered, expected, reference.classes)
    mean, before = weight @ here / weight.sum(), others @ there / others.sum()
    away = np.vstack([here - mean, there - before])
    freedom = len(away) - 2
    covariance = away.T @ away / freedom / effective(weight)
    values, axes = np.linalg.eigh(covariance)
    seen = values > 1e-9 * values.max()  # the shares add up to one, and a class may be absent
    squared = float((((mean - before) @ axes[:, seen]) ** 2 / values[seen]).sum())
    rank = int(seen.sum())
    p = float(stats.f.sf(squared * (freedom - rank + 1) / (freedom * rank), rank, freedom - rank + 1))
    matrix = (reference.confusion / reference.confusion.sum(axis=1)[:, None]).T
    change = solve_shares(matrix, mean) - solve_shares(matrix, before)
    loudest = int(np.abs(change).argmax())
    size = float(abs(change[loudest]))
    return judged(
        LABEL_SHIFT,
        "label_shift",
        severity=min(size / settings.label_floor, evidence(p, settings.long_label_level)),
        figure=size,
        interval=None,
        threshold=settings.label_floor,
        cells=len(kept),
        patients=kept.patients,
        detail={"p": p, "class": labels[loudest], **{key: plain.detail[key] for key in ("shares", "reference_shares")}},
    )


def _shares(
    patient: npt.NDArray[np.int64], answer: npt.NDArray[np.int64], weight: Floats, classes: int
) -> tuple[Floats, Floats]:
    """Shares of the answers of each patient [P, C], and what the patient counts [P]; cells [n] weigh `weight`."""
    index, patients = ordinals(patient)
    counts = np.zeros((patients, classes))
    np.add.at(counts, (index, answer), weight)
    sizes = patient_counts(index, np.zeros_like(index), patients, 1)[:, 0]
    total = counts.sum(axis=1)
    usable = total > 0
    counts, sizes, total = counts[usable], sizes[usable], total[usable]
    return counts / total[:, None], total / (1 + _PATIENT_CORRELATION * (sizes - 1))
