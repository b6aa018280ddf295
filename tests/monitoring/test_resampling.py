"""Drawing patients: sums, draws and orders, and the adjustment of p values against scipy's."""

import doctest

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from monitoring import resampling
from monitoring.resampling import (
    Permutations,
    benjamini_hochberg,
    bootstrap_sums,
    bootstrap_weights,
    effective,
    ordinals,
    patient_counts,
    permutation_count,
    sum_by,
)


def test_sums_and_counts_by_patient() -> None:
    index, patients = ordinals(np.array([7, 3, 7, 9, 3, 7]))
    assert (index.tolist(), patients) == ([1, 0, 1, 2, 0, 1], 3)
    values = np.arange(12.0).reshape(6, 2)
    assert sum_by(values, index).tolist() == [[10.0, 12.0], [14.0, 17.0], [6.0, 7.0]]
    assert patient_counts(index, np.array([0, 1, 0, 1, 1, 1]), 3, 2).tolist() == [[0, 2], [2, 1], [0, 1]]


def test_every_bootstrap_draw_has_as_many_patients() -> None:
    drawn = bootstrap_weights(np.random.default_rng(0), 7, 400)
    assert drawn.shape == (400, 7)
    assert (drawn.sum(axis=1) == 7).all()
    assert drawn.mean() == pytest.approx(1.0)
    assert drawn.std() == pytest.approx(np.sqrt(1 - 1 / 7), abs=0.05)


def test_permutations_are_orders_and_shared_by_size() -> None:
    orders = Permutations(np.random.default_rng(0), 50)
    first = orders.of(6)
    assert (np.sort(first, axis=1) == np.arange(6)).all()
    assert len({tuple(row) for row in first.tolist()}) > 40
    assert orders.of(6) is first
    assert orders.of(5).shape == (50, 5)


def test_adjusted_p_values_are_those_of_scipy() -> None:
    rng = np.random.default_rng(1)
    for size in (1, 2, 7, 10):
        p = rng.uniform(size=size) ** 2
        np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p))


def test_equal_weights_count_in_full_and_one_large_weight_as_one() -> None:
    assert effective(np.ones(12)) == pytest.approx(12)
    assert effective(np.array([1e6, 1.0, 1.0])) == pytest.approx(1, abs=1e-4)


def test_a_family_gets_the_permutations_that_its_first_bound_needs() -> None:
    assert permutation_count(20, 7, 0.05) == 2800


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(resampling) == doctest.TestResults(failed=0, attempted=1)


def test_sums_of_patients_drawn_anew_are_those_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.random.default_rng(1).normal(size=(37, 3))
    wanted = bootstrap_weights(np.random.default_rng(2), 37, 100) @ table
    for together in (1, 37 * 7, 1 << 20):
        monkeypatch.setattr(resampling, "_DRAWN_TOGETHER", together)
        np.testing.assert_allclose(bootstrap_sums(np.random.default_rng(2), table, 100), wanted, rtol=1e-12)
