"""Metric maths against numbers worked out by hand, and against what the formulas promise."""

import doctest

import numpy as np
import pytest

from training import bootstrap, figures, units
from training.figures import Floats, Integers

# healthy 8 of 10 right; L1 6 of 10 right, 3 called L2 (still malignant), 1 called healthy; L2 5 of 5.
CONFUSION = np.array([[8, 1, 1], [1, 6, 3], [0, 0, 5]])
MALIGNANT = np.array([False, True, True])


def test_figures_of_a_table_worked_out_by_hand() -> None:
    two = figures.two_class(CONFUSION, MALIGNANT)
    assert two.tolist() == [[8, 2], [1, 14]]
    assert (
        figures.sensitivity(two) == 14 / 15
    )  # TP / (TP + FN), not the TP / (TN + FP) = 14 / 10 of the review's table 3
    assert figures.specificity(two) == 8 / 10
    assert figures.precision(two) == 14 / 16
    assert figures.f1(two) == 2 * 14 / (2 * 14 + 2 + 1)
    assert figures.accuracy(CONFUSION) == 19 / 25
    assert figures.recall(CONFUSION).tolist() == [0.8, 0.6, 1.0]
    assert figures.precision_by_class(CONFUSION).tolist() == [8 / 9, 6 / 7, 5 / 9]
    assert figures.f1_by_class(CONFUSION).tolist() == [16 / 19, 12 / 17, 10 / 14]
    assert figures.balanced_accuracy(CONFUSION) == pytest.approx(0.8)


def test_a_stack_of_matrices_gives_the_figures_of_each() -> None:
    stack = np.stack([CONFUSION, CONFUSION.T])
    for figure in (figures.accuracy, figures.balanced_accuracy):
        assert figure(stack).tolist() == [figure(CONFUSION), figure(CONFUSION.T)]
    two = figures.two_class(stack, MALIGNANT)
    assert figures.sensitivity(two).tolist() == [14 / 15, 14 / 16]


def test_nothing_to_count_is_not_a_number() -> None:
    nobody_ill = np.array([[5.0, 1.0], [0.0, 0.0]])
    assert np.isnan(figures.sensitivity(nobody_ill))
    assert figures.specificity(nobody_ill) == 5 / 6
    assert np.isnan(figures.accuracy(np.zeros((2, 2))))
    # The absent class does not count as missed.
    assert figures.balanced_accuracy(nobody_ill) == 5 / 6


def test_confusion_matrix_has_true_rows_and_refuses_unknown_labels() -> None:
    found = figures.confusion_matrix(np.array([0, 0, 1]), np.array([0, 2, 1]), 3)
    assert found.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="called"):
        figures.confusion_matrix(np.array([0]), np.array([3]), 3)


def test_roc_counts_pairs_and_equal_scores_half() -> None:
    positive = np.array([True, True, False, False])
    assert figures.roc_auc([0.9, 0.8, 0.2, 0.1], positive) == 1.0
    assert figures.roc_auc([0.5, 0.5, 0.5, 0.5], positive) == 0.5
    rng = np.random.default_rng(0)
    score, truth = rng.integers(0, 6, 80) / 6, rng.random(80) < 0.4
    pairs = score[truth][:, None] - score[~truth][None]
    assert figures.roc_auc(score, truth) == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean())
    doubled = figures.roc_auc(np.repeat(score, 2), np.repeat(truth, 2))
    assert figures.roc_auc(score, truth, np.full(80, 2.0)) == pytest.approx(doubled)
    with pytest.raises(ValueError, match="both kinds"):
        figures.roc_auc([0.1, 0.2], np.array([True, True]))


def test_ece_is_the_gap_between_confidence_and_correctness() -> None:
    # Ten cells said with 0.9 of which eight are right, ten with 0.6 of which six are.
    confidence = np.array([0.9] * 10 + [0.6] * 10)
    correct = np.array([True] * 8 + [False] * 2 + [True] * 6 + [False] * 4)
    bins = figures.calibration_bins(confidence, correct, bins=2)
    assert bins.cells.tolist() == [10, 10]
    assert figures.expected_calibration_error(bins) == pytest.approx((0.0 + 0.1) / 2)


def calibrated(cells: int, seed: int) -> tuple[Floats, Integers]:
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.5, 1.0, cells)
    return confidence, (rng.random(cells) < confidence).astype(np.int64)


def test_debiasing_takes_away_what_few_cells_add_to_a_calibrated_network() -> None:
    bins = [figures.calibration_bins(*calibrated(300, seed)) for seed in range(60)]
    plain = np.mean([figures.expected_calibration_error(some) for some in bins])
    debiased = np.mean([figures.debiased_calibration_error(some) for some in bins])
    assert plain > 0.05  # a calibrated network, yet far from 0
    assert debiased < 0.65 * plain
    confidence, correct = calibrated(20_000, 1)
    wrong = figures.calibration_bins(confidence - 0.1, correct)
    assert figures.debiased_calibration_error(wrong) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("too_sure", [0.0, 0.1])
def test_the_interval_of_the_calibration_error_holds_the_error(too_sure: float) -> None:
    missed = []
    for seed in range(40):
        confidence, correct = calibrated(600, seed)
        patients = np.array([f"p{k // 10}" for k in range(600)])
        weight = bootstrap.patient_weights(patients, np.zeros(600, dtype=np.int64), 1, draws=200, seed=seed)
        low, high = bootstrap.calibration_error_interval(weight, confidence + too_sure, correct == 1)
        figure = figures.debiased_calibration_error(figures.calibration_bins(confidence + too_sure, correct))
        assert low <= figure <= high and high - low < 0.12
        missed.append(max(low - too_sure, too_sure - high, 0.0))
    # Of a calibrated network the error is 0: the figure's own remaining bias may keep the lower end just off it.
    assert np.mean(np.array(missed) <= 0.02) >= 0.9


def test_a_resampling_without_a_bins_cells_still_has_an_error() -> None:
    weight = np.array([[1, 1, 0, 0]], dtype=np.float32)
    found = bootstrap.calibration_error_interval(weight, [0.6, 0.6, 0.9, 0.9], np.array([True, True, False, False]))
    assert found == pytest.approx((0.65, 0.65))  # one draw has no spread: the figure itself


def test_folded_normal_mean_is_what_drawing_would_give() -> None:
    draws = np.abs(np.random.default_rng(0).normal(0.03, 0.05, 400_000))
    mean = figures.folded_normal_mean(np.array([0.03, 0.2]), np.array([0.05, 0.0]))
    assert mean[0] == pytest.approx(draws.mean(), abs=3e-4)
    assert mean[1] == 0.2


def test_risk_coverage_answers_the_surest_first_and_equals_together() -> None:
    thresholds, coverage, risk = figures.risk_coverage([0.9, 0.8, 0.8, 0.5], [True, True, False, False])
    assert thresholds.tolist() == [0.9, 0.8, 0.5]
    assert coverage.tolist() == [0.25, 0.75, 1.0]
    assert risk.tolist() == [0.0, pytest.approx(1 / 3), 0.5]


def test_a_unit_stands_for_the_class_it_holds_most_of() -> None:
    unit = np.array(["a"] * 10 + ["b"] * 3 + ["c"] * 10)
    label = np.array([0] * 10 + [0, 1, 1] + [0] * 9 + [2])
    assert units.main_class(unit, label, 3) == {"a": 0, "b": 1, "c": 2}


def cohort() -> tuple[np.ndarray[tuple[int], np.dtype[np.str_]], Integers, Integers]:
    """Twenty patients of ten cells; what is called right goes by patient: half of the patients of class 1 are
    missed.
    """
    patient = np.repeat(np.arange(20), 10)
    label = (patient >= 10).astype(np.int64)
    called = np.where(patient >= 15, 0, label)
    return np.array([f"p{k:02d}" for k in patient]), label, called


def test_resampling_patients_keeps_cells_together_and_classes_whole() -> None:
    unit, label, _ = cohort()
    weight = bootstrap.patient_weights(unit, label, 2, draws=50, seed=1)
    by_patient = weight.reshape(50, 20, 10)
    assert (by_patient == by_patient[:, :, :1]).all()
    assert (weight[:, label == 0].sum(axis=1) == 100).all()
    assert (weight[:, label == 1].sum(axis=1) == 100).all()
    shuffled = np.random.default_rng(0).permutation(200)
    again = bootstrap.patient_weights(unit[shuffled], label[shuffled], 2, draws=50, seed=1)
    assert (again == weight[:, shuffled]).all()


def test_patients_give_a_wider_interval_than_cells_would() -> None:
    unit, label, called = cohort()
    cells = np.array([f"c{k}" for k in range(200)])
    width = []
    for units_of in (unit, cells):
        weight = bootstrap.patient_weights(units_of, label, 2, draws=1000, seed=0)
        found = bootstrap.interval(figures.recall(bootstrap.confusions(weight, label, called, 2))[:, 1])
        assert found is not None and found[0] < 0.5 < found[1]
        width.append(found[1] - found[0])
    assert width[0] > 2.5 * width[1]  # √10 of it: ten alike cells say as much as one


def test_interval_of_nothing_is_nothing() -> None:
    assert bootstrap.interval([np.nan, np.nan]) is None
    assert bootstrap.interval([1.0, np.nan, 1.0]) == (1.0, 1.0)


def test_examples_in_the_docstrings() -> None:
    result = doctest.testmod(figures, extraglobs={"np": np})
    assert result.attempted >= 1
    assert result.failed == 0
