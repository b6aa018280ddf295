"""Performance: from random reviews, with those somebody asked for kept apart; an estimate that says it is one."""

import doctest
from dataclasses import replace

import numpy as np
import pytest

from monitoring import performance as module
from monitoring.findings import Finding
from monitoring.judge_settings import JudgeSettings
from monitoring.performance import (
    ESTIMATED,
    OOD,
    REFERRED,
    WITHOUT_PATIENT,
    estimated_accuracy,
    reviewed_performance,
    reviews,
    service_quality,
)
from service.contract.records import ReviewRecord
from service.contract.reference import Reference
from service.contract.store import StoredPrediction
from tests.support.records import prediction, review
from tests.support.worlds import LABELS, World

SETTINGS = JudgeSettings(bootstraps=200)
WORLD = World()
REFERENCE = WORLD.reference(np.random.default_rng(0), patients=48)

Pairs = list[tuple[StoredPrediction, ReviewRecord]]


def read(seed: int, *, patients: int = 40, wrong: float = 0.0, sampled: bool = True, first: int = 1) -> Pairs:
    """Reviews of ten cells a patient; readers call a share `wrong` of the answers another class."""
    rng = np.random.default_rng(seed)
    pairs: Pairs = []
    for number in range(10 * patients):
        answered = int(rng.choice(4, p=[0.4, 0.3, 0.2, 0.1]))
        read_as = (answered + 1) % 4 if rng.random() < wrong else answered
        record = prediction(first + number, label=LABELS[answered], patient=f"{seed}-{number % patients}")
        stored = StoredPrediction(first + number, record, False)
        pairs.append((stored, review(record, LABELS[read_as], sampled=sampled)))
    return pairs


def judged(pairs: Pairs, *, sampled: bool = True, reference: Reference = REFERENCE) -> Finding:
    items = reviews(pairs, LABELS, sampled=sampled, most=SETTINGS.max_reviews)
    return reviewed_performance(items, reference, SETTINGS, np.random.default_rng(1), LABELS, sampled=sampled)


def test_readers_who_agree_are_ok() -> None:
    finding = judged(read(1, wrong=0.05))
    assert (finding.name, finding.state, finding.cells, finding.patients) == (
        "reviewed_balanced_accuracy",
        "ok",
        400,
        40,
    )
    assert finding.figure is not None and finding.interval is not None
    assert finding.figure == pytest.approx(0.95, abs=0.03)
    assert finding.interval[0] < finding.figure < finding.interval[1]


def test_concept_drift_is_drift_with_figures_a_person_can_check() -> None:
    finding = judged(read(1, wrong=0.4))
    assert finding.state == "drift"
    assert finding.figure is not None and finding.threshold is not None
    assert finding.figure == pytest.approx(0.6, abs=0.05)
    assert finding.threshold == pytest.approx(finding.detail["reference"] - SETTINGS.performance_margin, abs=1e-4)
    assert finding.detail["accuracy"] == pytest.approx(0.6, abs=0.05)
    assert set(finding.detail["sensitivity"]) == set(LABELS)


def test_a_loss_that_chance_explains_is_ok() -> None:
    """Two patients of ten read wrongly are a fifth of the cells, and two patients."""
    pairs = read(2, patients=10, wrong=0.05)
    unlucky = {"2-0", "2-1"}
    pairs = [
        (item, review(item.record, "L2", sampled=True) if item.record.patient in unlucky else verdict)
        for item, verdict in pairs
    ]
    finding = judged(pairs)
    assert finding.figure is not None and finding.threshold is not None
    assert finding.figure < finding.threshold
    assert finding.state == "ok"


def test_reviews_somebody_asked_for_are_shown_and_decide_nothing() -> None:
    pairs = [*read(1, wrong=0.05), *read(3, wrong=0.9, sampled=False, first=1000)]
    assert judged(pairs).state == "ok"
    assert judged(pairs).cells == 400
    asked = judged(pairs, sampled=False)
    assert (asked.name, asked.state) == ("requested_balanced_accuracy", "insufficient")
    assert asked.figure == pytest.approx(0.1, abs=0.05)


def test_few_reviews_of_few_patients_or_of_one_class_are_insufficient() -> None:
    assert judged([]).state == "insufficient"
    assert judged(read(1, patients=40)[:49]).state == "insufficient"
    assert judged(read(1, patients=9)).state == "insufficient"
    one_class = [pair for pair in read(1) if pair[1].label == "L1"]
    assert len(one_class) > 50
    assert judged(one_class).state == "insufficient"


def test_a_class_with_few_reviews_does_not_enter_on_either_side() -> None:
    pairs = [pair for pair in read(1, wrong=0.0) if pair[1].label != "L3"]
    finding = judged(pairs)
    assert set(finding.detail["sensitivity"]) == {"healthy", "L1", "L2"}
    confusion = REFERENCE.confusion
    recalls = (np.diag(confusion) / confusion.sum(axis=1))[:3]
    assert finding.detail["reference"] == pytest.approx(recalls.mean(), abs=1e-4)


def test_only_the_latest_reviews_count_and_only_fit_ones() -> None:
    old, new = read(1, wrong=0.9), read(2, wrong=0.0, first=1000)
    items = reviews([*new, *old], LABELS, sampled=True, most=400)
    assert (items.predicted == items.label).all() and len(items.label) == 400
    item, verdict = new[0]
    odd: Pairs = [
        (replace(item, disputed=True), verdict),
        (replace(item, record=replace(item.record, test=True)), verdict),
        (replace(item, record=replace(item.record, patient="")), verdict),
        (item, replace(verdict, label="basophil")),
        (item, verdict),
    ]
    items = reviews(odd, LABELS, sampled=True, most=400)
    assert (len(items.label), items.left_out, items.other) == (1, 1, 1)


def test_the_estimate_says_what_it_is_and_falls_with_confidence() -> None:
    rng = np.random.default_rng(1)
    window = WORLD.window(rng, patients=40)
    fine = estimated_accuracy(window, REFERENCE, SETTINGS, rng, shifted="")
    assert (fine.name, fine.state, fine.detail["estimate"], fine.detail["blind_to"]) == (
        ESTIMATED,
        "ok",
        True,
        "concept drift",
    )
    believed = window.probabilities.max(axis=1).mean()
    assert fine.figure == pytest.approx(believed)
    unsure = replace(window, probabilities=0.6 * window.probabilities + 0.1)
    assert estimated_accuracy(unsure, REFERENCE, SETTINGS, rng, shifted="").state == "drift"
    shifted = estimated_accuracy(unsure, REFERENCE, SETTINGS, rng, shifted="the cells changed")
    assert shifted.state == "unknown"
    assert shifted.figure == pytest.approx(unsure.probabilities.max(axis=1).mean())
    assert "the cells changed" in shifted.detail["why"]


def test_shares_of_the_service() -> None:
    rng = np.random.default_rng(1)
    window = WORLD.window(rng, patients=40)
    calm = {finding.name: finding for finding in service_quality(window, SETTINGS, rng)}
    assert {name: finding.figure for name, finding in calm.items()} == {REFERRED: 0, OOD: 0, WITHOUT_PATIENT: 0}
    assert {finding.state for finding in calm.values()} == {"ok"}
    busy = replace(window, refer=rng.random(400) < 0.8, ood=rng.random(400) < 0.2)
    found = {finding.name: finding for finding in service_quality(busy, SETTINGS, rng)}
    assert found[REFERRED].state == "drift"
    assert found[REFERRED].figure == pytest.approx(busy.refer.mean())
    assert found[OOD].state == "ok"  # about the bound, which the interval includes


def test_cells_without_a_patient_are_reported() -> None:
    rng = np.random.default_rng(1)
    window = WORLD.window(rng, patients=40)
    nameless = replace(window, patient=np.where(window.patient < 30, -1, window.patient), refer=window.patient < 30)
    found = {finding.name: finding for finding in service_quality(nameless, SETTINGS, rng)}
    assert (found[WITHOUT_PATIENT].state, found[WITHOUT_PATIENT].figure) == ("drift", 0.75)
    assert found[WITHOUT_PATIENT].cells == 400
    assert (found[REFERRED].figure, found[REFERRED].cells) == (0.0, 100)


def test_few_patients_are_insufficient() -> None:
    rng = np.random.default_rng(1)
    window = WORLD.window(rng, patients=9, cells=30)
    assert estimated_accuracy(window, REFERENCE, SETTINGS, rng, shifted="").state == "insufficient"
    states = {finding.name: finding.state for finding in service_quality(window, SETTINGS, rng)}
    assert states == {REFERRED: "insufficient", OOD: "insufficient", WITHOUT_PATIENT: "ok"}


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(module) == doctest.TestResults(failed=0, attempted=1)
