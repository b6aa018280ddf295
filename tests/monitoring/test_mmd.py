"""The maximum mean discrepancy of patients: it holds its level, whatever the case mix, and sees what no mean shows."""

from dataclasses import replace

import numpy as np
import pytest

from monitoring.judge_settings import JudgeSettings
from monitoring.mmd import mmd
from monitoring.window import NO_PATIENT
from tests.support.worlds import Change, World

LEVEL = 0.1
SETTINGS = JudgeSettings(bootstraps=100, mmd_level=LEVEL, mmd_floor=0.0)
WORLD = World(size=16)


def found_in(runs: int, *, shares: tuple[float, ...] | None = None, change: Change | None = None) -> int:
    """In how many sites of 20 patients the level is passed."""
    count = 0
    for seed in range(runs):
        rng = np.random.default_rng([19, seed])
        window = WORLD.window(rng, patients=20, cells=10, shares=shares, change=change)
        count += mmd(window, WORLD.reference(rng, patients=30), SETTINGS, rng).out
    return count


def test_its_level_holds_with_the_same_and_with_another_case_mix() -> None:
    # Of 100 quiet sites 10 are expected; 20 and more has a probability of 0.2 %.
    assert 1 <= found_in(100) < 20
    assert found_in(100, shares=(0.2, 0.2, 0.4, 0.2)) < 20


def test_noise_that_leaves_every_mean_where_it_was_is_seen() -> None:
    assert found_in(20, change=Change(noise=2.0)) >= 18


def test_the_figure_grows_with_the_change_and_its_interval_holds_it() -> None:
    figures = []
    for size in (0.0, 0.5, 1.0, 2.0):
        rng = np.random.default_rng(5)
        window = WORLD.window(rng, patients=40, cells=20, change=Change(embedding=size))
        found = mmd(window, WORLD.reference(rng, patients=40), JudgeSettings(), rng)
        assert found.figure is not None
        assert found.interval is not None
        assert found.interval[0] <= found.figure <= found.interval[1]
        figures.append(found.figure)
    assert figures == sorted(figures)
    assert figures[0] < JudgeSettings().mmd_floor < figures[2]


def test_it_is_the_same_again_and_a_large_window_is_sampled() -> None:
    rng = np.random.default_rng(6)
    reference = WORLD.reference(rng, patients=40)
    window = WORLD.window(rng, patients=700, cells=40)
    one, other = (mmd(window, reference, SETTINGS, np.random.default_rng(1)) for _ in range(2))
    assert one == other
    assert (one.cells, one.patients) == (len(window), 700)


@pytest.mark.parametrize("patients", [1, 9])
def test_too_few_patients_are_insufficient(patients: int) -> None:
    rng = np.random.default_rng(7)
    window = WORLD.window(rng, patients=patients, cells=30)
    assert mmd(window, WORLD.reference(rng), SETTINGS, rng).state == "insufficient"


def test_a_reference_of_few_patients_is_unknown_and_cells_of_nobody_do_not_count() -> None:
    rng = np.random.default_rng(8)
    reference, window = WORLD.reference(rng), WORLD.window(rng, patients=30, cells=20)
    few = replace(reference, patient=reference.patient % 5)
    assert mmd(window, few, SETTINGS, rng).state == "unknown"
    window.embedding[window.patient < 5] += 100.0
    some = replace(window, patient=np.where(window.patient < 5, NO_PATIENT, window.patient))
    assert mmd(some, reference, JudgeSettings(), rng).state == "ok"
