"""Each planted fault is refused for its own reason and no other, and only because its check is in the list."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from service.contract.errors import ConfigError, NotFound
from service.contract.files import sha256_file
from service.contract.predictor import Predictor
from tests.support import evidence as fixture
from tests.support.artifacts import tiny_artifact
from tests.support.images import smear
from training import gate, gate_checks, gate_rules
from training.evidence import Evidence, Outcome, bound
from training.figures import Flags
from training.gate import judge, load_champion, report, rescore
from training.gate_checks import CHECKS, Check

Fault = Callable[[Evidence], Evidence]


def refusals(outcomes: list[Outcome]) -> list[str]:
    return [outcome.name for outcome in outcomes if outcome.state == "refused"]


def at(evidence: Evidence, site: str) -> Flags:
    there: Flags = evidence.slices["site"] == site
    return there


FAULTS: list[tuple[Check, str, Fault]] = [
    (
        gate_checks.sensitivity,
        "sensitivity",
        lambda good: fixture.instead(good, fixture.spread(good.label > 0, 0.12), 0),
    ),
    (
        gate_checks.specificity,
        "specificity",
        lambda good: fixture.instead(good, fixture.spread(good.label == 0, 0.12), 1),
    ),
    (
        gate_checks.balanced_accuracy,
        "balanced accuracy",
        lambda good: fixture.calling(good, fixture.confused(good.label, 0.3)),
    ),
    (
        gate_checks.calibration,
        "calibration",
        # Not sure enough anywhere: the slices are told to look away.
        lambda good: fixture.lenient_slices(fixture.saying(good, fixture.probabilities(good.called, 0.85))),
    ),
    (
        gate_checks.slice_calibration,
        "calibration at site site-b, scanner scanner-b",
        lambda good: fixture.saying(
            good, np.where(at(good, "site-b")[:, None], fixture.probabilities(good.called, 0.9), good.candidate)
        ),
    ),
    (
        gate_checks.answered,
        "answered",
        lambda good: replace(good, thresholds={**good.thresholds, "abstain": 0.999}),
    ),
    (
        gate_checks.answered,
        "answered",
        lambda good: replace(good, ood_score=np.where(fixture.spread(good.label >= 0, 0.6), 1.2, good.ood_score)),
    ),
    (
        gate_checks.slices,
        "sensitivity at site site-b, scanner scanner-b",
        lambda good: fixture.instead(good, fixture.spread((good.label > 0) & at(good, "site-b"), 0.18), 0),
    ),
    (
        gate_checks.slices,
        "specificity at site site-a, scanner scanner-a",
        lambda good: fixture.instead(good, fixture.spread((good.label == 0) & at(good, "site-a"), 0.18), 1),
    ),
    (
        gate_checks.non_inferiority,
        "non-inferiority",
        lambda good: replace(
            fixture.calling(good, fixture.confused(good.label, 0.1)), champion=fixture.probabilities(good.label, 0.9)
        ),
    ),
    (
        gate_checks.slices,
        "sensitivity at stain giemsa",
        lambda good: fixture.instead(
            good, fixture.spread((good.label > 0) & (good.slices["stain"] == "giemsa"), 0.18), 0
        ),
    ),
    (
        gate_checks.non_inferiority,
        "non-inferiority in sensitivity",
        # Better at telling the subtypes apart, and at missing blasts.
        lambda good: fixture.instead(
            replace(good, champion=fixture.probabilities(fixture.confused(good.label, 0.25), 0.7)),
            fixture.spread(good.label > 0, 0.07),
            0,
        ),
    ),
    (
        gate_checks.case_mix,
        "case mix",
        # The model in production is as often wrong, and less sure of it.
        lambda good: replace(
            good,
            priors=np.full(len(good.labels), 0.25),
            champion=0.8 * good.candidate + 0.2 * np.eye(len(good.labels), dtype=np.float32)[good.label],
        ),
    ),
    (
        gate_checks.shortcut,
        "shortcut",
        lambda good: replace(good, shortcut=fixture.confused(good.label, 0.06)),
    ),
    (
        gate_rules.patients_apart,
        "patients apart",
        # The split's unit differs, so that only the patient's own name gives it away.
        lambda good: replace(
            fixture.with_cells(good, patient=good.unit[0]), frozen=good.frozen - {good.unit[0]}, stored=frozenset()
        ),
    ),
    (
        gate_rules.patients_apart,
        "patients apart",
        lambda good: fixture.with_cells(good, unit="patient-92", patient=""),
    ),
    (
        gate_rules.duplicates_apart,
        "duplicates apart",
        lambda good: fixture.with_cells(good, picture="test-7"),
    ),
    (
        gate_rules.near_duplicates_apart,
        "near-duplicates apart",
        lambda good: fixture.with_cells(good, near="near-7"),
    ),
    (
        gate_rules.enough_cells,
        "test patients",
        lambda good: replace(
            good, plan=good.plan.model_copy(update={"test_set": good.plan.test_set.model_copy(update={"patients": 13})})
        ),
    ),
    (
        gate_rules.enough_cells,
        "test cells",
        lambda good: replace(
            good, plan=good.plan.model_copy(update={"test_set": good.plan.test_set.model_copy(update={"cells": 241})})
        ),
    ),
    (
        gate_rules.frozen_test_kept,
        "frozen test set kept",
        lambda good: replace(fixture.with_cells(good, patient=""), frozen=good.frozen | {"patient-94"}),
    ),
    (
        gate_rules.frozen_test_kept,
        "frozen test set kept",
        # Of the frozen patient under another unit's name.
        lambda good: replace(fixture.with_cells(good, unit="near-own"), frozen=good.frozen | {"patient-94"}),
    ),
    (
        gate_rules.frozen_test_kept,
        "frozen test set whole",
        lambda good: replace(good, stored=good.stored | {"patient-95"}),
    ),
    (
        gate_checks.export_parity,
        "export parity",
        lambda good: fixture.exported(good, max_abs_probability_difference=2e-4),
    ),
    (
        gate_checks.export_parity,
        "export parity",
        lambda good: fixture.exported(good, onnx_sha256="cd" * 32),
    ),
    (
        gate_checks.export_parity,
        "export parity",
        lambda good: replace(good, trained=good.candidate + np.float32(2e-4)),
    ),
    (gate_checks.export_parity, "export parity", lambda good: replace(good, row_checks_exact=False)),
    (gate_rules.parameters, "parameters", lambda good: fixture.exported(good, parameters=10**7)),
    (gate_checks.latency, "latency", lambda good: fixture.exported(good, latency_ms_p50_batch1=400.0)),
    (gate_checks.size, "size", lambda good: fixture.exported(good, model_bytes=10**9)),
    (
        gate_rules.hyperparameters,
        "hyperparameters",
        lambda good: fixture.with_parameters(good, train={"epochs": 51}),
    ),
    (
        gate_rules.hyperparameters,
        "hyperparameters",
        lambda good: fixture.with_parameters(good, model={"cell": "gru", "attention": True}),
    ),
    (gate_rules.labels, "labels", lambda good: replace(good, labels=("healthy", "L1", "L3", "L2"))),
    (gate_rules.labels, "labels", lambda good: replace(quiet(good), malignant=("L1", "L2"))),
    (
        gate_rules.field,
        "field",
        lambda good: fixture.with_parameters(good, field={**fixture.FIELD, "field_um": 30.0}),
    ),
    (
        gate_rules.field,
        "field",
        lambda good: fixture.with_parameters(good, field={**fixture.FIELD, "crop": 0.75}),
    ),
    (
        gate_rules.intended_use,
        "intended use",
        lambda good: fixture.with_parameters(good, package={"intended_use": "Diagnosis without a reader."}),
    ),
]


def quiet(good: Evidence) -> Evidence:
    """The same candidate, but no L3 cell is called L1 or L2: with L3 healthy, that would cost specificity too."""
    called = np.where(good.label == 3, 3, good.called)
    called = np.where((called == 3) & (good.label < 3), good.label, called).astype(np.int64)
    return fixture.calling(good, called)


@pytest.fixture(scope="module")
def good() -> Evidence:
    return fixture.good()


def test_a_good_candidate_passes_every_check(good: Evidence) -> None:
    outcomes = judge(replace(good, priors=np.full(len(good.labels), 0.25)))
    assert refusals(outcomes) == []
    assert {outcome.state for outcome in outcomes} == {"passed"}


@pytest.mark.parametrize(
    ("check", "name", "fault"), FAULTS, ids=[f"{name}-{i}" for i, (_, name, _) in enumerate(FAULTS)]
)
def test_a_planted_fault_is_refused_for_that_reason_alone_and_passes_without_its_check(
    check: Check, name: str, fault: Fault, good: Evidence
) -> None:
    spoiled = fault(good)
    assert refusals(judge(spoiled)) == [name]
    assert refusals(judge(spoiled, [other for other in CHECKS if other is not check])) == []


def test_every_check_has_a_planted_fault() -> None:
    assert {check for check, _, _ in FAULTS} == set(CHECKS)


def test_a_refusal_lists_every_reason_with_the_measured_and_the_required_figure(good: Evidence) -> None:
    spoiled = fixture.exported(good, model_bytes=10**9, latency_ms_p50_batch1=400.0)
    result = report(judge(spoiled), candidate="ab" * 32, champion=None)
    assert result["decision"] == "refused"
    reasons = result["reasons"]
    assert isinstance(reasons, list)
    assert len(reasons) == 2
    assert reasons[0] == "latency: median milliseconds for a cell is 400, required is at most 25"
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_reasons_name_no_patient(good: Evidence) -> None:
    spoiled = fixture.with_cells(good, patient=str(good.unit[0]))
    result = report(judge(spoiled), candidate="", champion=None)
    assert result["reasons"]
    assert "patient-" not in json.dumps(result["reasons"])


def test_without_a_champion_non_inferiority_is_not_applicable_and_says_so(good: Evidence) -> None:
    outcomes = judge(replace(good, champion=None, no_champion="no model is in production yet"))
    by_name = {outcome.name: outcome for outcome in outcomes}
    assert refusals(outcomes) == []
    for name in ("non-inferiority", "non-inferiority in sensitivity"):
        assert by_name[name].state == "not applicable"
        assert by_name[name].reason == "no model is in production yet"


def test_a_small_site_is_not_applicable_rather_than_passed(good: Evidence) -> None:
    tiny = np.where(np.isin(good.unit, ["patient-00", "patient-15"]), "site-c", good.slices["site"])
    states = {outcome.name: outcome for outcome in judge(replace(good, slices={**good.slices, "site": tiny}))}
    for name in ("sensitivity at site site-c", "specificity at site site-c"):
        assert states[name].state == "not applicable"
        assert "20 cells of 1 patients" in states[name].reason


def test_a_set_without_malignant_labels_has_no_malignant_figures_and_is_refused_for_its_labels(good: Evidence) -> None:
    outcomes = judge(replace(good, malignant=()))
    states = {outcome.name: outcome.state for outcome in outcomes}
    assert states["sensitivity"] == states["specificity"] == "not applicable"
    assert states["non-inferiority"] == "passed"
    two_sided = [o for o in outcomes if o.name.startswith(("sensitivity", "specificity")) or "in sens" in o.name]
    assert len(two_sided) == 2 + 2 * 4 + 1
    assert {outcome.reason for outcome in two_sided} == {"no label of this data set is malignant"}
    assert refusals(outcomes) == ["labels"]


def test_the_same_cells_under_two_names_are_one_slice_and_a_kind_that_no_cell_names_is_none(good: Evidence) -> None:
    everywhere = np.full(len(good.label), "")
    named = dict(gate_checks.named_slices(replace(good, slices={**good.slices, "stain": everywhere})))
    assert list(named) == ["site site-a, scanner scanner-a", "site site-b, scanner scanner-b"]
    assert [*dict(gate_checks.named_slices(good))][2:] == ["no stain named", "stain giemsa"]


def test_a_slice_too_small_to_be_calibrated_is_not_applicable_with_its_size(good: Evidence) -> None:
    slices = good.plan.slices.model_copy(update={"calibration_cells": 400})
    plan = good.plan.model_copy(update={"slices": slices})
    states = {outcome.name: outcome for outcome in judge(replace(good, plan=plan))}
    assert states["calibration at stain giemsa"].state == "not applicable"
    assert "320 cells are too few to tell: 400 needed" in states["calibration at stain giemsa"].reason
    assert states["calibration at no stain named"].state == "passed"


@pytest.mark.parametrize("missing", ["abstain", "ood"])
def test_thresholds_that_are_not_there_answer_nothing(good: Evidence, missing: str) -> None:
    thresholds = {name: value for name, value in good.thresholds.items() if name != missing}
    assert refusals(judge(replace(good, thresholds=thresholds))) == ["answered"]


def test_a_test_set_of_other_data_altogether_is_said_not_refused(good: Evidence) -> None:
    states = {outcome.name: outcome for outcome in judge(replace(good, stored=frozenset({"somebody", "else"})))}
    assert states["frozen test set whole"].state == "not applicable"
    assert "other data" in states["frozen test set whole"].reason


def test_a_manifest_that_names_no_near_duplicates_is_not_applicable(good: Evidence) -> None:
    states = {o.name: o.state for o in judge(replace(good, cells=good.cells.drop(columns="near")))}
    assert states["near-duplicates apart"] == "not applicable"


def test_a_refusal_shows_enough_digits_to_be_understood() -> None:
    assert bound("x", 0.899999, 0.9, "the share").reason == "the share is 0.899999, required is at least 0.9"
    assert bound("x", 0.8, 0.9, "the share").reason == "the share is 0.8, required is at least 0.9"


@pytest.mark.parametrize(
    "missing", ["max_abs_probability_difference", "latency_ms_p50_batch1", "model_bytes", "parameters"]
)
@pytest.mark.parametrize("value", [None, float("nan"), "3", True])
def test_a_figure_that_was_not_measured_never_passes(good: Evidence, missing: str, value: object) -> None:
    assert len(refusals(judge(fixture.exported(good, **{missing: value})))) == 1


def test_a_label_without_test_cells_is_refused_rather_than_left_out_of_the_mean(good: Evidence) -> None:
    kept = good.label != 3
    assert good.champion is not None
    smaller = replace(
        good,
        label=good.label[kept],
        unit=good.unit[kept],
        slices={kind: values[kept] for kind, values in good.slices.items()},
        candidate=good.candidate[kept],
        trained=good.trained[kept],
        ood_score=good.ood_score[kept],
        champion=good.champion[kept],
        shortcut=good.shortcut[kept],
    )
    assert refusals(judge(smaller)) == ["test cells", "test patients", "balanced accuracy"]


def test_resampling_patients_is_what_makes_a_lucky_few_insufficient(good: Evidence) -> None:
    """Better than the shortcut on the cells of three patients only: certain by cells, not by patients."""
    lucky = np.isin(good.unit, [f"patient-{n}" for n in (12, 24, 36)])
    shortcut = np.where(lucky, (good.label + 1) % 4, good.called).astype(np.int64)
    by_patients = replace(good, shortcut=shortcut)
    by_cells = replace(by_patients, unit=np.array([f"cell-{i}" for i in range(len(good.unit))]))
    required = good.plan.shortcut.margin - 0.03
    lower_of_patients, lower_of_cells = by_patients.gain_over(shortcut), by_cells.gain_over(shortcut)
    assert lower_of_patients is not None and lower_of_cells is not None
    assert lower_of_patients < required < lower_of_cells


@pytest.mark.parametrize(
    ("measured", "upper", "state"),
    [(0.9, False, "passed"), (0.8999, False, "refused"), (0.9, True, "passed"), (0.9001, True, "refused")],
)
def test_a_bound_is_met_at_its_very_value(measured: float, upper: bool, state: str) -> None:
    assert bound("x", measured, 0.9, "x", upper=upper).state == state


def test_the_champion_is_scored_on_the_pixels_at_hand_in_the_candidates_order_of_labels(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path / "model", labels=("L3", "healthy", "L1", "L2"), malignant=("L1", "L2", "L3"))
    champion = Predictor(artifact)
    pixels = np.stack([smear(seed=i, size=32) for i in range(70)])
    field = {"height": 32, "width": 32, "field_um": 20.0}
    scores, why = rescore(champion, pixels, fixture.LABELS, {**field, "crop": 1.0})
    assert why == ""
    assert rescore(champion, pixels, fixture.LABELS, field)[1] == ""
    assert scores is not None
    np.testing.assert_array_equal(scores, champion.predict(pixels).probabilities[:, [1, 2, 3, 0]])


@pytest.mark.parametrize(
    ("labels", "change", "word"),
    [
        (("neutrophil", "lymphocyte"), {}, "answers"),
        (fixture.LABELS, {"field_um": 30.0}, "field"),
        (fixture.LABELS, {"crop": 0.75}, "field"),
    ],
)
def test_a_champion_that_answers_another_question_is_no_champion(
    tmp_path: Path, labels: tuple[str, ...], change: dict[str, float], word: str
) -> None:
    champion = Predictor(tiny_artifact(tmp_path / "model"))
    field = {"height": 32, "width": 32, "field_um": 20.0, **change}
    scores, why = rescore(champion, np.zeros((1, 32, 32, 3), np.uint8), labels, field)
    assert scores is None
    assert word in why


def test_a_champion_that_the_model_store_lacks_stops_the_gate(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="BLASTWATCH_MODELS_DIR"):
        load_champion("ab" * 16, tmp_path)


def prepared(folder: Path, pictures: dict[str, bytes], split: pd.DataFrame, manifest: pd.DataFrame) -> Path:
    (folder / "cells").mkdir(parents=True)
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
    split.to_parquet(folder / "split.parquet")
    manifest.to_parquet(folder / "manifest.parquet")
    return folder


def test_split_integrity_is_read_off_the_files_not_off_their_names(tmp_path: Path) -> None:
    """Two files with different names and the same bytes are the same picture."""
    rows = pd.DataFrame({"path": ["cells/a.png", "cells/b.png"], "unit": ["u1", "u2"], "label": ["L1", "L2"]})
    folder = prepared(
        tmp_path / "prepared",
        {"cells/a.png": b"same", "cells/b.png": b"same"},
        rows[["path"]].assign(split=["train", "test"]),
        rows.assign(patient=["p1", ""]),
    )
    cells = gate.cells_of_splits(folder, fixture.LABELS)
    assert cells["patient"].tolist() == ["p1", ""]
    assert set(cells["picture"]) == {sha256_file(folder / "cells/a.png")}
    outcome = next(gate_rules.duplicates_apart(SimpleNamespace(cells=cells)))  # type: ignore[arg-type]
    assert outcome.state == "refused"


def test_a_split_of_another_manifest_is_an_error(tmp_path: Path) -> None:
    rows = pd.DataFrame({"path": ["cells/a.png"], "unit": ["u1"], "label": ["L1"], "patient": [""]})
    other = rows[["path"]].assign(path="cells/b.png", split="train")
    with pytest.raises(ConfigError, match="dvc repro split"):
        gate.cells_of_splits(prepared(tmp_path / "prepared", {}, other, rows), fixture.LABELS)
