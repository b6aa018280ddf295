"""Evidence of a good candidate in memory, and ways to spoil it: what the gate's tests plant their faults in."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from training.change_plan import ChangePlan, Choice, Range, load_plan
from training.evidence import Evidence
from training.figures import Flags, Floats, Integers

LABELS = ("healthy", "L1", "L2", "L3")
MALIGNANT = ("L1", "L2", "L3")
PATIENTS, CELLS = 12, 20  # a label; of a patient
FIELD = {"height": 128, "width": 128, "field_um": 20.0, "reduced": True}


def plan() -> ChangePlan:
    """The repository's plan, with what the fixture needs of hyperparameters and slices."""
    own = load_plan(Path(__file__).parents[2] / "change_plan.yaml")
    bounds: dict[str, Range | Choice] = {
        "train.epochs": Range(minimum=1, maximum=50),
        "model.cell": Choice(one_of=("gru", "lstm")),
    }
    return own.model_copy(
        update={
            "may_change": own.may_change.model_copy(update={"sections": ("model", "train"), "hyperparameters": bounds}),
            "slices": own.slices.model_copy(update={"cells": 50, "patients": 3, "calibration_cells": 300}),
        }
    )


def spread(mask: Flags, share: float) -> Flags:
    """That share of the cells in `mask`, evenly spaced, so that patients, sites and labels all have their part."""
    chosen = np.flatnonzero(mask)
    number = round(share * len(chosen))
    picked = np.zeros(len(mask), dtype=bool)
    if number:
        picked[chosen[np.linspace(0, len(chosen) - 1, number).round().astype(int)]] = True
    return picked


def probabilities(called: Integers, confidence: float | Floats) -> npt.NDArray[np.float32]:
    """[n, C] with `confidence` for the label called, the rest shared out; a hair of variation breaks ties."""
    n, classes = len(called), len(LABELS)
    confidence = np.broadcast_to(confidence, n)
    rest = (1 - confidence) / (classes - 1)
    result = np.repeat(rest[:, None], classes, axis=1).astype(np.float32)
    result[np.arange(n), called] = confidence + np.linspace(0, 1e-4, n, dtype=np.float32)
    return result


def confused(label: Integers, share: float) -> Integers:
    """Malignant cells called the next malignant label, that share of them: wrong subtype, right side."""
    called = label.copy()
    wrong = spread(label > 0, share)
    called[wrong] = label[wrong] % len(MALIGNANT) + 1
    return called


def good() -> Evidence:
    """A candidate that every check accepts: 960 test cells of 48 patients at two sites."""
    patient = np.repeat(np.arange(len(LABELS) * PATIENTS), CELLS)
    # Cells come in an order that has nothing to do with label or patient, as they do from content-addressed files.
    order = np.random.default_rng(1).permutation(len(patient))
    patient = patient[order]
    label = (patient // PATIENTS).astype(np.int64)
    unit = np.array([f"patient-{number:02d}" for number in patient])
    slices = {
        "site": np.where(patient % 2 == 0, "site-a", "site-b"),
        "stain": np.where(patient % 3 == 0, "giemsa", ""),
        "scanner": np.where(patient % 2 == 0, "scanner-a", "scanner-b"),
    }
    numbers = range(len(unit))
    test = pd.DataFrame(
        {
            "split": "test",
            "unit": unit,
            "patient": unit,
            "picture": [f"test-{i}" for i in numbers],
            "near": [f"near-{i}" for i in numbers],
        }
    )
    others = pd.DataFrame(
        {
            "split": ["train", "train", "validation", "dropped"],
            "unit": ["patient-90", "patient-91", "patient-92", "patient-93"],
            "patient": ["patient-90", "patient-91", "patient-92", ""],
            "picture": ["train-0", "train-1", "validation-0", "test-0"],
            "near": ["near-train-0", "near-train-1", "near-validation-0", "near-0"],
        }
    )
    called = confused(label, 0.03)
    return Evidence(
        plan=plan(),
        parameters={
            "field": FIELD,
            "train": {"epochs": 20},
            "model": {"cell": "gru"},
            "package": {"intended_use": plan().must_not_change.intended_use},
        },
        labels=LABELS,
        malignant=MALIGNANT,
        cells=pd.concat([test, others], ignore_index=True),
        frozen=frozenset(unit),
        stored=frozenset(unit),
        label=label,
        unit=unit,
        slices=slices,
        candidate=probabilities(called, 0.97),
        ood_score=np.where(spread(label >= 0, 0.02), 1.5, 0.4).astype(np.float32),
        row_checks_exact=True,
        trained=probabilities(called, 0.97),
        thresholds={"temperature": 1.0, "abstain": 0.5, "ood": 1.0},
        champion=probabilities(np.where(spread(label > 0, 0.2), 0, confused(label, 0.32)), 0.7),
        no_champion="",
        shortcut=np.where(spread(label >= 0, 0.5), 0, label),
        export={
            "onnx_sha256": "ab" * 32,
            "max_abs_probability_difference": 1e-6,
            "latency_ms_p50_batch1": 3.0,
            "model_bytes": 1_500_000,
            "parameters": 300_000,
        },
        model_sha256="ab" * 32,
        draws=400,
    )


def calling(evidence: Evidence, called: Integers) -> Evidence:
    """The same candidate, calling cells otherwise, as sure of itself as it is right at each site and stain."""
    right = called == evidence.label
    named = [f"{site}, {stain}" for site, stain in zip(evidence.slices["site"], evidence.slices["stain"], strict=True)]
    _, place = np.unique(named, return_inverse=True)
    share = np.bincount(place, right) / np.bincount(place)
    return saying(evidence, probabilities(called, share[place]))


def saying(evidence: Evidence, candidate: npt.NDArray[np.float32]) -> Evidence:
    """The same candidate with other probabilities, the trained network's and the exported graph's alike."""
    return replace(evidence, candidate=candidate, trained=candidate)


def lenient_slices(evidence: Evidence) -> Evidence:
    """The same, held to nothing slice by slice."""
    slices = evidence.plan.slices.model_copy(update={"sensitivity": 0.0, "specificity": 0.0, "calibration_error": 1.0})
    return replace(evidence, plan=evidence.plan.model_copy(update={"slices": slices}))


def instead(evidence: Evidence, cells: Flags, label: int) -> Evidence:
    """The same candidate, calling `cells` by another label."""
    return calling(evidence, np.where(cells, label, evidence.called).astype(np.int64))


def with_cells(evidence: Evidence, **columns: object) -> Evidence:
    """The same, with one more cell."""
    row = {"split": "train", "unit": "patient-94", "patient": "patient-94", "picture": "train-9", "near": "near-own"}
    row |= {name: str(value) for name, value in columns.items()}
    return replace(evidence, cells=pd.concat([evidence.cells, pd.DataFrame([row])], ignore_index=True))


def exported(evidence: Evidence, **figures: object) -> Evidence:
    """The same, with another export report."""
    return replace(evidence, export={**evidence.export, **figures})


def with_parameters(evidence: Evidence, **sections: object) -> Evidence:
    """The same, with other sections of params.yaml."""
    return replace(evidence, parameters={**evidence.parameters, **sections})
