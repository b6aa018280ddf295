"""Readers who differ are found, page somebody, and never start a retraining."""

from dataclasses import replace

import numpy as np
import pytest

from monitoring.disagreement import doubted, reviewer_disagreement
from monitoring.findings import Finding, judged
from monitoring.judge_settings import JudgeSettings, PolicySettings
from monitoring.policy import QUALITY, Decision, PastWindow, PolicyState, Reviewed, cause_of, decide
from service.contract.reading import Read, read
from service.contract.store import StoredPrediction
from tests.support.records import prediction, review

SETTINGS = JudgeSettings(bootstraps=200)
PLENTY = Reviewed(1000, 100)


def cells(
    share: float, *, patients: int = 20, each: int = 10, sampled: bool = True, by_patient: bool = False
) -> list[Read]:
    """Each cell read by two, who differ in that share of the cells, or of the patients."""
    rng = np.random.default_rng(3)
    unlucky = rng.random(patients) < share
    found = []
    for number in range(patients * each):
        differ = unlucky[number % patients] if by_patient else rng.random() < share
        record = prediction(number, patient=f"patient-{number % patients}")
        said = {"one": "L1", "two": "L2" if differ else "L1", "adjudicator-1": "healthy"}
        reading = read([review(record, label, role=role, sampled=sampled) for role, label in said.items()])
        assert reading is not None
        found.append((StoredPrediction(number + 1, record, False), reading))
    return found


def judge(readings: list[Read]) -> Finding:
    return reviewer_disagreement(readings, SETTINGS, np.random.default_rng(1))


def test_readers_who_differ_on_every_third_cell_are_drift() -> None:
    finding = judge(cells(0.35))
    assert (finding.name, finding.state, finding.cells, finding.patients) == ("reviewer_disagreement", "drift", 200, 20)
    assert finding.figure == pytest.approx(0.35, abs=0.06)
    assert finding.figure is not None
    assert finding.detail == {"differ_most": {"L1, L2": round(finding.figure * 200)}}
    assert cause_of(finding) == QUALITY


def test_a_few_differences_are_ok() -> None:
    finding = judge(cells(0.1))
    assert (finding.state, finding.threshold) == ("ok", SETTINGS.max_disagreement)


def test_patients_are_drawn_anew_and_not_cells() -> None:
    """As often different, but by patient: that says far less of patients to come."""
    one, other = judge(cells(0.35)), judge(cells(0.35, by_patient=True))
    assert one.interval is not None and other.interval is not None
    assert other.interval[1] - other.interval[0] > 2 * (one.interval[1] - one.interval[0])


def test_of_three_readers_the_pairs_that_differ_count() -> None:
    found = []
    for stored, reading in cells(0.0):
        third = review(stored.record, "L3", role="three", sampled=True)
        found.append((stored, replace(reading, readers=(*reading.readers, third))))
    assert judge(found).figure == pytest.approx(2 / 3)


def test_second_readings_somebody_asked_for_do_not_count() -> None:
    finding = judge(cells(0.5, sampled=False))
    assert (finding.state, finding.cells) == ("insufficient", 0)
    mixed = [
        (stored, replace(reading, readers=tuple(replace(item, sampled=item.role == "one") for item in reading.readers)))
        for stored, reading in cells(0.5)
    ]
    assert judge(mixed).cells == 0


def test_disputed_answers_test_traffic_and_cells_without_a_patient_do_not_count() -> None:
    some = cells(0.0)
    some[0] = (replace(some[0][0], disputed=True), some[0][1])
    for number, change in ((1, {"test": True}), (2, {"patient": ""})):
        stored, reading = some[number]
        some[number] = (replace(stored, record=replace(stored.record, **change)), reading)
    assert judge(some).cells == 197


def reviewed_drift() -> list[Finding]:
    names = ("reviewed_balanced_accuracy", "reviewed_calibration", "long_reviewed_balanced_accuracy")
    values = {"severity": 2.0, "figure": 0.5, "interval": None, "threshold": 0.8, "cells": 200, "patients": 20}
    return [
        judged(name, "performance", **values)  # type: ignore[arg-type]
        for name in (*names, "estimated_accuracy")
    ]


def test_what_rests_on_reviews_is_unknown_while_readers_differ() -> None:
    states = [finding.state for finding in doubted(reviewed_drift(), judge(cells(0.35)))]
    assert states == ["unknown", "unknown", "unknown", "drift"]
    assert doubted(reviewed_drift(), judge(cells(0.1))) == reviewed_drift()


def decisions(count: int, readers: Finding, *, state: PolicyState, past: list[PastWindow]) -> Decision:
    """After so many more windows in which reviews speak against the model, as far as readers leave them a voice."""
    for _ in range(count):
        findings = doubted(reviewed_drift()[:2], readers)
        window = PastWindow("a" * 32, float(len(past)), (*findings, readers))
        decision = decide(window, past, state, PolicySettings(), float(len(past)), PLENTY)
        past.append(window)
        state = decision.state
    return decision


def test_readers_who_differ_page_and_start_no_retraining() -> None:
    apart, at_one = judge(cells(0.35)), judge(cells(0.1))
    assert decisions(3, at_one, state=PolicyState(), past=[]).kind == "retrain"
    decision = decisions(3, apart, state=PolicyState(), past=[])
    assert (decision.kind, decision.causes) == ("page", (QUALITY,))
    assert "readers disagree" in decision.why


def test_a_retraining_that_waits_is_withdrawn_when_readers_differ() -> None:
    past: list[PastWindow] = []
    state = decisions(3, judge(cells(0.1)), state=PolicyState(frozen=True), past=past).state
    assert state.pending == ("concept",)
    state = decisions(1, judge(cells(0.35)), state=state, past=past).state
    assert (state.pending, state.alarms) == ((), ("concept",))
    assert decisions(1, judge(cells(0.1)), state=state, past=past).state.pending == ("concept",)
