"""Class imbalance: childhood shares are normal, one class alone is not, and a class that twenty lack is not gone."""

import doctest
from dataclasses import replace

import numpy as np
import pytest

from monitoring import imbalance as module
from monitoring.findings import Finding
from monitoring.imbalance import ENTROPY, NAMES, RATIO, SMALLEST, imbalance
from monitoring.judge_settings import JudgeSettings
from monitoring.window import WindowArrays
from service.contract.reference import Reference
from tests.support.worlds import LABELS, World

SETTINGS = JudgeSettings(bootstraps=200)
EVEN = (0.25, 0.25, 0.25, 0.25)


def judged(window: WindowArrays, reference: Reference, settings: JudgeSettings = SETTINGS) -> dict[str, Finding]:
    findings = imbalance(window, reference, settings, np.random.default_rng(1), LABELS)
    assert tuple(finding.name for finding in findings) == NAMES
    return {finding.name: finding for finding in findings}


def answers(counts: tuple[int, ...], patients: int) -> WindowArrays:
    """A window of these answers, dealt round to the patients; nothing else of it matters."""
    predicted = np.repeat(np.arange(len(counts)), counts)
    n = len(predicted)
    nothing = np.zeros(n, dtype=np.bool_)
    empty = np.zeros((n, 4))
    return WindowArrays(empty, np.zeros((n, 5)), empty, predicted, nothing, nothing, np.arange(n) % patients)


@pytest.mark.parametrize("seed", range(5))
def test_childhood_shares_are_ok_window_after_window(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = World().reference(rng, patients=48)
    for _ in range(8):
        findings = judged(World().window(rng), reference)
        assert {finding.state for finding in findings.values()} == {"ok"}


def test_one_class_alone_is_drift_by_its_entropy() -> None:
    reference = World().reference(np.random.default_rng(0), patients=48)
    findings = judged(answers((196, 4, 0, 0), 20), reference)
    entropy = findings[ENTROPY]
    assert entropy.state == "drift"
    assert entropy.figure is not None and entropy.threshold is not None and entropy.interval is not None
    assert entropy.figure < entropy.interval[1] < entropy.threshold
    assert entropy.detail["commonest"] == "healthy"


def test_a_class_that_none_of_twenty_patients_has_is_not_called_gone() -> None:
    reference = World(shares=EVEN).reference(np.random.default_rng(0), patients=48)
    smallest = judged(answers((70, 65, 65, 0), 20), reference)[SMALLEST]
    assert (smallest.state, smallest.figure, smallest.detail["rarest"]) == ("ok", 0.0, "L3")
    assert smallest.interval is not None and 0.1 < smallest.interval[1] < 0.2  # three in twenty, the rule of three


def test_a_class_that_none_of_two_hundred_patients_has_is_gone_where_it_was_a_quarter() -> None:
    reference = World(shares=EVEN).reference(np.random.default_rng(0), patients=48)
    findings = judged(answers((70, 65, 65, 0), 200), reference)
    assert findings[SMALLEST].state == "drift"
    assert findings[RATIO].state == "drift"
    assert findings[RATIO].figure == pytest.approx(70.5 / 0.5)
    childhood = World().reference(np.random.default_rng(0), patients=48)
    assert judged(answers((120, 50, 30, 0), 200), childhood)[SMALLEST].state == "ok"


def test_cells_out_of_distribution_or_without_a_patient_do_not_enter() -> None:
    reference = World().reference(np.random.default_rng(0), patients=48)
    window = answers((110, 70, 20, 200), 20)
    strange = window.predicted == 3
    assert judged(replace(window, ood=strange), reference)[ENTROPY].cells == 200
    nameless = replace(window, patient=np.where(strange, -1, window.patient))
    assert judged(nameless, reference)[ENTROPY].detail["shares"]["L3"] == 0.0


def test_too_few_patients_are_insufficient() -> None:
    reference = World().reference(np.random.default_rng(0), patients=48)
    findings = judged(answers((100, 60, 30, 10), 9), reference)
    assert {finding.state for finding in findings.values()} == {"insufficient"}


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(module) == doctest.TestResults(failed=0, attempted=1)
