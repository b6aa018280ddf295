"""Are the answers as often right as they say? The model's probabilities against random reviews of its answers. Pure.

A model that readers contradict more often than its own probabilities admit is not only wrong but does not know it: what
it refers, and what it estimates of itself, can no longer be relied on. The figure is the mean of (largest probability −
1 if readers agree, else 0) over the reviewed cells, less what the reference's cells of the same classes gave: 0.05 is
five in a hundred more wrong answers than announced. The reference's classes are brought to the reviewed cells' shares,
as readers see them (direct standardisation): where only the case mix changes, each class is as well calibrated as it
was, and that is what recalibrated priors mend, not a retraining. What remains is a change of the cells or of the
concept. Drift here alerts and starts nothing by itself: where it costs anything the balanced accuracy of the same
reviews says so.

The expected calibration error in the detail is over bins of about equal number (adaptive bins: Nguyen and O'Connor
2015, arXiv 1508.05154), less the bias that few cells give any ECE (Kumar et al. 2019, arXiv 1909.10155). The bias is
what patients drawn anew add to it (Efron and Tibshirani 1993, section 10.2): cells of one patient are right or wrong
together, and to count them as independent would debias too little.
"""

import numpy as np
import numpy.typing as npt

from monitoring.findings import Finding, insufficient, judged
from monitoring.judge_settings import JudgeSettings
from monitoring.performance import Reviews, severity_of_loss
from monitoring.resampling import bootstrap_sums, ordinals, percentile_interval, sum_by
from monitoring.window import NO_PATIENT
from service.contract.reference import Reference

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

NAME = "reviewed_calibration"

_BINS = 10
_BIN_CELLS = 25  # a bin's share of right answers is then known to ± 10 points


def reviewed_calibration(
    items: Reviews, reference: Reference, settings: JudgeSettings, rng: np.random.Generator
) -> Finding:
    """How much more often wrong the model is than it says; `items` are randomly sampled reviews of its answers.

    Drift when the figure is `calibration_floor` or more, and the interval of the figure, with both groups' patients
    drawn anew, excludes none. Classes of which the reference has hardly any cells do not enter.
    """
    known = reference.patient != NO_PATIENT
    label = reference.label[known]
    held = np.bincount(label, minlength=reference.classes)
    usable = held >= settings.min_reviewed_per_class
    kept = usable[items.label] & np.isfinite(items.confidence)
    patient, _ = ordinals(items.patient[kept])
    cells, patients = int(kept.sum()), len(np.unique(patient))
    if cells < settings.min_reviewed_cells or patients < settings.min_reviewed_patients:
        return insufficient(NAME, "performance", cells, patients, "too few reviews", settings.calibration_floor)
    confidence, right = items.confidence[kept], (items.predicted == items.label)[kept].astype(np.float64)
    classes = np.eye(reference.classes)
    sums = sum_by(np.column_stack([confidence - right, classes[items.label[kept]]]), patient)

    probabilities = reference.probabilities[known].astype(np.float64)
    gap = probabilities.max(axis=1) - (probabilities.argmax(axis=1) == label)
    others, _ = ordinals(reference.patient[known])
    expected = sum_by(np.column_stack([classes[label] * gap[:, None], classes[label]]), others)

    plain = np.divide(expected.sum(axis=0)[: len(held)], held, out=np.zeros(len(held)), where=held > 0)
    figure = float(_excess(sums.sum(axis=0), expected.sum(axis=0), plain))
    drawn = _excess(
        bootstrap_sums(rng, sums, settings.bootstraps), bootstrap_sums(rng, expected, settings.bootstraps), plain
    )
    error, table = calibration_error(confidence, right, patient, settings.bootstraps, rng)
    claimed, correct = float(confidence.mean()), float(right.mean())
    return judged(
        NAME,
        "performance",
        severity=severity_of_loss(figure, drawn, patients, settings.calibration_floor, settings.confidence),
        figure=figure,
        interval=percentile_interval(drawn, settings.confidence),
        threshold=settings.calibration_floor,
        cells=cells,
        patients=patients,
        detail={
            "claimed": round(claimed, 4),
            "accuracy": round(correct, 4),
            "reference_gap": round(claimed - correct - figure, 4),
            "ece": round(error, 4) if cells >= settings.min_ece_cells else None,
            "bins": table,
        },
    )


def calibration_error(
    confidence: Floats, right: Floats, patient: Integers, draws: int, rng: np.random.Generator
) -> tuple[float, list[dict[str, float]]]:
    """confidence [n], right [n] of 0 and 1, patient [n] as 0 … P−1 → the debiased ECE, not below 0, and its bins."""
    bins = max(1, min(_BINS, len(confidence) // _BIN_CELLS))
    edges = np.unique(np.quantile(confidence, np.arange(1, bins) / bins))
    number = np.searchsorted(edges, confidence, side="right")  # equal confidences stay together
    member = np.eye(len(edges) + 1)[number]
    sums = sum_by(np.column_stack([member * (confidence - right)[:, None], member]), patient)
    plain = float(_error(sums.sum(axis=0)))
    debiased = max(0.0, 2 * plain - float(_error(bootstrap_sums(rng, sums, draws)).mean()))
    return debiased, [
        {
            "cells": int(inside.sum()),
            "claimed": round(float(confidence[inside].mean()), 4),
            "accuracy": round(float(right[inside].mean()), 4),
        }
        for inside in member.T.astype(np.bool_)
        if inside.any()
    ]


def _error(sums: Floats) -> Floats:
    """[..., gaps of B bins and their cells] → ECE [...]."""
    bins = sums.shape[-1] // 2
    return np.asarray(np.abs(sums[..., :bins]).sum(axis=-1) / sums[..., bins:].sum(axis=-1))


def _excess(here: Floats, there: Floats, plain: Floats) -> Floats:
    """The gap here less the reference's at the same shares of the classes, [...].

    here [..., gap and cells of C classes], there [..., gaps of C classes and their cells]; a class that a draw of the
    reference has no cells of keeps its gap `plain` [C].
    """
    classes = len(plain)
    cells = there[..., classes:]
    gaps = np.where(cells > 0, there[..., :classes] / np.maximum(cells, 1.0), plain)
    return np.asarray((here[..., 0] - (here[..., 1:] * gaps).sum(axis=-1)) / here[..., 1:].sum(axis=-1))
