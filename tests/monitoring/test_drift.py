"""Covariate shift: a changed scanner is found, a changed case mix is not taken for one."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from monitoring.contrast import Comparison, Summary, compare, whitener
from monitoring.drift import EMBEDDING, NAMES, SPREAD, covariate
from monitoring.findings import Finding
from monitoring.judge_settings import JudgeSettings
from monitoring.resampling import Permutations
from monitoring.shift import label_shift
from monitoring.window import WindowArrays
from service.contract.reference import Reference
from tests.support.worlds import LABELS, Change, World

SETTINGS = JudgeSettings(bootstraps=100)
WORLD = World(size=16)
# What a patient's mean of ten cells varies by: an effect of 1 and ten cells of 1.
PATIENT_SD = float(np.sqrt(1.1))
TURNED = (0.02, 0.08, 0.50, 0.40)

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def judged(window: WindowArrays, reference: Reference, settings: JudgeSettings = SETTINGS) -> dict[str, Finding]:
    label, shares = label_shift(window, reference, settings, np.random.default_rng(1), LABELS)
    findings = covariate(window, reference, label, shares, settings, np.random.default_rng(2))
    return {finding.name: finding for finding in findings}


def share_out(runs: int, *names: str, change: Change | None = None, shares: tuple[float, ...] | None = None) -> float:
    """Share of seeded runs in which a finding of these names (or any) is drift; 20 patients with 10 cells a window."""
    out = 0
    for seed in range(runs):
        rng = np.random.default_rng([7, seed])
        reference, window = WORLD.reference(rng, patients=48), WORLD.window(rng, change=change, shares=shares)
        findings = judged(window, reference)
        out += any(finding.out for name, finding in findings.items() if name in names or not names)
    return out / runs


@pytest.mark.parametrize(
    "shares", [(0.30, 0.25, 0.15, 0.30), TURNED], ids=["L3 from 3 to 30 %", "hardly anything as before"]
)
def test_label_shift_alone_leaves_covariate_shift_ok(shares: tuple[float, ...]) -> None:
    assert share_out(60, shares=shares) <= 0.05


def test_without_mix_and_weights_the_same_windows_are_taken_for_a_new_scanner(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above guards against. Either of the two is enough: they guard each other."""

    def blind(summary: Summary, mix: Floats, window: Flags, weight: Floats, **more: Any) -> Comparison:
        return compare(summary, np.ones((len(mix), 1)), window, np.ones(len(weight)), **more)

    monkeypatch.setattr("monitoring.drift.compare", blind)
    assert share_out(20, shares=TURNED) > 0.5


def test_a_mean_shift_of_one_and_a_half_patient_deviations_is_found_in_most_windows() -> None:
    """The whole shift in one direction of sixteen, which is the least that can be meant."""
    direction = np.random.default_rng(5).normal(size=WORLD.size)
    change = Change(embedding=1.5 * PATIENT_SD * direction / np.linalg.norm(direction))
    assert share_out(60, EMBEDDING, change=change) >= 0.80


def test_a_shift_of_every_dimension_is_always_found() -> None:
    assert share_out(15, EMBEDDING, change=Change(embedding=1.5 * PATIENT_SD)) == 1.0


def test_noise_of_a_scanner_shows_as_spread() -> None:
    assert share_out(15, SPREAD, change=Change(noise=0.8)) >= 0.95


def test_patients_with_few_cells_do_not_seem_less_spread() -> None:
    """The logarithm of a variance of three cells is too small, beside that of twenty, unless it is corrected."""
    changes = []
    for seed in range(15):
        rng, world = np.random.default_rng([15, seed]), World(size=4)
        window, reference = world.window(rng, patients=66, cells=3), world.reference(rng, patients=96)
        changes.append(judged(window, reference)[SPREAD].detail["change"])
    assert np.mean(changes) == pytest.approx(0.0, abs=0.03)


def test_an_image_statistic_is_named_with_its_size_and_sign() -> None:
    rng = np.random.default_rng(3)
    reference = WORLD.reference(rng, patients=48)
    window = WORLD.window(rng, change=Change(statistics=(0.0, 0.0, -3.0, 0.0, 0.0)))
    findings = judged(window, reference)
    assert [name for name, finding in findings.items() if finding.out] == ["sharpness"]
    sharpness = findings["sharpness"]
    assert sharpness.figure == pytest.approx(3.0 / PATIENT_SD, abs=0.8)
    assert sharpness.detail["change"] == pytest.approx(-3.0, abs=0.8)
    assert sharpness.detail["patient_sd"] == pytest.approx(PATIENT_SD, rel=0.3)
    assert sharpness.interval is not None and sharpness.interval[0] < 3.0 / PATIENT_SD < sharpness.interval[1]


def test_label_shift_and_a_new_scanner_together_are_found() -> None:
    change = Change(embedding=1.5 * PATIENT_SD, statistics=(0.0, 0.0, -2.0, 0.0, 0.0))
    assert share_out(20, change=change, shares=(0.30, 0.25, 0.15, 0.30)) == 1.0


def test_a_significant_effect_below_the_floor_is_ok() -> None:
    rng = np.random.default_rng(4)
    reference = WORLD.reference(rng, patients=96)
    window = WORLD.window(rng, patients=150, change=Change(statistics=(0.6, 0.0, 0.0, 0.0, 0.0)))
    assert judged(window, reference)["brightness"].state == "ok"
    assert judged(window, reference, SETTINGS.model_copy(update={"covariate_floor": 0.3}))["brightness"].out


def test_the_figure_has_no_bias_from_the_number_of_dimensions() -> None:
    squares = []
    for seed in range(25):
        rng = np.random.default_rng([8, seed])
        finding = judged(WORLD.window(rng), WORLD.reference(rng, patients=48))[EMBEDDING]
        squares.append((finding.figure or 0.0) ** 2)
    # Without the correction it would be about 16 dimensions × (1/20 + 1/48) = 1.1.
    assert np.mean(squares) < 0.5


def test_unknown_label_shift_asks_for_drift_with_and_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    reference = WORLD.reference(rng, patients=48)
    window = WORLD.window(rng, change=Change(statistics=(3.0, 0.0, 0.0, 0.0, 0.0)))
    label, shares = label_shift(window, reference, SETTINGS, rng, LABELS)
    unknown = replace(label, state="unknown", severity=None)
    weights: list[bool] = []

    def seen(summary: Summary, mix: Floats, window: Flags, weight: Floats, **more: Any) -> Comparison:
        weights.append(bool((weight == 1).all()))
        found = compare(summary, mix, window, weight, **more)
        return found if weights[-1] else replace(found, p=1.0)

    def brightness(finding: Finding) -> Finding:
        found = covariate(window, reference, finding, shares, SETTINGS, np.random.default_rng(2))
        return next(one for one in found if one.name == "brightness")

    assert brightness(unknown).out
    monkeypatch.setattr("monitoring.drift.compare", seen)
    assert not brightness(unknown).out  # the reweighted comparison alone objects
    assert weights == [True, False] * len(NAMES)
    weights.clear()
    assert brightness(label).out  # without a label shift nothing is reweighted
    assert weights == [True] * len(NAMES)
    weights.clear()
    assert not brightness(replace(label, state="drift", severity=2.0)).out  # with one everything is
    assert weights == [False] * len(NAMES)


def test_a_window_of_a_class_that_the_reference_hardly_has_is_unknown() -> None:
    rng = np.random.default_rng(9)
    sharp = World(size=8, separation=12.0, healthy_share=0.0)
    reference = sharp.reference(rng, patients=48)
    only_l3 = reference.label == 3
    without = replace(reference, patient=np.where(only_l3, -1, reference.patient))
    window = sharp.window(rng, shares=(0.0, 0.0, 0.0, 1.0))
    label = Finding("label_shift", "label_shift", "unknown", None, None, None, 200, 20)
    findings = covariate(window, without, label, None, SETTINGS, rng)
    assert {finding.state for finding in findings} == {"unknown"}


def test_few_patients_are_insufficient_and_a_reference_of_few_is_unknown() -> None:
    rng = np.random.default_rng(9)
    reference = WORLD.reference(rng, patients=48)
    few = judged(WORLD.window(rng, patients=9, cells=30), reference)
    assert {finding.state for finding in few.values()} == {"insufficient"}
    small = judged(WORLD.window(rng), replace(reference, patient=reference.patient % 7))
    assert {finding.state for finding in small.values()} == {"unknown"}


def test_patients_with_one_cell_each_are_judged_but_say_nothing_about_spread() -> None:
    rng = np.random.default_rng(10)
    reference = WORLD.reference(rng, patients=48)
    change = Change(statistics=(0.0, 0.0, 0.0, 0.0, 4.0))
    findings = judged(WORLD.window(rng, patients=200, cells=1, change=change), reference)
    assert findings[SPREAD].state == "insufficient"
    assert findings["saturation"].state == "drift"
    assert (findings["saturation"].cells, findings["saturation"].patients) == (200, 200)


def test_cells_without_a_patient_do_not_enter() -> None:
    rng = np.random.default_rng(11)
    reference, window = WORLD.reference(rng, patients=48), WORLD.window(rng, patients=40)
    nameless = window.patient % 2 == 0
    spoiled = replace(
        window,
        statistics=window.statistics + 50.0 * nameless[:, None],
        patient=np.where(nameless, -1, window.patient),
    )
    findings = judged(spoiled, reference)
    assert not any(finding.out for finding in findings.values())
    assert (findings["hue"].cells, findings["hue"].patients) == (200, 20)


def test_p_values_of_no_effect_are_uniform_also_where_the_groups_hardly_overlap() -> None:
    """Freedman and Lane's residuals would be too small at patients with much leverage; Huh and Jhun's are not."""
    rng = np.random.default_rng(12)
    window = np.arange(40) < 15
    first = np.where(window, 0.85, 0.2) + rng.uniform(-0.15, 0.15, size=40)
    mix = np.column_stack([first, 1 - first])
    p = []
    for _ in range(400):
        value = 3.0 * first[:, None] + rng.normal(size=(40, 3))
        summary = Summary(value, np.ones(40), np.zeros(3), np.ones(40, dtype=np.bool_))
        found = compare(
            summary,
            mix,
            window,
            np.ones(40),
            orders=Permutations(rng, 199),
            bootstraps=100,
            confidence=0.95,
            rng=rng,
        )
        p.append(found.p)
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(p) == pytest.approx(0.5, abs=0.05)
    assert found.comparable < 0.5


def test_patients_with_few_cells_count_for_less() -> None:
    """A hundred patients of one noisy cell each beside thirty of many: the estimate is nearly that of the thirty."""
    rng = np.random.default_rng(13)
    noise = np.where(np.arange(130) < 100, 1.0, 0.01)
    window = np.arange(130) % 2 == 0
    estimates = []
    for _ in range(60):
        value = 0.2 * rng.normal(size=(130, 1)) + 5.0 * np.sqrt(noise)[:, None] * rng.normal(size=(130, 1))
        summary = Summary(value, noise, np.array([25.0]), np.ones(130, dtype=np.bool_))
        found = compare(
            summary,
            np.ones((130, 1)),
            window,
            np.ones(130),
            orders=Permutations(rng, 20),
            bootstraps=100,
            confidence=0.95,
            rng=rng,
        )
        estimates.append(float(found.change[0]))
    alone = np.sqrt((0.04 + 0.25) * (1 / 15 + 1 / 15))
    assert np.std(estimates) < 1.3 * alone  # equal weights would give about four times as much


def test_the_whitener_whitens_many_patients_and_only_scales_few() -> None:
    rng = np.random.default_rng(14)
    mixing = np.array([[2.0, 0.0, 0.0], [1.5, 1.0, 0.0], [0.0, 0.0, 0.1]])
    many = rng.normal(size=(5000, 3)) @ mixing
    white = many @ whitener(many)
    np.testing.assert_allclose(white.T @ white / 5000, np.eye(3), atol=0.02)
    few = rng.normal(size=(6, 30))
    assert np.isfinite(whitener(few)).all()
    assert np.linalg.cond(whitener(few)) < 100
