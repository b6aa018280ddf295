"""After a recalibration production is held against the case mix that the model is for."""

from dataclasses import replace

import numpy as np

from monitoring.findings import Finding
from monitoring.imbalance import imbalance
from monitoring.judge_settings import JudgeSettings
from monitoring.recalibration import LEAST_SHARE, case_mix
from monitoring.shift import label_shift
from service.contract.reference import Reference
from tests.support.worlds import LABELS, World

SETTINGS = JudgeSettings(bootstraps=200)
WORLD = World()
OTHER = (0.88, 0.06, 0.04, 0.02)


def found_shift(share: float, cells: int = 200) -> Finding:
    rest = (1 - share) / 3
    shares = {"healthy": share, "L1": rest, "L2": rest, "L3": rest}
    return Finding(
        "label_shift", "label_shift", "drift", 0.3, (0.2, 0.4), 0.1, cells, 20, {"shares": shares}, severity=2.0
    )


def test_the_mix_is_the_mean_of_the_windows_that_found_a_shift() -> None:
    quiet = replace(found_shift(0.1), state="ok", severity=0.5)
    mix = case_mix([[found_shift(0.7, 100)], [quiet], [found_shift(0.8, 300)]])
    assert mix is not None
    assert mix["healthy"] == 0.775
    assert abs(sum(mix.values()) - 1) < 1e-3
    assert case_mix([[quiet]]) is None
    assert case_mix([]) is None


def test_a_label_that_was_not_seen_keeps_a_small_share() -> None:
    mix = case_mix([[found_shift(1.0)]])
    assert mix is not None
    assert all(share >= LEAST_SHARE * 0.97 for share in mix.values())


def recalibrated(reference: Reference) -> Reference:
    """The same cells under a model for the other mix."""
    truth = np.array(OTHER)
    truth[1:] *= 1 - WORLD.healthy_share
    truth[0] = 1 - truth[1:].sum()
    seen = np.bincount(reference.label, minlength=len(LABELS)) / len(reference.label)
    moved = (reference.probabilities * (truth / seen)).astype(np.float32)
    moved /= moved.sum(axis=1, keepdims=True)
    confusion = np.zeros_like(reference.confusion)
    np.add.at(confusion, (reference.label, moved.argmax(axis=1)), 1.0)
    return replace(reference, probabilities=moved, confusion=confusion, priors=truth)


def test_the_mix_that_a_model_is_for_is_no_shift() -> None:
    """Many windows of the other mix: drift to the model before, and rarely to the one that is for it."""
    states: dict[str, list[str]] = {"before": [], "after": []}
    for seed in range(20):
        reference = WORLD.reference(np.random.default_rng(seed), patients=60)
        window = WORLD.window(np.random.default_rng(1000 + seed), patients=40, shares=OTHER)
        for name, one in (("before", reference), ("after", recalibrated(reference))):
            finding, _ = label_shift(window, one, SETTINGS, np.random.default_rng(seed), LABELS)
            states[name].append(finding.state)
    assert states["before"].count("drift") >= 16
    assert states["after"].count("drift") <= 2
    assert states["after"].count("ok") >= 18


def test_the_old_mix_is_a_shift_to_a_model_for_another() -> None:
    reference = recalibrated(WORLD.reference(np.random.default_rng(1), patients=60))
    window = WORLD.window(np.random.default_rng(2), patients=60)
    finding, _ = label_shift(window, reference, SETTINGS, np.random.default_rng(3), LABELS)
    assert finding.state == "drift"
    assert finding.detail["reference_shares"]["healthy"] == round(float(reference.priors[0]), 4)


def test_imbalance_is_held_against_the_mix_that_the_model_is_for() -> None:
    plain = WORLD.reference(np.random.default_rng(1), patients=60)
    window = WORLD.window(np.random.default_rng(5), patients=60, shares=OTHER)
    before, after = (
        {one.name: one for one in imbalance(window, reference, SETTINGS, np.random.default_rng(3), LABELS)}
        for reference in (plain, recalibrated(plain))
    )
    assert after["normalised_entropy"].threshold < before["normalised_entropy"].threshold  # type: ignore[operator]
    assert after["ratio_of_extremes"].threshold > before["ratio_of_extremes"].threshold  # type: ignore[operator]


def test_a_reference_without_priors_is_one_of_its_own_mix() -> None:
    reference = WORLD.reference(np.random.default_rng(1), patients=60)
    np.testing.assert_array_equal(reference.case_weight, np.ones(len(reference.label)))
