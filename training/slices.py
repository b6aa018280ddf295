"""What the network is worth on parts of the test set: by label, site, stain and scanner; small parts say so instead."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from training import bootstrap, figures
from training.figures import Flags, Floats, Integers

ENOUGH = 500
"""Cells below which a slice's figures, its calibration above all, are noise."""
INSUFFICIENT = "insufficient"


def slice_table(
    kinds: Mapping[str, npt.NDArray[np.str_]],
    label: Integers,
    probabilities: npt.NDArray[np.float32],
    malignant: Flags,
    unit: npt.NDArray[np.str_],
    weight: npt.NDArray[np.float32],
    enough: int = ENOUGH,
    case_weight: Floats | None = None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """By kind and name: cells, patients, state, and with enough cells its figures, each {value, interval}.

    Args:
        kinds: of each kind of slice what each cell belongs to, [n], "" where unknown.
        label: true label [n].
        probabilities: calibrated, [n, C].
        malignant: which labels are, [C].
        unit: patient of each cell, [n].
        weight: resamplings of patients [draws, n], bootstrap.patient_weights.
        enough: cells that a slice needs.
        case_weight: for how many cells each counts in calibration errors [n] (training.priors); None: alike.
    """
    return {
        kind: {
            name or "unknown": _slice(names == name, label, probabilities, malignant, unit, weight, enough, case_weight)
            for name in np.unique(names).tolist()
        }
        for kind, names in kinds.items()
    }


def _slice(
    here: Flags,
    label: Integers,
    probabilities: npt.NDArray[np.float32],
    malignant: Flags,
    unit: npt.NDArray[np.str_],
    weight: npt.NDArray[np.float32],
    enough: int,
    case_weight: Floats | None,
) -> dict[str, Any]:
    cells, patients = int(here.sum()), len(np.unique(unit[here]))
    counted: dict[str, Any] = {"cells": cells, "patients": patients}
    if cells < enough:
        return {**counted, "state": INSUFFICIENT, "reason": f"fewer than {enough} cells"}
    classes = len(malignant)
    said, known, drawn = probabilities[here], label[here], weight[:, here]
    called = said.argmax(axis=1).astype(np.int64)
    plain = figures.confusion_matrix(known, called, classes)
    tables = bootstrap.confusions(drawn, known, called, classes)
    two, two_drawn = (figures.two_class(one, malignant) for one in (plain, tables))
    found = {
        "accuracy": _figure(figures.accuracy(plain), figures.accuracy(tables)),
        "sensitivity": _figure(figures.sensitivity(two), figures.sensitivity(two_drawn)),
        "specificity": _figure(figures.specificity(two), figures.specificity(two_drawn)),
    }
    confidence, correct = said.max(axis=1), called == known
    counts = None if case_weight is None else case_weight[here]
    error = figures.debiased_calibration_error(figures.calibration_bins(confidence, correct, weight=counts))
    interval = bootstrap.calibration_error_interval(drawn, confidence, correct, counts)
    found["ece_debiased"] = {"value": round(error, 6), "interval": [round(end, 6) for end in interval]}
    return {**counted, "state": "measured", **found}


def _figure(value: Floats, draws: Floats) -> dict[str, Any] | None:
    """None where the slice has no cells to count."""
    if not np.isfinite(value):
        return None
    interval = bootstrap.interval(draws)
    return {
        "value": round(float(value), 6),
        "interval": None if interval is None else [round(end, 6) for end in interval],
    }
