"""A row's figures from what it said of every cell: the columns of tables 4 and 5 of the review, and more."""

from typing import Any

import numpy as np

from training import bootstrap, figures
from training.figures import Flags, Floats
from training.folds import paired_interval
from training.zoo.results import Result

COLUMNS = (
    "accuracy", "sensitivity", "specificity", "precision", "f1", "balanced_accuracy", "macro_f1", "roc_auc", "ece",
)  # fmt: skip
"""Shares. Each is computed of a repeat's cells, all of which were tested once, and averaged over the repeats."""
MACRO = "means over the classes, each against the rest: no class of this set is malignant"
TWO_CLASS = "malignant against the rest"


def figures_of(result: Result, *, draws: int, seed: int) -> dict[str, Any]:
    """Every figure of COLUMNS (None where it has nothing to count), and the 95 % interval of the accuracy."""
    each = [_one(result, said) for said in result.said]
    found: dict[str, Any] = {name: _number(float(np.mean([one[name] for one in each]))) for name in COLUMNS}
    low, high = _accuracy_interval(result, draws, seed)
    return found | {"accuracy_interval": [_number(low), _number(high)]}


def kind_of_figures(result: Result) -> str:
    """What sensitivity, specificity, precision, F1 and ROC-AUC are of."""
    return TWO_CLASS if _has_both(result) else MACRO


def compare(result: Result, ours: Result, *, draws: int, seed: int) -> dict[str, Any]:
    """Accuracy and balanced accuracy of a row less those of the CNN-GRU, on the repeats that both have."""
    repeats = min(len(result.said), len(ours.said))
    found = {}
    for name, balanced in (("accuracy", False), ("balanced_accuracy", True)):
        paired = paired_interval(
            ours.unit, ours.label, result.called[:repeats], ours.called[:repeats],
            balanced=balanced, draws=draws, seed=seed,
        )  # fmt: skip
        found[name] = {
            "difference": _number(paired.difference), "interval": [_number(paired.low), _number(paired.high)],
            "better": paired.better, "worse": paired.worse,
        }  # fmt: skip
    return {"repeats": repeats, **found}


def _one(result: Result, said: Floats) -> dict[str, float]:
    classes, label, called = len(result.labels), result.label, said.argmax(axis=1).astype(np.int64)
    confusion = figures.confusion_matrix(label, called, classes)
    bins = figures.calibration_bins(said.max(axis=1), called == label)
    common = {
        "accuracy": float(figures.accuracy(confusion)),
        "balanced_accuracy": float(figures.balanced_accuracy(confusion)),
        "macro_f1": float(np.nanmean(figures.f1_by_class(confusion))),
        "ece": figures.expected_calibration_error(bins),
    }
    positive = _malignant(result)
    if _has_both(result):
        two = figures.two_class(confusion, positive)
        return common | {
            "sensitivity": float(figures.sensitivity(two)),
            "specificity": float(figures.specificity(two)),
            "precision": float(figures.precision(two)),
            "f1": float(figures.f1(two)),
            "roc_auc": figures.roc_auc(said[:, positive].sum(axis=1), positive[label]),
        }
    folded = [figures.two_class(confusion, np.arange(classes) == k) for k in np.unique(label)]
    # A class that is never called has no precision; counting it as 0 is what the macro average needs.
    return common | {
        "sensitivity": float(np.mean([figures.sensitivity(two) for two in folded])),
        "specificity": float(np.mean([figures.specificity(two) for two in folded])),
        "precision": float(np.mean(np.nan_to_num([figures.precision(two) for two in folded]))),
        "f1": float(np.mean([figures.f1(two) for two in folded])),
        "roc_auc": float(np.mean([figures.roc_auc(said[:, k], label == k) for k in np.unique(label)])),
    }


def _malignant(result: Result) -> Flags:
    return np.array([name in result.malignant for name in result.labels])


def _has_both(result: Result) -> bool:
    positive = _malignant(result)[result.label]
    return bool(positive.any() and not positive.all())


def _accuracy_interval(result: Result, draws: int, seed: int) -> tuple[float, float]:
    """Units resampled within their class (training.bootstrap)."""
    weight = bootstrap.patient_weights(result.unit, result.label, len(result.labels), draws=draws, seed=seed)
    right = (result.called == result.label).mean(axis=0)
    return bootstrap.interval(weight @ right / weight.sum(axis=1)) or (float("nan"), float("nan"))


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
