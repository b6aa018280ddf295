"""Agreement of two models on cells made up so that the figures can be worked out by hand."""

import math

import numpy as np
import pytest

from service.agreement import Agreement, agreement, kappa
from service.contract.shadows import Pair, ShadowAnswer
from tests.support.records import prediction

LABELS = ("healthy", "L1", "L2")


def pair(number: int, live: str, shadow: str, *, patient: str = "", refer: tuple[bool, bool] = (False, False)) -> Pair:
    def probabilities(label: str) -> dict[str, float]:
        return {name: 0.8 if name == label else 0.1 for name in LABELS}

    def malignant(label: str) -> float:
        return 0.2 if label == "healthy" else 0.9

    answered = prediction(
        number,
        label=live,
        probabilities=probabilities(live),
        malignant_probability=malignant(live),
        refer=refer[0],
        patient=patient,
    )
    other = ShadowAnswer(
        *(answered.record_id, "s" * 32, answered.time, shadow, probabilities(shadow), malignant(shadow)),
        *(refer[1], (), 0.0, 1.0),
    )
    return Pair(answered, other)


def compare(pairs: list[Pair]) -> Agreement:
    return agreement(pairs, ["L1", "L2"])


def test_the_figures_of_a_small_table() -> None:
    cells = [("healthy", "healthy")] * 20 + [("L1", "L1")] * 10 + [("L1", "L2")] * 5 + [("healthy", "L1")] * 5
    found = compare([pair(n, *both, refer=(n < 4, n < 8)) for n, both in enumerate(cells)])
    assert found.cells == found.patients == 40
    assert found.confusion.tolist() == [[20, 5, 0], [0, 10, 5], [0, 0, 0]]
    assert found.label.value == pytest.approx(30 / 40)
    # Chance: rows 25, 15, 0 and columns 20, 15, 5.
    chance = (25 * 20 + 15 * 15) / 40**2
    assert found.kappa.value == pytest.approx((0.75 - chance) / (1 - chance))
    assert found.malignant.value == pytest.approx(35 / 40)
    assert found.refer.value == pytest.approx(36 / 40)
    assert found.difference.value == pytest.approx(5 * 0.7 / 40)


def test_cells_of_one_patient_tell_less_than_as_many_of_different_ones() -> None:
    rng = np.random.default_rng(0)
    wrong = rng.random(20) < 0.3
    alike = [pair(n, "L1", "L2" if wrong[n // 20] else "L1", patient=f"p{n // 20}") for n in range(400)]
    apart = [pair(n, "L1", "L2" if wrong[n // 20] else "L1", patient=f"p{n}") for n in range(400)]
    both = [compare(pairs).label for pairs in (alike, apart)]
    assert both[0].value == both[1].value
    (low, high), (lower, higher) = both[0].interval or (0, 0), both[1].interval or (0, 0)
    assert high - low > 2 * (higher - lower) > 0
    assert low < both[0].value < high


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(60):
        patients = rng.beta(8, 2, 40)  # each patient's own share of agreement; 0.8 on average
        cells = [(f"p{p}", rng.random() < share) for p, share in enumerate(patients) for _ in range(5)]
        pairs = [pair(n, "L1", "L1" if same else "L2", patient=who) for n, (who, same) in enumerate(cells)]
        low, high = compare(pairs).label.interval or (1, 0)
        covered += low <= 0.8 <= high
    assert covered >= 50


def test_it_is_the_same_each_time() -> None:
    pairs = [pair(n, "L1", LABELS[n % 3], patient=f"p{n // 2}") for n in range(60)]
    first, second = compare(pairs), compare(pairs)
    assert first.kappa == second.kappa


def test_few_patients_have_no_interval_and_one_label_no_kappa() -> None:
    found = compare([pair(n, "L1", "L1", patient=f"p{n % 9}") for n in range(100)])
    assert found.label.interval is None
    assert math.isnan(found.kappa.value)
    assert found.label.value == 1


def test_kappa_of_chance_is_nought_and_of_contradiction_below() -> None:
    tables = np.array([[[25, 25], [25, 25]], [[0, 50], [50, 0]], [[50, 0], [0, 50]]], dtype=float)
    assert kappa(tables).tolist() == [0, -1, 1]


def test_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="nothing"):
        compare([])
