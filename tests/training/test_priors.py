"""Another case mix: the shift against Bayes' rule, weights against counting, and params.yaml's text."""

import numpy as np
import pytest
import yaml

from service.contract.errors import ConfigError
from training import figures
from training.calibrate import CalibrateConfig, Seen, calibrate
from training.calibration import softmax
from training.figures import Floats, Integers
from training.priors import cell_weights, log_ratio, priors_of, shares, with_priors

LABELS = ("healthy", "L1", "L2")
OLD, NEW = np.array([0.4, 0.4, 0.2]), np.array([0.85, 0.1, 0.05])
CENTRES = np.array([[0.0, 0.0], [1.5, 0.0], [0.0, 1.5]])


def cells(count: int, mix: Floats, seed: int) -> tuple[Floats, Integers]:
    """Points around their label's centre, and labels with these shares."""
    rng = np.random.default_rng(seed)
    label = rng.choice(len(mix), size=count, p=mix)
    return CENTRES[label] + rng.normal(size=(count, 2)), label.astype(np.int64)


def logits(points: Floats, mix: Floats) -> Floats:
    """Those of the exact posterior at this mix."""
    log: Floats = np.log(mix) - ((points[:, None] - CENTRES) ** 2).sum(axis=2) / 2
    return log


def test_the_shift_gives_the_posterior_of_the_other_mix() -> None:
    points, label = cells(500, OLD, 1)
    exact = np.bincount(label, minlength=3) / len(label)
    moved = softmax(logits(points, exact) + log_ratio(NEW, label))
    np.testing.assert_allclose(moved, softmax(logits(points, NEW)), atol=1e-12)


def test_weighted_figures_are_those_of_cells_drawn_at_the_other_mix() -> None:
    """An overconfident network: its calibration error at the new mix, from cells of the old one."""
    (old, was), (new, now) = cells(40_000, OLD, 2), cells(40_000, NEW, 3)
    said, told = (softmax(2 * logits(points, NEW)) for points in (old, new))
    weight = cell_weights(NEW, was)
    assert weight.mean() == pytest.approx(1)
    for label, share in enumerate(NEW):
        assert weight[was == label].sum() / len(was) == pytest.approx(share)

    def error(probabilities: Floats, label: Integers, weight: Floats | None) -> float:
        right = probabilities.argmax(axis=1) == label
        bins = figures.calibration_bins(probabilities.max(axis=1), right, weight=weight)
        return figures.debiased_calibration_error(bins)

    there = error(told, now, None)
    assert there > 0.02
    assert error(said, was, weight) == pytest.approx(there, abs=0.006)
    assert abs(error(said, was, None) - there) > 0.02  # without weights it is another figure altogether


def test_equal_weights_change_nothing() -> None:
    points, label = cells(300, OLD, 4)
    said = softmax(logits(points, OLD))
    confidence, right = said.max(axis=1), said.argmax(axis=1) == label
    plain, weighted = (figures.calibration_bins(confidence, right, weight=w) for w in (None, np.ones(300)))
    for one, other in zip(plain, weighted, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(
        figures.risk_coverage(confidence, right), figures.risk_coverage(confidence, right, np.ones(300)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_network_is_calibrated_for_the_mix_that_is_named() -> None:
    def seen(count: int, mix: Floats, seed: int) -> Seen:
        points, label = cells(count, mix, seed)
        flat = points.astype(np.float32)
        return Seen(logits(points, OLD).astype(np.float32) * 1.7, np.hstack([flat, flat**2]), flat, label)

    training, validation, there = seen(2000, OLD, 5), seen(20_000, OLD, 6), seen(20_000, NEW, 7)
    named = dict(zip(LABELS, NEW.tolist(), strict=True))
    config = CalibrateConfig(embedding=2, priors=named, risk=0.05, min_coverage=0.1)
    found, notes = calibrate(training, validation, config, shares(named, LABELS))
    plain, _ = calibrate(training, validation, CalibrateConfig(embedding=2, risk=0.05, min_coverage=0.1))
    assert notes["priors"] == named and notes["method"] == "temperature"
    assert found.scale is not None and found.shift is not None and plain.scale is None
    assert found.temperature == plain.temperature  # the network is as sure of itself as before

    right = (there.logits * found.scale + found.shift).argmax(axis=1) == there.label
    said = softmax((there.logits * found.scale + found.shift).astype(np.float64))
    error = figures.debiased_calibration_error(figures.calibration_bins(said.max(axis=1), right))
    before = softmax(there.logits.astype(np.float64) / plain.temperature)
    was_right = before.argmax(axis=1) == there.label
    was = figures.debiased_calibration_error(figures.calibration_bins(before.max(axis=1), was_right))
    assert error < 0.01 < was
    assert right.mean() > was_right.mean() + 0.02
    # The threshold is for the new mix, too.
    answered = said.max(axis=1) >= found.abstain
    assert (~right[answered]).mean() == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"healthy": 0.5, "L1": 0.5}, "for each of healthy, L1, L2"),
        ({"healthy": 0.5, "L1": 0.3, "L2": 0.1, "L3": 0.1}, "for nothing else"),
        ({"healthy": 0.5, "L1": 0.5, "L2": 0.0}, "above 0"),
        ({"healthy": 0.5, "L1": 0.5, "L2": "a few"}, "above 0"),
        ({"healthy": 0.5, "L1": 0.5, "L2": float("nan")}, "above 0"),
        ({"healthy": 0.5, "L1": 0.5, "L2": 0.2}, "sum to 1.2"),
        ([0.5, 0.3, 0.2], "for each of"),
    ],
)
def test_what_is_no_case_mix_is_refused(named: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        priors_of({"calibrate": {"priors": named}}, LABELS)


def test_none_are_none_and_rounded_ones_sum_to_one() -> None:
    assert priors_of({"calibrate": {"priors": {}}}, LABELS) is None
    assert priors_of({"calibrate": {}}, LABELS) is None
    found = priors_of({"calibrate": {"priors": {"L2": 0.333, "L1": 0.333, "healthy": 0.333}}}, LABELS)
    assert found is not None
    np.testing.assert_allclose(found, 1 / 3)


def test_a_label_without_validation_cells_is_refused() -> None:
    with pytest.raises(ConfigError, match="every label"):
        log_ratio(NEW, np.array([0, 1, 1]))


PARAMS = """\
# A comment that stays.
calibrate:
  risk: 0.02 # and this one
{}
evaluate: {{seed: 0}}
"""


@pytest.mark.parametrize("before", ["  priors: {}", "  priors: {healthy: 0.5, L1: 0.5}", "", "  # the last\n"])
def test_only_the_priors_change_in_params(before: str) -> None:
    text = PARAMS.format(before)
    changed = with_priors(text, {"healthy": 0.7, "L1": 0.3})
    wanted = yaml.safe_load(text)
    wanted["calibrate"]["priors"] = {"healthy": 0.7, "L1": 0.3}
    assert yaml.safe_load(changed) == wanted
    assert "# A comment that stays." in changed and "# and this one" in changed
    assert with_priors(changed, {"healthy": 0.7, "L1": 0.3}) == changed


@pytest.mark.parametrize(
    ("text", "says"),
    [("data: {}\n", "no section calibrate"), ("calibrate: {risk: 0.02}\nx: 1\n", "put `priors"), (": [", "no section")],
)
def test_params_that_cannot_be_changed_are_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        with_priors(text, {"healthy": 1.0})
