"""How well the model does now: from reviews where there are any, estimated where there are none; and what it refers.

Reviews of cells drawn at random speak for all cells. Reviews that somebody asked for are of the hard ones: they are
kept apart, shown, and held against nothing. The estimate is CBPE (confidence-based performance estimation: the mean
of the largest calibrated probability); it says what accuracy the model believes in, is as good as the calibration,
and is blind to concept drift.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from monitoring.findings import Family, Finding, insufficient, judged
from monitoring.judge_settings import JudgeSettings
from monitoring.resampling import bootstrap_sums, ordinals, patient_counts, percentile_interval, sum_by
from monitoring.window import NO_PATIENT, WindowArrays
from service.contract.records import ReviewRecord
from service.contract.reference import Reference
from service.contract.store import StoredPrediction

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Pair = tuple[StoredPrediction, ReviewRecord]

SAMPLED, REQUESTED, ESTIMATED = "reviewed_balanced_accuracy", "requested_balanced_accuracy", "estimated_accuracy"
REFERRED, OOD, WITHOUT_PATIENT = "share_referred", "share_ood", "share_without_patient"
QUALITY = (REFERRED, OOD, WITHOUT_PATIENT)


@dataclass(frozen=True, eq=False)
class Reviews:
    """Reviewed cells, latest answers last: predicted [n], label [n], patient [n] (ordinal).

    confidence [n]: the largest probability that the model gave, NaN where the record has none
    left_out  reviews of cells without a patient; other  reviews with a label that the model does not have
    """

    predicted: Integers
    label: Integers
    patient: Integers
    confidence: Floats
    left_out: int
    other: int


def reviews(
    reviewed: Sequence[tuple[StoredPrediction, ReviewRecord]],
    labels: Sequence[str],
    *,
    sampled: bool,
    most: int,
    patients: int | None = None,
) -> Reviews:
    """The latest `most` reviews of one kind, by the order of the answers, and of at most so many patients.

    Without test traffic and disputed answers.
    """
    kept = [
        (item, review)
        for item, review in reviewed
        if review.sampled == sampled and not item.disputed and not item.record.test
    ]
    kept = sorted(kept, key=lambda pair: pair[0].seq)[-most:]
    kept = kept if patients is None else _latest(kept, patients)
    index = {label: number for number, label in enumerate(labels)}
    ordinal: dict[str, int] = {}
    rows: list[tuple[int, int, int]] = []
    confidence: list[float] = []
    left_out = other = 0
    for item, review in kept:
        if not item.record.patient:
            left_out += 1
        elif review.label not in index or item.record.label not in index:
            other += 1
        else:
            patient = ordinal.setdefault(item.record.patient, len(ordinal))
            rows.append((index[item.record.label], index[review.label], patient))
            confidence.append(max(item.record.probabilities.values(), default=float("nan")))
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return Reviews(columns[0], columns[1], columns[2], np.array(confidence, dtype=np.float64), left_out, other)


def _latest(kept: list[Pair], patients: int) -> list[Pair]:
    """Those after the last answer that would bring in one patient more."""
    seen: set[str] = set()
    for number in range(len(kept) - 1, -1, -1):
        seen.add(kept[number][0].record.patient)
        if len(seen - {""}) > patients:
            return kept[number + 1 :]
    return kept


def reviewed_performance(
    items: Reviews,
    reference: Reference,
    settings: JudgeSettings,
    rng: np.random.Generator,
    labels: Sequence[str],
    *,
    sampled: bool,
    name: str | None = None,
) -> Finding:
    """Balanced accuracy over the classes with enough reviews; patients drawn anew.

    Drift when it is `performance_margin` below the reference's over the same classes, and the interval of the
    difference, with both groups' patients drawn anew, excludes none. Reviews that were asked for give a figure
    and are `insufficient`, however many there are.
    """
    name, classes = name or (SAMPLED if sampled else REQUESTED), len(labels)
    cells, patients = len(items.label), len(np.unique(items.patient))
    rare = np.bincount(items.label, minlength=classes) < settings.min_reviewed_per_class
    judgeable = ~rare & (reference.confusion.sum(axis=1) > 0)
    few = cells < settings.min_reviewed_cells or patients < settings.min_reviewed_patients
    if few or judgeable.sum() < 2:
        return insufficient(name, "performance", cells, patients, "too few reviews")
    index, _ = ordinals(items.patient)
    crossed = patient_counts(index, items.label * classes + items.predicted, patients, classes * classes)
    table = crossed.sum(axis=0).reshape(classes, classes)
    figure = float(balanced_accuracy(table, judgeable))
    expected = float(balanced_accuracy(reference.confusion, judgeable))
    drawn = balanced_accuracy(_draw_tables(crossed, classes, settings.bootstraps, rng), judgeable)
    interval = percentile_interval(drawn, settings.confidence)
    threshold = expected - settings.performance_margin
    sensitivity = np.diag(table) / np.maximum(table.sum(axis=1), 1.0)
    detail: dict[str, object] = {
        "accuracy": round(float(np.trace(table) / cells), 4),
        "sensitivity": {label: round(float(sensitivity[n]), 4) for n, label in enumerate(labels) if judgeable[n]},
        "reference": round(expected, 4),
        "reviews_without_patient": items.left_out,
        "reviews_with_other_labels": items.other,
    }
    if not sampled:
        detail["why"] = "cells somebody asked about do not speak for all cells"
        return Finding(name, "performance", "insufficient", figure, interval, None, cells, patients, detail)
    known = reference.patient != NO_PATIENT
    there, others = ordinals(reference.patient[known])
    held = reference.label * classes + reference.probabilities.argmax(axis=1)
    reference_drawn = balanced_accuracy(
        _draw_tables(patient_counts(there, held[known], others, classes * classes), classes, settings.bootstraps, rng),
        judgeable,
    )
    return judged(
        name,
        "performance",
        severity=severity_of_loss(
            expected - figure, reference_drawn - drawn, patients, settings.performance_margin, settings.confidence
        ),
        figure=figure,
        interval=interval,
        threshold=threshold,
        cells=cells,
        patients=patients,
        detail=detail,
    )


def estimated_accuracy(
    window: WindowArrays,
    reference: Reference,
    settings: JudgeSettings,
    rng: np.random.Generator,
    *,
    shifted: str,
) -> Finding:
    """CBPE against the same estimate on the reference.

    `shifted` says why the calibration cannot be relied on (then `unknown`), or nothing.
    """
    cells = window.with_patient()
    patients = cells.patients
    if patients < settings.min_patients:
        return insufficient(ESTIMATED, "performance", len(cells), patients, "too few patients")
    known = reference.patient != NO_PATIENT
    figure, drawn = _mean(cells.probabilities.max(axis=1), cells.patient, settings.bootstraps, rng)
    believed = reference.probabilities[known].max(axis=1).astype(np.float64)
    expected, reference_drawn = _mean(
        believed, reference.patient[known], settings.bootstraps, rng, reference.case_weight[known]
    )
    interval = percentile_interval(drawn, settings.confidence)
    threshold = expected - settings.performance_margin
    detail: dict[str, object] = {"estimate": True, "blind_to": "concept drift", "reference": round(expected, 4)}
    if shifted:
        detail["why"] = f"the probabilities were calibrated before: {shifted}"
        return Finding(ESTIMATED, "performance", "unknown", figure, interval, threshold, len(cells), patients, detail)
    return judged(
        ESTIMATED,
        "performance",
        severity=severity_of_loss(
            expected - figure, reference_drawn - drawn, patients, settings.performance_margin, settings.confidence
        ),
        figure=figure,
        interval=interval,
        threshold=threshold,
        cells=len(cells),
        patients=patients,
        detail=detail,
    )


def service_quality(window: WindowArrays, settings: JudgeSettings, rng: np.random.Generator) -> list[Finding]:
    """Shares of cells referred, out of distribution, and without a patient.

    The first two are of cells with a patient, and drift when the interval, patients drawn anew, lies above the bound.
    """
    cells = window.with_patient()
    patients = cells.patients
    family: Family = "quality"
    findings = []
    for name, flags, most in (
        (REFERRED, cells.refer, settings.max_share_referred),
        (OOD, cells.ood, settings.max_share_ood),
    ):
        if patients < settings.min_patients:
            findings.append(insufficient(name, family, len(cells), patients, "too few patients", most))
            continue
        figure, drawn = _mean(flags.astype(np.float64), cells.patient, settings.bootstraps, rng)
        low, high = percentile_interval(drawn, settings.confidence)
        findings.append(
            judged(
                name,
                family,
                severity=low / most,
                figure=figure,
                interval=(low, high),
                threshold=most,
                cells=len(cells),
                patients=patients,
            )
        )
    without = 1.0 - len(cells) / len(window)
    most = settings.max_share_without_patient
    findings.append(
        judged(
            WITHOUT_PATIENT,
            family,
            severity=without / most,
            figure=without,
            interval=None,
            threshold=most,
            cells=len(window),
            patients=patients,
        )
    )
    return findings


def balanced_accuracy(tables: Floats, classes: npt.NDArray[np.bool_]) -> Floats:
    """Confusion counts [..., C true, C predicted] → mean sensitivity over the chosen classes [C] that have cells,
    [...].

    >>> balanced_accuracy(np.array([[8.0, 2.0], [0.0, 5.0]]), np.array([True, True])).item()
    0.9
    """
    rows = tables.sum(axis=-1)
    right = np.diagonal(tables, axis1=-2, axis2=-1)
    present = classes & (rows > 0)
    sensitivity = np.where(present, right / np.maximum(rows, 1e-12), 0.0)
    return np.asarray(sensitivity.sum(axis=-1) / np.maximum(present.sum(axis=-1), 1))


def _draw_tables(crossed: Floats, classes: int, draws: int, rng: np.random.Generator) -> Floats:
    return bootstrap_sums(rng, crossed, draws).reshape(draws, classes, classes)


def _mean(
    values: Floats, patient: Integers, draws: int, rng: np.random.Generator, weight: Floats | None = None
) -> tuple[float, Floats]:
    """The mean over cells, and over cells of patients drawn anew [draws]; `weight` [n]: what each cell counts for."""
    index, _ = ordinals(patient)
    counts = np.ones(len(values)) if weight is None else weight
    sums = sum_by(np.column_stack([values * counts, counts]), index)
    drawn = bootstrap_sums(rng, sums, draws)
    return float(np.average(values, weights=counts)), drawn[:, 0] / drawn[:, 1]


def severity_of_loss(drop: float, drawn: Floats, patients: int, margin: float, confidence: float) -> float:
    """Effect and evidence of a loss; t rather than normal, because ten patients are few."""
    if drop <= 0:
        return 0.0
    half = float(stats.t.isf((1.0 - confidence) / 2.0, patients - 1) * drawn.std(ddof=1))
    return min(drop / margin, drop / max(half, 1e-12))
