"""What the gate looks at, and how a figure held against a bound becomes one line of reports/gate.json."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from training import bootstrap, figures
from training.change_plan import ChangePlan
from training.figures import Flags, Floats, Integers
from training.priors import cell_weights

Figure = Callable[[npt.ArrayLike], Floats]
State = Literal["passed", "refused", "not applicable"]
SHOWN = 5  # examples in the report


@dataclass(frozen=True)
class Outcome:
    """One line of reports/gate.json."""

    name: str
    state: State
    measured: object
    required: object
    reason: str


@dataclass(frozen=True)
class Evidence:
    """All that the checks look at. n test cells, C labels."""

    plan: ChangePlan
    parameters: Mapping[str, object]
    """params.yaml as nested mappings."""
    labels: tuple[str, ...]
    """Labels of the data set, in the order of the probabilities."""
    malignant: tuple[str, ...]
    cells: pd.DataFrame
    """Every cell of every split: split, unit, patient ("" unknown), picture (hash of the stored picture's bytes), and
    near (group of near-duplicates) where the manifest names it.
    """
    frozen: frozenset[str]
    """Units of the test set, those that were stored before and those that this split chose."""
    stored: frozenset[str]
    """Units of the test set that was stored before, under version control."""
    label: Integers
    """[n] true label of each test cell."""
    unit: npt.NDArray[np.str_]
    """[n] patient, or duplicate group where patients are unknown."""
    slices: Mapping[str, npt.NDArray[np.str_]]
    """site, stain and scanner of each test cell, [n] each, "" unknown."""
    candidate: npt.NDArray[np.float32]
    """[n, C] calibrated probabilities that the exported graph gave when the gate ran it."""
    ood_score: npt.NDArray[np.float32]
    """[n] of the exported graph."""
    row_checks_exact: bool
    """Whether the graph's checksums of its inputs are those that the service computes."""
    trained: npt.NDArray[np.float32]
    """[n, C] calibrated probabilities of the trained network, from the stage `evaluate`."""
    thresholds: Mapping[str, object]
    """build/calibration.json: abstain and ood, which the artifact carries."""
    champion: npt.NDArray[np.float32] | None
    """[n, C] probabilities of the model in production on the same cells, labels in the same order."""
    no_champion: str
    """Why `champion` is None."""
    shortcut: Integers
    """[n] label that the forest on colour numbers finds."""
    export: Mapping[str, object]
    """reports/export.json."""
    model_sha256: str
    """Hash of the exported graph at hand."""
    draws: int = 2000
    seed: int = 0
    priors: Floats | None = None
    """[C] shares of the labels that the probabilities are for; None: those of the data."""
    champion_priors: Floats | None = None
    """[C] the same of the model in production."""

    @cached_property
    def called(self) -> Integers:
        """[n] label that the candidate finds most probable."""
        called: Integers = self.candidate.argmax(axis=1).astype(np.int64)
        return called

    @property
    def is_malignant(self) -> Flags:
        """[C] which labels are malignant."""
        return np.array([label in self.malignant for label in self.labels])

    @cached_property
    def case_weight(self) -> Floats | None:
        """[n] for how many cells each counts in calibration errors; None: alike."""
        return None if self.priors is None else cell_weights(self.priors, self.label)

    @cached_property
    def weights(self) -> npt.NDArray[np.float32]:
        """[draws, n] resamplings of patients within their class; one for all comparisons makes them paired."""
        return bootstrap.patient_weights(self.unit, self.label, len(self.labels), draws=self.draws, seed=self.seed)

    def confusion(self, cells: Flags | None = None) -> Integers:
        """[C, C] rows true, columns called by the candidate; of some cells only, by a mask [n]."""
        chosen = np.ones(len(self.label), dtype=bool) if cells is None else cells
        return figures.confusion_matrix(self.label[chosen], self.called[chosen], len(self.labels))

    def gain_over(self, other: Integers, figure: Figure = figures.balanced_accuracy) -> float | None:
        """Lower end of the 95 % interval of candidate − other, `other` [n] being what it called, in a figure of
        confusion matrices [..., C, C].
        """
        classes = len(self.labels)
        ours, theirs = (
            figure(bootstrap.confusions(self.weights, self.label, called, classes)) for called in (self.called, other)
        )
        found = bootstrap.interval(ours - theirs)
        return None if found is None else found[0]


def _number(value: object) -> float | None:
    """A finite number, else None: what was not measured must not pass a comparison."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def bound(name: str, measured: object, required: float, what: str, *, upper: bool = False) -> Outcome:
    """Hold a figure against a bound (a lower one unless `upper`)."""
    side = "at most" if upper else "at least"
    value = _number(measured)
    if value is None:
        return Outcome(
            name, "refused", None, required, f"{what} could not be measured; required is {side} {required:g}"
        )
    if (value > required) if upper else (value < required):
        return Outcome(
            name, "refused", value, required, f"{what} is {_apart(value, required)}, required is {side} {required:g}"
        )
    return Outcome(name, "passed", value, required, "")


def _apart(value: float, other: float) -> str:
    """`value` with as few digits as show that it is not `other`: "0.9 is below 0.9" helps nobody."""
    return next((text for digits in (4, 6, 9) if float(text := f"{value:.{digits}g}") != other), repr(value))


def same(name: str, measured: object, required: object, what: str) -> Outcome:
    """What was fixed may not differ."""
    if measured != required:
        return Outcome(name, "refused", measured, required, f"{what} is {measured}, the change plan has {required}")
    return Outcome(name, "passed", measured, required, "")


def none_of(name: str, offenders: Sequence[str], what: str) -> Outcome:
    """Nothing may be in `offenders`. Only the report shows them: reasons go to the ledger, which names no patient."""
    if not offenders:
        return Outcome(name, "passed", 0, 0, "")
    measured = {"number": len(offenders), "examples": list(offenders[:SHOWN])}
    return Outcome(name, "refused", measured, 0, f"{len(offenders)} {what}")
