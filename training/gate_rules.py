"""What the gate asks that is no figure of the network's: whole and honest test cells, and a device that stays itself.

Pure functions from evidence to outcomes, as in training.gate_checks, which lists them.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from training.change_plan import breaches
from training.evidence import Evidence, Outcome, bound, none_of, same
from training.pixels import DROPPED, TEST


def enough_cells(evidence: Evidence) -> Iterator[Outcome]:
    """Test cells and patients of each label, without which no figure below says anything."""
    plan, units = evidence.plan.test_set, {}
    for index, label in enumerate(evidence.labels):
        units[label] = evidence.unit[evidence.label == index]
    for name, measured, least in (
        ("test cells", {label: len(of) for label, of in units.items()}, plan.cells),
        ("test patients", {label: len(np.unique(of)) for label, of in units.items()}, plan.patients),
    ):
        few = [f"{label} {number}" for label, number in measured.items() if number < least]
        reason = f"{name} are too few of {', '.join(few)}: required of each label is at least {least}" if few else ""
        yield Outcome(name, "refused" if few else "passed", measured, least, reason)


def patients_apart(evidence: Evidence) -> Iterator[Outcome]:
    """No patient, and no unit of the split, is on two sides."""
    shared = {name for column in ("patient", "unit") for name in _in_two_splits(evidence, column)}
    yield none_of("patients apart", sorted(shared), "patients are in two splits")


def duplicates_apart(evidence: Evidence) -> Iterator[Outcome]:
    """No picture, byte for byte as stored, is on two sides."""
    yield none_of("duplicates apart", _in_two_splits(evidence, "picture"), "pictures are in two splits")


def near_duplicates_apart(evidence: Evidence) -> Iterator[Outcome]:
    """No group of pictures that look the same is on two sides."""
    name = "near-duplicates apart"
    if "near" not in evidence.cells:
        yield Outcome(name, "not applicable", None, 0, "the manifest names no near-duplicates")
    else:
        yield none_of(name, _in_two_splits(evidence, "near"), "groups of near-duplicates are in two splits")


def _in_two_splits(evidence: Evidence, column: str) -> list[str]:
    cells = evidence.cells
    named = cells[(cells["split"] != DROPPED) & (cells[column] != "")]
    splits = named.groupby(column)["split"].nunique()
    return [str(name) for name in splits[splits > 1].index]


def frozen_test_kept(evidence: Evidence) -> Iterator[Outcome]:
    """No frozen test patient is trained on, and none that was stored has left the data.

    A patient counts by their own name too, and a picture of nobody: the unit that they belong to may have been given
    another.
    """
    cells = evidence.cells
    trained_on = cells[~cells["split"].isin([TEST, DROPPED])]
    columns = [name for name in ("unit", "patient", "member") if name in cells]
    names = {name for column in columns for name in trained_on[column]}
    yield none_of(
        "frozen test set kept", sorted(names & evidence.frozen), "units of the frozen test set are used for training"
    )
    name, there = "frozen test set whole", {name for column in columns for name in cells[column]}
    if not evidence.stored:
        yield Outcome(name, "not applicable", None, 0, "no test set is stored yet: `python -m training.split freeze`")
    elif not evidence.stored & there:
        yield Outcome(name, "not applicable", None, 0, "the stored test set is of other data altogether")
    else:
        gone = "units of the stored test set have left the data, which may be how a worse model looks as good"
        yield none_of(name, sorted(evidence.stored - there), gone)


def parameters(evidence: Evidence) -> Iterator[Outcome]:
    """Weights of the network."""
    most = evidence.plan.budget.parameters
    yield bound("parameters", evidence.export.get("parameters"), most, "number of the network's weights", upper=True)


def hyperparameters(evidence: Evidence) -> Iterator[Outcome]:
    """Every entry of the plan's sections is named in the plan and inside what was assessed."""
    found = breaches(evidence.plan.may_change, evidence.parameters)
    measured = {breach.name: breach.value for breach in found}
    required = {b.name: "not in the change plan" if b.bounds is None else str(b.bounds) for b in found}
    reason = f"outside the change plan: {'; '.join(str(breach) for breach in found)}" if found else ""
    yield Outcome("hyperparameters", "refused" if found else "passed", measured, required, reason)


def labels(evidence: Evidence) -> Iterator[Outcome]:
    """What an answer can say, in order, and which of it is a blast."""
    fixed = evidence.plan.must_not_change
    measured = {"labels": list(evidence.labels), "malignant": sorted(evidence.malignant)}
    required = {"labels": list(fixed.labels), "malignant": sorted(fixed.malignant)}
    yield same("labels", measured, required, "what an answer can say")


def field(evidence: Evidence) -> Iterator[Outcome]:
    """What the network sees."""
    seen = evidence.parameters.get("field")
    measured = {"crop": 1.0, "reduced": False, **seen} if isinstance(seen, Mapping) else seen
    yield same("field", measured, evidence.plan.must_not_change.field.model_dump(), "the field")


def intended_use(evidence: Evidence) -> Iterator[Outcome]:
    """The statement that the model card carries."""
    package = evidence.parameters.get("package")
    stated = package.get("intended_use") if isinstance(package, Mapping) else None
    yield same("intended use", stated, evidence.plan.must_not_change.intended_use, "the intended use")
