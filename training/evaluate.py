"""Stage `evaluate`: what the candidate is worth on the frozen test set, with intervals, beside forests that see no
cell.

Malignant is the positive class of the two-class figures: a cell counts as called malignant when the label that the
network finds most probable is a malignant one, which is the label that is answered.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.contract.errors import CommandParser, run_command
from service.contract.statistics import STATISTICS
from training import bootstrap, figures
from training.arrays import Arrays, write_npz
from training.calibration import Calibration
from training.config import configured
from training.figures import Flags, Floats, Integers
from training.io import read_json, read_params, read_parquet, write_json
from training.pixels import PREPARED, TEST, TRAIN, VALIDATION, Cells, cells
from training.priors import cell_weights, priors_of
from training.shortcut import colour_features, forest_predictions, size_features

REPORT = Path("reports/evaluation.json")
PLOTS = Path("reports/plots")
OUTPUTS = Path("build/test_outputs.npz")

MALIGNANT_FIGURES = ("sensitivity", "specificity", "precision", "f1", "roc_auc")


@dataclass(frozen=True)
class EvaluateConfig:
    """Section `evaluate` of params.yaml."""

    bootstrap: int = 2000
    """Resamplings of the patients, for the intervals."""
    seed: int = 0
    trees: int = 300
    """Of each forest."""
    folds: int = 5
    """Of the cross-validation, as `repeats`: training.cross_validate."""
    repeats: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn. Raises ValueError."""
        if self.bootstrap < 10 or self.trees < 1:
            raise ValueError(f"bootstrap is {self.bootstrap} and trees {self.trees}: at least 10 and 1")


@dataclass(frozen=True, eq=False)
class Judged:
    """n test cells and what is said of them; every array is [n] but `probabilities` [n, C]."""

    labels: tuple[str, ...]
    malignant: tuple[str, ...]
    label: Integers
    unit: npt.NDArray[np.str_]
    site: npt.NDArray[np.str_]
    probabilities: npt.NDArray[np.float32]
    shortcut: Integers
    """What the forest on colours calls each cell."""
    size_shortcut: Integers
    """What the forest on sizes calls it."""
    priors: Floats | None = None
    """[C] shares of the labels that the probabilities are for; None: those of the data."""

    @property
    def called(self) -> Integers:
        """What the network calls each cell."""
        called: Integers = self.probabilities.argmax(axis=1).astype(np.int64)
        return called

    @property
    def weight(self) -> Floats | None:
        """[n] for how many cells each counts in figures of calibration; None: alike."""
        return None if self.priors is None else cell_weights(self.priors, self.label)

    @property
    def is_malignant(self) -> Flags:
        """[C]"""
        return np.array([name in self.malignant for name in self.labels])

    @property
    def malignant_probability(self) -> Floats:
        """[n]"""
        malignant: Floats = self.probabilities[:, self.is_malignant].sum(axis=1, dtype=np.float64)
        return malignant


def report(judged: Judged, config: EvaluateConfig) -> dict[str, Any]:
    """The content of reports/evaluation.json. A figure that has no cells to count is null, with its reason."""
    classes, called = len(judged.labels), judged.called
    confusion = figures.confusion_matrix(judged.label, called, classes)
    confidence = judged.probabilities.max(axis=1)
    bins = figures.calibration_bins(confidence, called == judged.label, weight=judged.weight)
    weight = bootstrap.patient_weights(judged.unit, judged.label, classes, draws=config.bootstrap, seed=config.seed)
    two_class, reason = _two_class(judged, confusion)
    others = {"shortcut_balanced_accuracy": judged.shortcut, "size_shortcut_balanced_accuracy": judged.size_shortcut}
    return {
        "accuracy": _number(figures.accuracy(confusion)),
        "balanced_accuracy": _number(figures.balanced_accuracy(confusion)),
        **two_class,
        "ece": _number(figures.expected_calibration_error(bins)),
        "ece_debiased": _number(figures.debiased_calibration_error(bins)),
        **{
            name: _number(figures.balanced_accuracy(figures.confusion_matrix(judged.label, other, classes)))
            for name, other in others.items()
        },
        "cells": len(judged.label),
        "patients": len(np.unique(judged.unit)),
        "per_class": _per_class(judged, confusion),
        "per_site": _per_site(judged),
        "intervals": _intervals(judged, weight),
        "labels": list(judged.labels),
        "malignant": list(judged.malignant),
        "confusion_matrix": confusion.tolist(),
        "not_applicable": dict.fromkeys(MALIGNANT_FIGURES, reason) if reason else {},
        "methods": {
            "ece": f"{len(bins.cells)} bins of equal number over the largest probability (arXiv 1706.04599)",
            "ece_debiased": "less its bias on few cells (arXiv 1909.10155); the draws' spread is laid around it",
            **_about(judged),
            "intervals": f"95 %, {config.bootstrap} resamplings of patients within their class, seed {config.seed}",
            "shortcut": "forest on mean and standard deviation of R, G and B, trained on train and validation cells",
            "size_shortcut": "forest on the areas of the cell and its nucleus, trained likewise",
        },
    }


def _about(judged: Judged) -> dict[str, str]:
    if judged.priors is None:
        return {}
    mix = ", ".join(f"{label} {share:.1%}" for label, share in zip(judged.labels, judged.priors, strict=True))
    return {"priors": f"the probabilities are for {mix}; calibration errors count the test cells for these shares"}


def _two_class(judged: Judged, confusion: Integers) -> tuple[dict[str, float | None], str]:
    """The malignant figures, or nulls and the reason why they do not apply."""
    positive = judged.is_malignant[judged.label]
    if not judged.malignant:
        return dict.fromkeys(MALIGNANT_FIGURES), "no label of this data set is malignant"
    if positive.all() or not positive.any():
        kind = "malignant" if positive.all() else "healthy"
        return dict.fromkeys(MALIGNANT_FIGURES), f"every test cell is {kind}"
    two = figures.two_class(confusion, judged.is_malignant)
    return {
        "sensitivity": _number(figures.sensitivity(two)),
        "specificity": _number(figures.specificity(two)),
        "precision": _number(figures.precision(two)),
        "f1": _number(figures.f1(two)),
        "roc_auc": _number(figures.roc_auc(judged.malignant_probability, positive)),
    }, ""


def _per_class(judged: Judged, confusion: Integers) -> dict[str, dict[str, Any]]:
    recalls, precisions, f1s = (
        figure(confusion) for figure in (figures.recall, figures.precision_by_class, figures.f1_by_class)
    )
    return {
        name: {
            "sensitivity": _number(recalls[k]),
            "precision": _number(precisions[k]),
            "f1": _number(f1s[k]),
            "cells": int(confusion[k].sum()),
            "patients": len(np.unique(judged.unit[judged.label == k])),
        }
        for k, name in enumerate(judged.labels)
    }


def _per_site(judged: Judged) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = {}
    for site in np.unique(judged.site).tolist():
        here = judged.site == site
        confusion = figures.confusion_matrix(judged.label[here], judged.called[here], len(judged.labels))
        two = figures.two_class(confusion, judged.is_malignant)
        result[site] = {
            "accuracy": _number(figures.accuracy(confusion)),
            "balanced_accuracy": _number(figures.balanced_accuracy(confusion)),
            "sensitivity": _number(figures.sensitivity(two)) if judged.malignant else None,
            "specificity": _number(figures.specificity(two)) if judged.malignant else None,
            "cells": int(here.sum()),
            "patients": len(np.unique(judged.unit[here])),
        }
    return result


def _intervals(judged: Judged, weight: npt.NDArray[np.float32]) -> dict[str, list[float] | None]:
    classes = len(judged.labels)
    drawn = bootstrap.confusions(weight, judged.label, judged.called, classes)
    balanced = figures.balanced_accuracy(drawn)
    draws: dict[str, npt.ArrayLike] = {
        "accuracy": figures.accuracy(drawn),
        "balanced_accuracy": balanced,
    }
    positive = judged.is_malignant[judged.label]
    if positive.any() and not positive.all():
        two, score = figures.two_class(drawn, judged.is_malignant), judged.malignant_probability
        draws |= {
            "sensitivity": figures.sensitivity(two),
            "specificity": figures.specificity(two),
            "precision": figures.precision(two),
            "f1": figures.f1(two),
            "roc_auc": [figures.roc_auc(score, positive, one) for one in weight if _both(one, positive)],
        }
    # The same resamplings for both, so that the difference is of the same patients.
    for name, other in (("shortcut", judged.shortcut), ("size_shortcut", judged.size_shortcut)):
        theirs = figures.balanced_accuracy(bootstrap.confusions(weight, judged.label, other, classes))
        draws |= {f"{name}_balanced_accuracy": theirs, f"network_minus_{name}": balanced - theirs}
    found = {name: bootstrap.interval(values) for name, values in draws.items()}
    confidence, correct = judged.probabilities.max(axis=1), judged.called == judged.label
    found["ece_debiased"] = bootstrap.calibration_error_interval(weight, confidence, correct, judged.weight)
    return {name: None if bounds is None else [round(bound, 6) for bound in bounds] for name, bounds in found.items()}


def _both(weight: npt.NDArray[np.float32], positive: Flags) -> bool:
    return bool(weight[positive].any() and weight[~positive].any())


def _number(value: npt.ArrayLike) -> float | None:
    number = float(np.asarray(value))
    return round(number, 6) if np.isfinite(number) else None


def candidate_outputs(judged: Judged, test: Cells, embedding: Floats | npt.NDArray[np.float32], ood: Any) -> Arrays:
    """What gate and package need of each test cell, in the order of the split table."""
    return {
        "path": test.column("path"),
        "unit": judged.unit,
        "patient": test.column("patient"),
        "site": judged.site,
        "stain": test.column("stain"),
        "scanner": test.column("scanner"),
        "label": judged.label,
        "probabilities": judged.probabilities,
        "embedding": np.asarray(embedding, dtype=np.float32),
        "ood_score": np.asarray(ood, dtype=np.float32),
        "statistics": test.table[list(STATISTICS)].to_numpy(dtype=np.float32),
        "shortcut": judged.shortcut,
    }


def shortcuts(
    data: Cells, images: Mapping[str, npt.NDArray[np.uint8]], config: EvaluateConfig
) -> tuple[Integers, Integers]:
    """What forests on colours and on sizes, trained on the train and validation splits, call the test cells."""
    label = np.concatenate([data.only(TRAIN).label, data.only(VALIDATION).label])
    called = []
    for features in (colour_features, size_features):
        known = np.concatenate([features(images[TRAIN]), features(images[VALIDATION])])
        called.append(forest_predictions(known, label, features(images[TEST]), trees=config.trees, seed=config.seed))
    return called[0], called[1]


def main(argv: list[str] | None = None) -> int:
    """Evaluate the calibrated network on the frozen test set; write reports/evaluation.json and reports/plots."""
    CommandParser(prog="python -m training.evaluate", description=main.__doc__).parse_args(argv)
    from training import plots
    from training.models import inference
    from training.models.serving import Serving, answers

    config = configured(EvaluateConfig, "evaluate", read_params("evaluate"))
    about, calibration = read_json(PREPARED / "dataset.json"), Calibration.load()
    data = cells(
        read_parquet(PREPARED / "manifest.parquet"), read_parquet(PREPARED / "split.parquet"), tuple(about["labels"])
    )
    images = {name: data.only(name).load() for name in (TRAIN, VALIDATION, TEST)}
    test = data.only(TEST)
    said = answers(Serving(inference.load(), calibration), images[TEST])
    judged = Judged(
        data.labels, tuple(about["malignant"]), test.label, test.column("unit"), test.column("site"),
        said.probabilities, *shortcuts(data, images, config), priors_of(read_params(), data.labels),
    )  # fmt: skip
    found = {**report(judged, config), "notes": list(about["notes"])}
    write_json(REPORT, found)
    write_npz(OUTPUTS, candidate_outputs(judged, test, said.embedding, said.ood_score))
    plots.draw_all(PLOTS, judged, said.embedding, calibration.abstain)
    low, high = found["intervals"]["balanced_accuracy"]
    print(
        f"{found['cells']} test cells of {found['patients']} patients: "
        f"balanced accuracy {found['balanced_accuracy']:.3f} ({low:.3f} to {high:.3f}), "
        f"sensitivity {found['sensitivity']}, specificity {found['specificity']}, ECE {found['ece']:.3f}; "
        f"a forest on colours {found['shortcut_balanced_accuracy']:.3f}"
    )
    return 0


if __name__ == "__main__":
    run_command(main)
