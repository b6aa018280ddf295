"""Figures of a cross-validation: per fold, per repeat, mean, and intervals that resample units."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training import bootstrap, figures
from training.figures import Floats, Integers
from training.folds import Names, Paired, paired_interval

_COUNTED: dict[str, Callable[[npt.ArrayLike], Floats]] = {
    "accuracy": figures.accuracy,
    "balanced_accuracy": figures.balanced_accuracy,
    "macro_f1": lambda confusion: np.asarray(np.nanmean(figures.f1_by_class(confusion), axis=-1)),
}
_MALIGNANT: dict[str, Callable[[npt.ArrayLike], Floats]] = {
    "sensitivity": figures.sensitivity,
    "specificity": figures.specificity,
    "precision": figures.precision,
    "f1": figures.f1,
}


@dataclass(frozen=True, eq=False)
class Answers:
    """Of n cells in r repeats: probabilities float32 [r, n, C], and the fold that each cell was tested in [r, n]."""

    probabilities: npt.NDArray[np.float32]
    fold: Integers

    @property
    def called(self) -> Integers:
        """The most probable label, [r, n]."""
        return np.asarray(self.probabilities.argmax(axis=2), dtype=np.int64)


def report(
    answers: Answers,
    label: Integers,
    unit: Names,
    about: Mapping[str, Any],
    forests: Mapping[str, Integers],
    *,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """The content of reports/cross_validation.json.

    `about` is dataset.json; `forests` what forests that see no cell call each cell, [r, n] by name. Means are over the
    repeats; an interval resamples units and holds the folds as they were. Malignant figures are null where no label, or
    every one, is malignant.
    """
    labels, repeats = list(about["labels"]), len(answers.fold)
    is_malignant = np.array([name in about["malignant"] for name in labels])
    two_sided = bool(is_malignant.any() and not is_malignant.all())
    weight = bootstrap.patient_weights(unit, label, len(labels), draws=draws, seed=seed)
    called = answers.called
    each = [_figures(answers.probabilities[k], label, is_malignant, two_sided) for k in range(repeats)]
    return {
        "cells": len(label),
        "units": len(np.unique(unit)),
        "folds": int(answers.fold.max()) + 1,
        "repeats": repeats,
        "labels": labels,
        "malignant": list(about["malignant"]),
        "mean": {name: _mean([one[name] for one in each]) for name in each[0]},
        "intervals": _intervals(called, label, weight, is_malignant, two_sided),
        "spread_over_folds": _spread(answers, label, labels),
        "per_class": _per_class(called, label, labels),
        "per_repeat": each,
        "per_fold": [
            {
                "repeat": repeat + 1,
                "fold": number + 1,
                "cells": int((answers.fold[repeat] == number).sum()),
                **_figures(*_part(answers, label, repeat, number), is_malignant, two_sided),
            }
            for repeat in range(repeats)
            for number in np.unique(answers.fold[repeat]).tolist()
        ],
        "shortcuts": {name: _shortcut(unit, label, called, said, draws, seed) for name, said in forests.items()},
        "notes": list(about["notes"]),
        "methods": {
            "folds": "stratified by class, units (patients; else groups of near-duplicates and blocks) never divided",
            "intervals": f"95 %, {draws} resamplings of units within their class, of the mean over the repeats",
            "calibration": "one temperature a fold, fitted on the answers of the other folds",
            "ece_debiased": "15 bins of equal number, less its bias on few cells (arXiv 1909.10155)",
            "shortcuts": "forests on six colour numbers, and on the areas of cell and nucleus, on the same folds",
        },
    }


def _figures(
    probabilities: npt.NDArray[np.float32], label: Integers, is_malignant: npt.NDArray[np.bool_], two_sided: bool
) -> dict[str, float | None]:
    called = probabilities.argmax(axis=1).astype(np.int64)
    confusion = figures.confusion_matrix(label, called, len(is_malignant))
    found = {name: _number(figure(confusion)) for name, figure in _COUNTED.items()}
    two, score = figures.two_class(confusion, is_malignant), probabilities[:, is_malignant].sum(axis=1)
    for name, figure in _MALIGNANT.items():
        found[name] = _number(figure(two)) if two_sided else None
    positive = is_malignant[label]
    both = two_sided and bool(positive.any()) and not bool(positive.all())
    found["roc_auc"] = _number(figures.roc_auc(score, positive)) if both else None
    bins = figures.calibration_bins(probabilities.max(axis=1), called == label)
    found["ece"] = _number(figures.expected_calibration_error(bins))
    found["ece_debiased"] = _number(figures.debiased_calibration_error(bins))
    return found


def _part(answers: Answers, label: Integers, repeat: int, number: int) -> tuple[npt.NDArray[np.float32], Integers]:
    here = answers.fold[repeat] == number
    return answers.probabilities[repeat][here], label[here]


def _intervals(
    called: Integers,
    label: Integers,
    weight: npt.NDArray[np.float32],
    is_malignant: npt.NDArray[np.bool_],
    two_sided: bool,
) -> dict[str, list[float] | None]:
    drawn = [bootstrap.confusions(weight, label, one, len(is_malignant)) for one in called]
    found = {name: _interval([figure(one) for one in drawn]) for name, figure in _COUNTED.items()}
    if two_sided:
        folded = [figures.two_class(one, is_malignant) for one in drawn]
        found |= {name: _interval([figure(one) for one in folded]) for name, figure in _MALIGNANT.items()}
    return found


def _interval(repeats: list[Floats]) -> list[float] | None:
    bounds = bootstrap.interval(np.mean(repeats, axis=0))
    return None if bounds is None else [round(bound, 6) for bound in bounds]


def _spread(answers: Answers, label: Integers, labels: list[str]) -> dict[str, float]:
    """Standard deviation over all folds of all repeats: how much a single split would mislead."""
    values: dict[str, list[float]] = {name: [] for name in _COUNTED}
    for repeat in range(len(answers.fold)):
        for number in np.unique(answers.fold[repeat]):
            here = answers.fold[repeat] == number
            confusion = figures.confusion_matrix(label[here], answers.called[repeat][here], len(labels))
            for name, figure in _COUNTED.items():
                values[name].append(float(figure(confusion)))
    return {name: round(float(np.nanstd(numbers)), 6) for name, numbers in values.items()}


def _per_class(called: Integers, label: Integers, labels: list[str]) -> dict[str, dict[str, Any]]:
    confusions = np.stack([figures.confusion_matrix(label, one, len(labels)) for one in called])
    columns = {"sensitivity": figures.recall, "precision": figures.precision_by_class, "f1": figures.f1_by_class}
    means = {name: figure(confusions).mean(axis=0) for name, figure in columns.items()}
    return {
        name: {**{column: _number(values[k]) for column, values in means.items()}, "cells": int((label == k).sum())}
        for k, name in enumerate(labels)
    }


def _shortcut(unit: Names, label: Integers, called: Integers, said: Integers, draws: int, seed: int) -> dict[str, Any]:
    classes = int(max(label.max(), said.max())) + 1
    confusions = np.stack([figures.confusion_matrix(label, one, classes) for one in said])
    return {
        "accuracy": _number(figures.accuracy(confusions).mean()),
        "balanced_accuracy": _number(figures.balanced_accuracy(confusions).mean()),
        "network_minus_shortcut": _paired(paired_interval(unit, label, called, said, draws=draws, seed=seed)),
    }


def _paired(found: Paired) -> dict[str, float]:
    return {"difference": round(found.difference, 6), "low": round(found.low, 6), "high": round(found.high, 6)}


def _mean(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return round(float(np.mean(there)), 6) if there else None


def _number(value: npt.ArrayLike) -> float | None:
    number = float(np.asarray(value))
    return round(number, 6) if np.isfinite(number) else None
