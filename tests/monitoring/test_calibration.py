"""Calibration by random reviews: found when the model promises too much, quiet when only the case mix changes."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from monitoring.calibration import calibration_error, reviewed_calibration
from monitoring.findings import Finding
from monitoring.judge_settings import JudgeSettings
from monitoring.performance import Reviews, reviews
from monitoring.policy import cause_of
from service.contract.reference import Reference
from service.contract.store import StoredPrediction
from tests.support.records import prediction, review

SETTINGS = JudgeSettings(bootstraps=200)
LABELS = ("healthy", "L1", "L2")
MIX = (0.5, 0.3, 0.2)

Integers = npt.NDArray[np.int64]


def cells(
    seed: int, patients: int, *, each: int = 10, over: float = 0.0, mix: tuple[float, ...] = MIX
) -> tuple[npt.NDArray[np.float64], Integers, Integers]:
    """Probabilities [n, C], label [n] and patient [n] of answers that are right less often than they say, by `over`.

    `mix` are the shares of the labels; what a label's cells look like to the model does not depend on them.
    """
    rng = np.random.default_rng(seed)
    wanted, pool = patients * each, 20 * patients * each
    answer = rng.choice(3, size=pool, p=MIX)
    confidence = rng.choice([0.6, 0.75, 0.9, 0.97], size=pool)
    wrong = rng.random(pool) >= confidence - over
    label = np.where(wrong, (answer + rng.integers(1, 3, pool)) % 3, answer)
    weight = np.asarray(mix)[label] / np.bincount(label, minlength=3)[label]
    chosen = rng.choice(pool, size=wanted, replace=False, p=weight / weight.sum())
    answer, confidence, label = answer[chosen], confidence[chosen], label[chosen]
    probabilities = np.repeat((1 - confidence)[:, None] / 2, 3, axis=1)
    probabilities[np.arange(wanted), answer] = confidence
    return probabilities, label.astype(np.int64), np.repeat(np.arange(patients), each)


def held_out(seed: int = 0, *, over: float = 0.0) -> Reference:
    probabilities, label, patient = cells(seed, 60, each=20, over=over)
    confusion = np.zeros((3, 3))
    np.add.at(confusion, (label, probabilities.argmax(axis=1)), 1.0)
    return Reference(
        embedding=np.zeros((len(label), 1), np.float32),
        statistics=np.zeros((len(label), 5), np.float32),
        probabilities=probabilities.astype(np.float32),
        label=label,
        site=("site-a",) * len(label),
        patient=patient,
        confusion=confusion,
    )


REFERENCE = held_out()


def read(seed: int = 1, patients: int = 40, *, over: float = 0.0, mix: tuple[float, ...] = MIX) -> Reviews:
    probabilities, label, patient = cells(seed, patients, over=over, mix=mix)
    return Reviews(probabilities.argmax(axis=1), label, patient, probabilities.max(axis=1), 0, 0)


def judged(items: Reviews, reference: Reference = REFERENCE) -> Finding:
    return reviewed_calibration(items, reference, SETTINGS, np.random.default_rng(2))


def test_a_model_that_promises_too_much_is_drift_and_asks_for_labels() -> None:
    finding = judged(read(over=0.15))
    assert (finding.name, finding.family, finding.state) == ("reviewed_calibration", "performance", "drift")
    assert (finding.cells, finding.patients, cause_of(finding)) == (400, 40, None)
    assert finding.figure == pytest.approx(0.15, abs=0.05)
    assert finding.figure is not None and finding.interval is not None
    assert 0 < finding.interval[0] < finding.figure < finding.interval[1]
    gap = finding.detail["claimed"] - finding.detail["accuracy"]
    assert gap - finding.detail["reference_gap"] == pytest.approx(finding.figure, abs=2e-4)


def test_what_the_reference_was_already_off_by_is_no_drift() -> None:
    items = read(over=0.15)
    assert judged(items).state == "drift"
    finding = judged(items, held_out(over=0.15))
    assert finding.state == "ok"
    assert finding.figure == pytest.approx(0.0, abs=0.05)


def test_a_model_that_is_better_than_it_says_is_ok() -> None:
    finding = judged(read(over=-0.03), held_out(over=0.05))
    assert finding.figure is not None and finding.figure < -0.03
    assert (finding.state, finding.severity) == ("ok", 0.0)


def test_another_case_mix_alone_is_no_drift() -> None:
    """The raw gap grows with the rare classes; the same classes of the reference have it, too."""
    finding = judged(read(patients=100, mix=(0.1, 0.2, 0.7)))
    assert finding.detail["claimed"] - finding.detail["accuracy"] > 2 * SETTINGS.calibration_floor
    assert finding.state == "ok"
    assert finding.figure == pytest.approx(0.0, abs=0.03)


def test_a_gap_that_chance_explains_is_ok() -> None:
    """Two patients of ten read wrongly are a fifth of the cells, and two patients."""
    items = read(patients=10)
    unlucky = np.isin(items.patient, [0, 1])
    finding = judged(replace(items, label=np.where(unlucky, (items.predicted + 1) % 3, items.label)))
    assert finding.figure is not None and finding.figure > SETTINGS.calibration_floor
    assert finding.state == "ok"


def test_quiet_reviews_are_hardly_ever_drift() -> None:
    out = sum(judged(read(seed)).out for seed in range(100, 140))
    assert out <= 3  # 2.5 % of 40 are 1


def test_too_few_reviews_say_nothing() -> None:
    few = judged(read(patients=4))
    assert (few.state, few.figure, few.threshold) == ("insufficient", None, SETTINGS.calibration_floor)
    unknown = judged(replace(read(), confidence=np.full(400, np.nan)))
    assert (unknown.state, unknown.cells) == ("insufficient", 0)


def test_a_class_the_reference_does_not_have_does_not_enter() -> None:
    kept = REFERENCE.label != 2
    rows = {name: getattr(REFERENCE, name)[kept] for name in ("embedding", "statistics", "probabilities", "patient")}
    without = replace(REFERENCE, **rows, label=REFERENCE.label[kept], site=("site-a",) * int(kept.sum()))
    items = read()
    assert judged(items, without).cells == int((items.label != 2).sum())


def test_the_calibration_error_is_shown_from_five_hundred_cells_on() -> None:
    assert judged(read(over=0.15)).detail["ece"] is None
    finding = judged(read(patients=80, over=0.15))
    assert finding.detail["ece"] == pytest.approx(0.15, abs=0.05)
    assert sum(row["cells"] for row in finding.detail["bins"]) == 800


def test_the_calibration_error_is_debiased_by_patients() -> None:
    """Calibrated answers whose patients are right or wrong together: plain ECE finds an error that is not there."""
    rng = np.random.default_rng(0)
    errors, plain = [], []
    for _ in range(20):
        patient = np.repeat(np.arange(30), 20)
        confidence = rng.choice([0.6, 0.75, 0.9, 0.97], size=600)
        right = (np.where(rng.random(600) < 0.5, rng.random(30)[patient], rng.random(600)) < confidence).astype(float)
        error, table = calibration_error(confidence, right, patient, 200, rng)
        errors.append(error)
        plain.append(sum(row["cells"] * abs(row["claimed"] - row["accuracy"]) for row in table) / 600)
    assert np.mean(errors) < 0.75 * np.mean(plain)
    assert [row["claimed"] for row in table] == [0.6, 0.75, 0.9, 0.97]


def test_reviews_bring_the_largest_probability_of_the_record() -> None:
    record = prediction(1, label="L1", probabilities={"healthy": 0.2, "L1": 0.7, "L2": 0.1})
    items = reviews(
        [(StoredPrediction(1, record, False), review(record, "L2", sampled=True))], LABELS, sampled=True, most=10
    )
    assert items.confidence.tolist() == [0.7]
