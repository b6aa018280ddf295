"""Folds: nobody on two sides, everybody tested once a repeat, classes spread; and what a paired interval can tell."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.contract.errors import ConfigError
from training.folds import folds, inner_validation, paired_interval, part_of_units


def cells(patients: int, each: int, classes: int = 3) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.int64]]:
    """`each` cells of every patient, patients' classes in turn."""
    unit = np.array([f"patient-{k // each:03d}" for k in range(patients * each)], dtype=np.str_)
    return unit, np.array([k // each % classes for k in range(patients * each)], dtype=np.int64)


@settings(max_examples=25, deadline=None)
@given(patients=st.integers(15, 60), each=st.integers(1, 7), number=st.integers(2, 5), seed=st.integers(0, 99))
def test_every_cell_is_tested_once_a_repeat_and_no_unit_is_divided(
    patients: int, each: int, number: int, seed: int
) -> None:
    unit, label = cells(patients, each)
    found = list(folds(unit, label, folds=number, repeats=2, seed=seed))
    assert [(fold.repeat, fold.number) for fold in found] == [(r, k) for r in range(2) for k in range(number)]
    for repeat in range(2):
        tested = np.concatenate([fold.test for fold in found if fold.repeat == repeat])
        assert sorted(tested.tolist()) == list(range(len(label)))
    for fold in found:
        assert not set(unit[fold.train]) & set(unit[fold.test])
        assert sorted([*fold.train, *fold.test]) == list(range(len(label)))


def test_classes_are_spread_evenly_also_a_rare_one() -> None:
    unit = np.array([f"u{k}" for k in range(300)], dtype=np.str_)
    label = np.array([0] * 180 + [1] * 98 + [2] * 22, dtype=np.int64)
    for fold in folds(unit, label, folds=5, repeats=3, seed=1):
        counts = np.bincount(label[fold.test])
        assert counts.tolist() in ([36, 20, 4], [36, 19, 4], [36, 20, 5], [36, 19, 5])


def test_a_patient_with_half_of_a_class_does_not_crowd_a_fold() -> None:
    unit = np.array(["big"] * 50 + [f"u{k}" for k in range(50)], dtype=np.str_)
    label = np.zeros(100, dtype=np.int64)
    sizes = [len(fold.test) for fold in folds(unit, label, folds=2, repeats=1, seed=0)]
    assert sizes == [50, 50]


def test_the_same_seed_gives_the_same_folds_and_repeats_differ() -> None:
    unit, label = cells(40, 3)
    one, two = (list(folds(unit, label, folds=4, repeats=2, seed=5)) for _ in range(2))
    assert all((a.test == b.test).all() for a, b in zip(one, two, strict=True))
    assert any(len(a.test) != len(b.test) or (a.test != b.test).any() for a, b in zip(one[:4], one[4:], strict=True))


def test_the_order_of_the_cells_does_not_matter() -> None:
    unit, label = cells(40, 3)
    order = np.random.default_rng(0).permutation(len(unit))
    for fold, moved in zip(
        folds(unit, label, folds=4, repeats=1, seed=5),
        folds(unit[order], label[order], folds=4, repeats=1, seed=5),
        strict=True,
    ):
        assert set(unit[fold.test]) == set(unit[order][moved.test])


def test_fewer_units_of_a_class_than_folds_is_refused() -> None:
    unit, label = cells(9, 4)
    with pytest.raises(ConfigError, match="3 patients or pictures, fewer than the 5 folds"):
        list(folds(unit, label, folds=5, repeats=1, seed=0))
    with pytest.raises(ConfigError, match="at least 2 and 1"):
        list(folds(unit, label, folds=1, repeats=1, seed=0))


def test_inner_validation_keeps_units_whole_and_has_every_class() -> None:
    unit, label = cells(30, 4)
    fold = next(folds(unit, label, folds=5, repeats=1, seed=0))
    train, validation = inner_validation(unit, label, fold.train, 0.2, seed=0)
    assert not set(unit[train]) & set(unit[validation])
    assert sorted([*train, *validation]) == fold.train.tolist()
    assert set(label[validation]) == set(label[train]) == {0, 1, 2}
    assert 0.1 < len(validation) / len(fold.train) < 0.35


def test_inner_validation_of_a_class_with_one_unit_is_refused() -> None:
    unit, label = np.array(["a", "b", "c"]), np.array([0, 0, 1])
    with pytest.raises(ConfigError, match="one patient or picture"):
        inner_validation(unit, label, np.arange(3), 0.2, seed=0)


def test_parts_of_the_units_are_nested_and_keep_every_class() -> None:
    unit, label = cells(48, 3)
    rows = np.arange(len(unit))
    parts = [set(part_of_units(unit, label, rows, share, seed=0).tolist()) for share in (0.125, 0.25, 0.5, 1.0)]
    assert parts[0] < parts[1] < parts[2] < parts[3] == set(rows.tolist())
    assert all(set(label[sorted(part)]) == {0, 1, 2} for part in parts)


def test_a_system_that_is_right_more_often_is_better_by_the_interval_and_its_mirror_worse() -> None:
    unit, label = cells(60, 4)
    right, wrong = label.copy(), label.copy()
    wrong[::5] = (wrong[::5] + 1) % 3
    found = paired_interval(unit, label, np.stack([right] * 2), np.stack([wrong] * 2))
    assert found.better
    assert not found.worse
    assert found.difference == pytest.approx(0.2)
    mirrored = paired_interval(unit, label, np.stack([wrong] * 2), np.stack([right] * 2))
    assert mirrored.worse
    assert mirrored.difference == pytest.approx(-0.2)


def test_errors_of_the_same_number_in_other_cells_decide_nothing() -> None:
    unit, label = cells(60, 4)
    one, two = label.copy(), label.copy()
    one[::10] = (one[::10] + 1) % 3
    two[5::10] = (two[5::10] + 1) % 3
    found = paired_interval(unit, label, one[None], two[None], balanced=True)
    assert not found.better
    assert not found.worse


def test_cells_of_one_patient_count_as_one_observation() -> None:
    # The second system fails one patient of sixty entirely: as cells that would be decided, as patients it is not.
    unit, label = cells(60, 8)
    other = label.copy()
    other[unit == "patient-000"] = (label[unit == "patient-000"] + 1) % 3
    grouped = paired_interval(unit, label, label[None], other[None])
    alone = paired_interval(np.array([str(k) for k in range(len(unit))]), label, label[None], other[None])
    assert not grouped.better
    assert alone.better
