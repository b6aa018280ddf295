"""What the gate asks of a candidate: pure functions from evidence to outcomes, one entry of CHECKS each.

Nothing here reads a file or trusts a verdict computed elsewhere: figures come from what the exported graph said of the
frozen test cells, split integrity from the tables and the pictures' hashes. A check that has nothing to measure is `not
applicable`, which is never a silent pass: its reason says why.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from training import bootstrap, figures
from training import gate_rules as rules
from training.evidence import Evidence, Outcome, bound
from training.figures import Flags, Floats

Check = Callable[[Evidence], Iterator[Outcome]]

LEAST = 1e-6
"""A probability below it counts as this: no single cell decides a mean of logarithms."""


def sensitivity(evidence: Evidence) -> Iterator[Outcome]:
    """Share of malignant cells called malignant."""
    yield _malignant_figure(evidence, "sensitivity", figures.sensitivity, evidence.plan.floors.sensitivity)


def specificity(evidence: Evidence) -> Iterator[Outcome]:
    """Share of healthy cells called healthy."""
    yield _malignant_figure(evidence, "specificity", figures.specificity, evidence.plan.floors.specificity)


def _malignant_figure(
    evidence: Evidence, name: str, figure: Callable[[npt.ArrayLike], Floats], floor: float
) -> Outcome:
    if reason := _one_sided(evidence):
        return Outcome(name, "not applicable", None, floor, reason)
    two = figures.two_class(evidence.confusion(), evidence.is_malignant)
    return bound(name, float(figure(two)), floor, f"{name} on the test set")


def _one_sided(evidence: Evidence) -> str:
    """Why nothing can be said of malignant against healthy; empty when it can."""
    flags = evidence.is_malignant
    if flags.any() and not flags.all():
        return ""
    return f"no label of this data set is {'healthy' if flags.any() else 'malignant'}"


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
    everywhere = np.ones(len(evidence.label), dtype=bool)
    most = evidence.plan.floors.calibration_error
    yield bound("calibration", _error(evidence, everywhere), most, "calibration error", upper=True)


def _error(evidence: Evidence, cells: Flags) -> float:
    right = (evidence.called == evidence.label)[cells]
    weight = None if evidence.case_weight is None else evidence.case_weight[cells]
    bins = figures.calibration_bins(evidence.candidate.max(axis=1)[cells], right, weight=weight)
    return figures.debiased_calibration_error(bins)


def answered(evidence: Evidence) -> Iterator[Outcome]:
    """Share of test cells that are answered rather than referred, by the thresholds that the artifact carries."""
    name, floor = "answered", evidence.plan.floors.answered
    abstain, ood = (evidence.thresholds.get(key) for key in ("abstain", "ood"))
    share = None
    if isinstance(abstain, int | float) and isinstance(ood, int | float):
        share = float(((evidence.candidate.max(axis=1) >= abstain) & (evidence.ood_score <= ood)).mean())
    yield bound(name, share, floor, "share of test cells that are not referred")


def slices(evidence: Evidence) -> Iterator[Outcome]:
    """Sensitivity and specificity of each site, stain and scanner with enough cells and patients of the side."""
    plan, flags = evidence.plan.slices, evidence.is_malignant
    of_malignant, reason = flags[evidence.label], _one_sided(evidence)
    for where, within in named_slices(evidence):
        for side, name, figure, floor in (
            (of_malignant, "sensitivity", figures.sensitivity, plan.sensitivity),
            (~of_malignant, "specificity", figures.specificity, plan.specificity),
        ):
            cells, title = within & side, f"{name} at {where}"
            size, patients = int(cells.sum()), len(np.unique(evidence.unit[cells]))
            few = f"{size} cells of {patients} patients are too few to tell: {plan.cells} of {plan.patients} needed"
            if reason or size < plan.cells or patients < plan.patients:
                yield Outcome(title, "not applicable", None, floor, reason or few)
            else:
                confusion = figures.two_class(evidence.confusion(cells), flags)
                yield bound(title, float(figure(confusion)), floor, title)


def slice_calibration(evidence: Evidence) -> Iterator[Outcome]:
    """Debiased calibration error of each site, stain and scanner with enough cells."""
    plan = evidence.plan.slices
    for where, cells in named_slices(evidence):
        size, title = int(cells.sum()), f"calibration at {where}"
        if size < plan.calibration_cells:
            few = f"{size} cells are too few to tell: {plan.calibration_cells} needed"
            yield Outcome(title, "not applicable", None, plan.calibration_error, few)
        else:
            error = _error(evidence, cells)
            yield bound(title, error, plan.calibration_error, f"calibration error at {where}", upper=True)


def named_slices(evidence: Evidence) -> list[tuple[str, Flags]]:
    """What each slice is called and its cells [n]. Names of the same cells, such as a site and its only scanner, are
    one slice; a kind that no cell names is none.
    """
    found: dict[bytes, tuple[list[str], Flags]] = {}
    for kind, values in evidence.slices.items():
        for value in np.unique(values).tolist() if (values != "").any() else []:
            cells: Flags = values == value
            found.setdefault(cells.tobytes(), ([], cells))[0].append(f"{kind} {value}" if value else f"no {kind} named")
    return [(", ".join(names), cells) for names, cells in found.values()]


def non_inferiority(evidence: Evidence) -> Iterator[Outcome]:
    """The candidate is not worse than the model in production by more than the margin, nor misses more blasts."""
    plan, names = evidence.plan.non_inferiority, ("non-inferiority", "non-inferiority in sensitivity")
    if evidence.champion is None:
        yield Outcome(names[0], "not applicable", None, plan.margin, evidence.no_champion)
        yield Outcome(names[1], "not applicable", None, plan.sensitivity_margin, evidence.no_champion)
        return
    theirs, difference = evidence.champion.argmax(axis=1).astype(np.int64), "lower 95 % bound of (candidate − champion)"
    yield bound(names[0], evidence.gain_over(theirs), plan.margin, f"{difference} balanced accuracy")
    if reason := _one_sided(evidence):
        yield Outcome(names[1], "not applicable", None, plan.sensitivity_margin, reason)
    else:
        lower = evidence.gain_over(
            theirs, lambda confusion: figures.sensitivity(figures.two_class(confusion, evidence.is_malignant))
        )
        yield bound(names[1], lower, plan.sensitivity_margin, f"{difference} sensitivity")


def case_mix(evidence: Evidence) -> Iterator[Outcome]:
    """Where the candidate is for another case mix than the model in production, it is the better one there."""
    name = "case mix"
    if evidence.priors is None or evidence.champion is None or evidence.case_weight is None:
        why = "the candidate is for the case mix of the data" if evidence.priors is None else evidence.no_champion
        yield Outcome(name, "not applicable", None, 0.0, why)
    elif evidence.champion_priors is not None and np.allclose(evidence.priors, evidence.champion_priors, atol=1e-6):
        yield Outcome(name, "not applicable", None, 0.0, "the model in production is for the same case mix")
    else:
        ours, theirs = (
            np.log(np.maximum(said[np.arange(len(evidence.label)), evidence.label].astype(np.float64), LEAST))
            for said in (evidence.candidate, evidence.champion)
        )
        drawn = evidence.weights * evidence.case_weight
        found = bootstrap.interval(drawn @ (ours - theirs) / drawn.sum(axis=1))
        what = "lower 95 % bound of (candidate − champion) log-likelihood of a cell, in nats, at the case mix it is for"
        yield bound(name, None if found is None else found[0], 0.0, what)


def shortcut(evidence: Evidence) -> Iterator[Outcome]:
    """The network knows more than the colours of the picture."""
    lower = evidence.gain_over(evidence.shortcut)
    yield bound(
        "shortcut",
        lower,
        evidence.plan.shortcut.margin,
        "lower 95 % bound of (network − colour forest) balanced accuracy",
    )


def export_parity(evidence: Evidence) -> Iterator[Outcome]:
    """The exported graph answers what the trained network does, in batches and one by one, and is the graph at hand."""
    name, most = "export parity", evidence.plan.export.probability_difference
    what = "largest difference of a probability after export"
    reported = bound(name, evidence.export.get("max_abs_probability_difference"), most, what, upper=True)
    measured = float(np.abs(evidence.candidate.astype(np.float64) - evidence.trained).max())
    if evidence.export.get("onnx_sha256") != evidence.model_sha256:
        yield Outcome(name, "refused", None, most, "reports/export.json is about another graph: run `dvc repro`")
    elif not evidence.row_checks_exact:
        yield Outcome(name, "refused", None, most, "the graph's checksums of its inputs are not the service's")
    elif reported.state == "refused":
        yield reported
    else:
        yield bound(name, measured, most, what, upper=True)


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


CHECKS: tuple[Check, ...] = (
    rules.enough_cells,
    sensitivity,
    specificity,
    balanced_accuracy,
    calibration,
    answered,
    slices,
    slice_calibration,
    non_inferiority,
    case_mix,
    shortcut,
    rules.patients_apart,
    rules.duplicates_apart,
    rules.near_duplicates_apart,
    rules.frozen_test_kept,
    export_parity,
    latency,
    size,
    rules.parameters,
    rules.hyperparameters,
    rules.labels,
    rules.field,
    rules.intended_use,
)
