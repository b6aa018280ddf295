"""What the gate asks of a candidate: pure functions from evidence to outcomes, one entry of CHECKS each.

Nothing here reads a file or trusts a verdict computed elsewhere: figures come from the candidate's outputs on the
frozen test set, split integrity from the tables and the pictures' hashes. A check that has nothing to measure is `not
applicable`, which is never a silent pass: its reason says why.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from training import figures
from training.evidence import Evidence, Outcome, bound, none_of, same
from training.figures import Floats
from training.pixels import DROPPED, TEST

Check = Callable[[Evidence], Iterator[Outcome]]


def sensitivity(evidence: Evidence) -> Iterator[Outcome]:
    """Share of malignant cells called malignant."""
    yield _malignant_figure(evidence, "sensitivity", figures.sensitivity, evidence.plan.floors.sensitivity)


def specificity(evidence: Evidence) -> Iterator[Outcome]:
    """Share of healthy cells called healthy."""
    yield _malignant_figure(evidence, "specificity", figures.specificity, evidence.plan.floors.specificity)


def _malignant_figure(
    evidence: Evidence, name: str, figure: Callable[[npt.ArrayLike], Floats], floor: float
) -> Outcome:
    flags = evidence.is_malignant
    if not flags.any() or flags.all():
        kind = "malignant" if not flags.any() else "healthy"
        return Outcome(name, "not applicable", None, floor, f"no label of this data set is {kind}")
    return bound(name, float(figure(figures.two_class(evidence.confusion(), flags))), floor, f"{name} on the test set")


def balanced_accuracy(evidence: Evidence) -> Iterator[Outcome]:
    """Mean over the labels of the share of their cells that got that label."""
    counts = evidence.confusion()
    name, floor = "balanced accuracy", evidence.plan.floors.balanced_accuracy
    if absent := [label for label, cells in zip(evidence.labels, counts.sum(axis=1), strict=True) if not cells]:
        yield Outcome(
            name, "refused", None, floor, f"{name} needs test cells of every label: none of {', '.join(absent)}"
        )
    else:
        yield bound(name, float(figures.balanced_accuracy(counts)), floor, f"{name} on the test set")


def calibration(evidence: Evidence) -> Iterator[Outcome]:
    """Debiased calibration error of the most probable label's probability."""
    bins = figures.calibration_bins(evidence.candidate.max(axis=1), evidence.called == evidence.label)
    error = figures.debiased_calibration_error(bins)
    yield bound("calibration", error, evidence.plan.floors.calibration_error, "calibration error", upper=True)


def slices(evidence: Evidence) -> Iterator[Outcome]:
    """Sensitivity and specificity of each site with enough cells and patients of the side in question."""
    plan, flags = evidence.plan.slices, evidence.is_malignant
    of_malignant = flags[evidence.label]
    for site in np.unique(evidence.site).tolist():
        at_site = evidence.site == site
        for side, name, figure, floor in (
            (of_malignant, "sensitivity", figures.sensitivity, plan.sensitivity),
            (~of_malignant, "specificity", figures.specificity, plan.specificity),
        ):
            cells, title = at_site & side, f"{name} at {site}"
            size, patients = int(cells.sum()), len(np.unique(evidence.unit[cells]))
            if size < plan.cells or patients < plan.patients or not flags.any():
                few = f"{size} cells of {patients} patients are too few to tell: {plan.cells} of {plan.patients} needed"
                yield Outcome(title, "not applicable", None, floor, few)
            else:
                confusion = figures.two_class(evidence.confusion(cells), flags)
                yield bound(title, float(figure(confusion)), floor, title)


def non_inferiority(evidence: Evidence) -> Iterator[Outcome]:
    """The candidate is not worse than the model in production by more than the margin."""
    name, margin = "non-inferiority", evidence.plan.non_inferiority.margin
    if evidence.champion is None:
        yield Outcome(name, "not applicable", None, margin, evidence.no_champion)
    else:
        lower = evidence.gain_over(evidence.champion.argmax(axis=1).astype(np.int64))
        yield bound(name, lower, margin, "lower 95 % bound of (candidate − champion) balanced accuracy")


def shortcut(evidence: Evidence) -> Iterator[Outcome]:
    """The network knows more than the colours of the picture."""
    lower = evidence.gain_over(evidence.shortcut)
    yield bound(
        "shortcut",
        lower,
        evidence.plan.shortcut.margin,
        "lower 95 % bound of (network − colour forest) balanced accuracy",
    )


def patients_apart(evidence: Evidence) -> Iterator[Outcome]:
    """No patient, and no unit of the split, is on two sides."""
    used = evidence.cells[evidence.cells["split"] != DROPPED]
    shared = {name for column in ("patient", "unit") for name in _in_two_splits(used, column)}
    yield none_of("patients apart", sorted(shared), "patients are in two splits")


def duplicates_apart(evidence: Evidence) -> Iterator[Outcome]:
    """No picture, byte for byte as stored, is on two sides."""
    used = evidence.cells[evidence.cells["split"] != DROPPED]
    yield none_of("duplicates apart", _in_two_splits(used, "picture"), "pictures are in two splits")


def _in_two_splits(cells: pd.DataFrame, column: str) -> list[str]:
    named = cells[cells[column] != ""]
    splits = named.groupby(column)["split"].nunique()
    return [str(name) for name in splits[splits > 1].index]


def frozen_test_kept(evidence: Evidence) -> Iterator[Outcome]:
    """No unit of the frozen test set is anywhere but in the test split."""
    cells = evidence.cells
    moved = cells[cells["unit"].isin(sorted(evidence.frozen)) & ~cells["split"].isin([TEST, DROPPED])]
    units = sorted(str(unit) for unit in moved["unit"].unique())
    yield none_of("frozen test set kept", units, "units of the frozen test set are used for training")


def export_parity(evidence: Evidence) -> Iterator[Outcome]:
    """The exported graph answers what the trained network answers, and is the graph at hand."""
    name, most = "export parity", evidence.plan.export.probability_difference
    if evidence.export.get("onnx_sha256") != evidence.model_sha256:
        yield Outcome(name, "refused", None, most, "reports/export.json is about another graph: run `dvc repro`")
    else:
        difference = evidence.export.get("max_abs_probability_difference")
        yield bound(name, difference, most, "largest difference of a probability after export", upper=True)


def latency(evidence: Evidence) -> Iterator[Outcome]:
    """Median time for one cell."""
    most = evidence.plan.budget.latency_ms
    yield bound(
        "latency", evidence.export.get("latency_ms_p50_batch1"), most, "median milliseconds for a cell", upper=True
    )


def size(evidence: Evidence) -> Iterator[Outcome]:
    """Bytes of the graph."""
    most = evidence.plan.budget.model_bytes
    yield bound("size", evidence.export.get("model_bytes"), most, "size of the graph in bytes", upper=True)


def hyperparameters(evidence: Evidence) -> Iterator[Outcome]:
    """Every entry of the plan's sections is named in the plan and inside what was assessed."""
    allowed = evidence.plan.may_change.hyperparameters
    wrong: dict[str, object] = {}
    broken: list[str] = []
    for section in evidence.plan.may_change.sections:
        for name, value in _leaves(evidence.parameters.get(section), section):
            bounds = allowed.get(name)
            if bounds is None or not bounds.allows(value):
                wrong[name] = value
                broken.append(
                    f"{name} = {value} (" + ("not in the change plan)" if bounds is None else f"assessed: {bounds})")
                )
    required = {name: str(allowed.get(name, "not in the change plan")) for name in wrong}
    reason = f"outside the change plan: {'; '.join(broken)}" if broken else ""
    yield Outcome("hyperparameters", "refused" if broken else "passed", wrong, required, reason)


def _leaves(value: object, name: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}")
    else:
        yield name, value


def labels(evidence: Evidence) -> Iterator[Outcome]:
    """What an answer can say, in order, and which of it is a blast."""
    fixed = evidence.plan.must_not_change
    measured = {"labels": list(evidence.labels), "malignant": sorted(evidence.malignant)}
    required = {"labels": list(fixed.labels), "malignant": sorted(fixed.malignant)}
    yield same("labels", measured, required, "what an answer can say")


def field(evidence: Evidence) -> Iterator[Outcome]:
    """What the network sees."""
    yield same("field", evidence.parameters.get("field"), evidence.plan.must_not_change.field.model_dump(), "the field")


def intended_use(evidence: Evidence) -> Iterator[Outcome]:
    """The statement that the model card carries."""
    package = evidence.parameters.get("package")
    stated = package.get("intended_use") if isinstance(package, Mapping) else None
    yield same("intended use", stated, evidence.plan.must_not_change.intended_use, "the intended use")


CHECKS: tuple[Check, ...] = (
    sensitivity,
    specificity,
    balanced_accuracy,
    calibration,
    slices,
    non_inferiority,
    shortcut,
    patients_apart,
    duplicates_apart,
    frozen_test_kept,
    export_parity,
    latency,
    size,
    hyperparameters,
    labels,
    field,
    intended_use,
)
