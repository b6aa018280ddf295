"""One window in, every finding out, the same for the same seed."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from monitoring.calibration import NAME as CALIBRATION
from monitoring.disagreement import NAME as DISAGREEMENT
from monitoring.findings import FAMILIES, Finding, insufficient
from monitoring.findings import judged as judged_finding
from monitoring.judge import FINDINGS, judge, judge_arrays
from monitoring.judge_settings import JudgeSettings
from monitoring.long_view import NAMES as LONG_VIEW
from monitoring.window import Window
from service.contract.statistics import STATISTICS
from service.contract.store import StoredPrediction
from tests.support.records import prediction, review
from tests.support.worlds import LABELS, Change, World

SETTINGS = JudgeSettings(bootstraps=100)
WORLD = World()
REFERENCE = WORLD.reference(np.random.default_rng(0), patients=48)


def window_of_records(complete: bool = True) -> Window:
    cells = WORLD.window(np.random.default_rng(1))
    items = []
    for row in range(len(cells)):
        record = prediction(
            row,
            patient=f"patient-{cells.patient[row]}",
            label=LABELS[cells.predicted[row]],
            probabilities=dict(zip(LABELS, cells.probabilities[row].tolist(), strict=True)),
            embedding=tuple(cells.embedding[row].tolist()),
            statistics=dict(zip(STATISTICS, cells.statistics[row].tolist(), strict=True)),
        )
        items.append(StoredPrediction(row + 1, record, False))
    return Window("a" * 32, 1, len(items), 0.0, 1.0, complete, tuple(items))


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_every_finding_comes_always_and_in_order() -> None:
    findings = judge(window_of_records(), REFERENCE, SETTINGS, 7, labels=LABELS)
    assert tuple((finding.name, finding.family) for finding in findings) == FINDINGS
    assert {family for _, family in FINDINGS} | {"slice", "planned"} == set(FAMILIES)
    states = {finding.name: finding.state for finding in findings}
    reviewed = ("reviewed_balanced_accuracy", "requested_balanced_accuracy", CALIBRATION, DISAGREEMENT)
    few = {*reviewed, *(name for name, _ in LONG_VIEW)}
    assert {name for name, state in states.items() if state == "insufficient"} == few
    assert {state for name, state in states.items() if name not in few} == {"ok"}


def test_the_same_seed_gives_the_same_findings_and_another_one_other_draws() -> None:
    window = window_of_records()
    once, again, other = (judge(window, REFERENCE, SETTINGS, seed, labels=LABELS) for seed in (7, 7, 8))
    assert once == again
    assert by_name(once)["embedding"].detail["p"] != by_name(other)["embedding"].detail["p"]
    assert by_name(once)["embedding"].figure == by_name(other)["embedding"].figure


def test_a_window_that_expired_is_insufficient_whatever_it_holds() -> None:
    findings = judge(window_of_records(complete=False), REFERENCE, SETTINGS, 7, labels=LABELS)
    assert tuple((finding.name, finding.family) for finding in findings) == FINDINGS
    assert {finding.state for finding in findings} == {"insufficient"}
    assert {(finding.cells, finding.patients) for finding in findings} == {(200, 20)}


def test_changed_cells_make_label_shift_and_the_estimate_unknown() -> None:
    cells = WORLD.window(np.random.default_rng(2), change=Change(embedding=2.0), shares=(0.1, 0.1, 0.5, 0.3))
    findings = by_name(judge_arrays(cells, REFERENCE, SETTINGS, 1, labels=LABELS))
    assert findings["embedding"].state == "drift"
    assert (findings["label_shift"].state, findings["label_shift"].severity) == ("unknown", None)
    assert findings["label_shift"].figure is not None  # still shown
    assert findings["estimated_accuracy"].state == "unknown"


def test_label_shift_alone_is_label_shift() -> None:
    cells = WORLD.window(np.random.default_rng(3), patients=40, shares=(0.1, 0.1, 0.77, 0.03))
    findings = by_name(judge_arrays(cells, REFERENCE, SETTINGS, 1, labels=LABELS))
    assert findings["label_shift"].state == "drift"
    assert not any(finding.out for finding in findings.values() if finding.family == "covariate")


def test_reviews_reach_both_findings() -> None:
    window = window_of_records()
    assert isinstance(window.cells, tuple)
    reviewed = [
        (item, review(item.record, item.record.label, sampled=number % 2 == 0))
        for number, item in enumerate(window.cells)
    ]
    findings = by_name(judge(window, REFERENCE, SETTINGS, 7, labels=LABELS, reviewed=reviewed))
    assert findings["reviewed_balanced_accuracy"].state == "ok"
    assert findings["reviewed_balanced_accuracy"].figure == 1.0
    assert (findings["requested_balanced_accuracy"].state, findings["requested_balanced_accuracy"].cells) == (
        "insufficient",
        100,
    )


def test_another_models_reference_is_refused() -> None:
    cells = WORLD.window(np.random.default_rng(2))
    with pytest.raises(ValueError, match="same model"):
        judge_arrays(cells, REFERENCE, SETTINGS, 1, labels=LABELS[:3])
    with pytest.raises(ValueError, match="same model"):
        judge_arrays(replace(cells, embedding=cells.embedding[:, :4]), REFERENCE, SETTINGS, 1, labels=LABELS)


def test_findings_survive_json() -> None:
    for finding in judge(window_of_records(), REFERENCE, SETTINGS, 7, labels=LABELS):
        text = json.dumps(finding.to_json(), allow_nan=False)
        assert Finding.from_json(json.loads(text)) == finding
    before_slices = insufficient("a", "quality", 1, 1, "few").to_json()
    del before_slices["slice"]
    assert Finding.from_json(before_slices) == insufficient("a", "quality", 1, 1, "few")
    with pytest.raises(ValueError, match="surprise"):
        Finding.from_json({**insufficient("a", "quality", 1, 1, "few").to_json(), "surprise": 1})


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "fine"},
        {"family": "weather"},
        {"figure": float("nan")},
        {"interval": (0.0, float("inf"))},
        {"severity": None},
        {"severity": 0.5},
        {"state": "unknown"},
    ],
    ids=str,
)
def test_a_finding_that_could_be_misread_is_refused(changes: dict[str, Any]) -> None:
    finding = judged_finding(
        "embedding", "covariate", severity=2.0, figure=2.0, interval=(1.0, 3.0), threshold=1.0, cells=9, patients=3
    )
    assert finding.out
    with pytest.raises(ValueError, match="embedding"):
        replace(finding, **changes)
