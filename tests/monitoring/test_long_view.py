"""The last windows together: they show what one window cannot, and a quiet site stays quiet."""

from dataclasses import replace

import numpy as np
import pytest

from monitoring.findings import Finding
from monitoring.judge_settings import JudgeSettings
from monitoring.long_view import EMBEDDING, LABEL_SHIFT, MMD, NAMES, REVIEWED, UNLIKE, long_view, performance_now
from monitoring.novelty import novelty
from monitoring.window import NO_PATIENT, WindowArrays
from service.contract.reference import Reference
from tests.support.worlds import CHILDHOOD, LABELS, Change, World

SETTINGS = JudgeSettings(bootstraps=100)
WORLD = World(size=16)
MORE_L2 = tuple(share / (1 + 2 * CHILDHOOD[2]) * (3 if kind == 2 else 1) for kind, share in enumerate(CHILDHOOD))


def seen(window: WindowArrays, reference: Reference) -> dict[str, Finding]:
    found = long_view(window, reference, SETTINGS, np.random.default_rng(2), LABELS)
    assert tuple((item.name, item.family) for item in found) == NAMES[:-1]
    return {item.name: item for item in found}


def out(
    name: str, runs: int, *, shares: tuple[float, ...] | None = None, change: Change | None = None, odd: float = 0.0
) -> float:
    """Share of seeded sites where it is drift: 44 patients of 20 cells, of which a part is of an unknown kind."""
    count = 0
    for seed in range(runs):
        rng = np.random.default_rng([13, seed])
        reference = WORLD.reference(rng, patients=48)
        window = WORLD.window(rng, patients=44, cells=20, shares=shares, change=change)
        strangers = rng.permutation(44) < odd * 44
        window.embedding[strangers[window.patient]] += 7.0 * np.eye(16)[3]
        count += seen(window, reference)[name].out
    return count / runs


def test_quiet_sites_stay_quiet() -> None:
    assert [out(name, 60) for name in (LABEL_SHIFT, EMBEDDING, UNLIKE, MMD)] == [0.0, 0.0, 0.0, 0.0]


def test_each_question_finds_what_it_is_asked_for() -> None:
    assert out(LABEL_SHIFT, 30, shares=(0.15, 0.15, 0.55, 0.15)) >= 0.9
    assert out(EMBEDDING, 30, change=Change(embedding=0.4)) >= 0.9
    assert out(UNLIKE, 30, odd=0.3) >= 0.9
    assert out(MMD, 30, odd=0.3) >= 0.9
    assert out(MMD, 30, change=Change(embedding=0.4)) >= 0.9


def test_another_case_mix_is_no_change_of_the_cells() -> None:
    for name in (EMBEDDING, UNLIKE, MMD):
        assert out(name, 30, shares=MORE_L2) == 0.0


def test_one_class_three_times_as_frequent_is_near_the_limit_of_so_few_patients() -> None:
    assert 0.2 <= out(LABEL_SHIFT, 30, shares=MORE_L2) <= 0.9


def test_where_the_cells_changed_the_case_mix_is_unknown() -> None:
    rng = np.random.default_rng(3)
    window = WORLD.window(rng, patients=44, cells=20, shares=(0.1, 0.1, 0.7, 0.1), change=Change(embedding=1.0))
    found = seen(window, WORLD.reference(rng, patients=48))
    assert found[EMBEDDING].out
    assert found[LABEL_SHIFT].state == "unknown"
    assert found[LABEL_SHIFT].detail["why"].startswith("the cells themselves")


@pytest.mark.parametrize(("patients", "cells"), [(39, 30), (60, 10)])
def test_too_few_are_insufficient(patients: int, cells: int) -> None:
    rng = np.random.default_rng(4)
    found = seen(WORLD.window(rng, patients=patients, cells=cells), WORLD.reference(rng))
    assert {item.state for item in found.values()} == {"insufficient"}


def test_cells_without_a_patient_are_not_asked() -> None:
    rng = np.random.default_rng(5)
    reference, window = WORLD.reference(rng, patients=48), WORLD.window(rng, patients=50, cells=20)
    some = replace(window, patient=np.where(window.patient < 5, NO_PATIENT, window.patient))
    window.embedding[some.patient == NO_PATIENT] += 50.0
    found = seen(some, reference)
    assert {item.state for item in found.values()} == {"ok"}
    assert {item.patients for item in found.values()} == {45}


def test_a_reference_of_few_patients_says_nothing_of_strangers() -> None:
    rng = np.random.default_rng(6)
    reference = WORLD.reference(rng, patients=48)
    few = replace(reference, patient=reference.patient % 7)
    assert novelty(WORLD.window(rng, patients=44), few, SETTINGS).state == "unknown"


def test_few_cells_of_a_patient_make_nobody_a_stranger() -> None:
    figures = []
    for seed in range(20):
        rng = np.random.default_rng([17, seed])
        reference = WORLD.reference(rng, patients=60, cells=30)
        figures.append(novelty(WORLD.window(rng, patients=60, cells=2), reference, SETTINGS).figure)
    assert np.mean(np.array(figures, dtype=float)) < 0.03


def test_without_reviews_performance_is_insufficient() -> None:
    rng = np.random.default_rng(7)
    found = performance_now([], WORLD.reference(rng), SETTINGS, rng, LABELS)
    assert (found.name, found.state) == (REVIEWED, "insufficient")
