"""The simulated hospital is like its reference, its windows are the monitor's, and the table says what came out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.simulation.hospital import Change, Population
from benchmarks.simulation.monitor import watch, windows
from benchmarks.simulation.report import PRIOR, is_found, share, upper, write
from benchmarks.simulation.shifts import SHIFTS, SIZES
from benchmarks.simulation.traffic import DAY, Rhythm, Visit, visits
from benchmarks.trigger_simulation import Plan, plans, runs_of
from monitoring.judge_settings import JudgeSettings
from service.contract.reference import Reference
from tests.support.worlds import World

BUSY = Rhythm(workday=12.0, weekend=12.0)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return World().reference(np.random.default_rng(1), patients=120)


@pytest.fixture(scope="module")
def population(reference: Reference) -> Population:
    return Population(reference)


def spread(reference: Reference) -> tuple[np.ndarray, np.ndarray, float]:
    """How much patients differ, how much their cells do, and the accuracy."""
    means = np.stack([reference.embedding[reference.label == k].mean(axis=0) for k in range(reference.classes)])
    away = reference.embedding - means[reference.label]
    _, index = np.unique(reference.patient, return_inverse=True)
    person = np.stack([np.bincount(index, column) for column in away.T], axis=1) / np.bincount(index)[:, None]
    right = reference.probabilities.argmax(axis=1) == reference.label
    return person.std(axis=0), (away - person[index]).std(axis=0), float(right.mean())


def test_made_up_cells_are_like_those_they_are_made_up_from(reference: Reference, population: Population) -> None:
    cells = round(len(reference.label) / len(np.unique(reference.patient)))
    made = population.reference(np.random.default_rng(2), 400, cells)
    between, within, accuracy = spread(reference)
    made_between, made_within, made_accuracy = spread(made)
    assert np.median(made_between / between) == pytest.approx(1, abs=0.15)
    assert np.median(made_within / within) == pytest.approx(1, abs=0.1)
    assert made_accuracy == pytest.approx(accuracy, abs=0.04)


def test_a_unit_is_one_patient_level_standard_deviation_long(population: Population) -> None:
    change = population.unit(np.random.default_rng(3), statistics=("hue",))
    inside = slice(0, population.size)
    along = change[inside] / np.linalg.norm(change[inside])
    made = population.reference(np.random.default_rng(5), 400, 20)
    means = np.stack([made.embedding[made.label == k].mean(axis=0) for k in range(made.classes)])
    away = (made.embedding - means[made.label]) @ along
    persons = np.bincount(made.patient, away) / np.bincount(made.patient)
    assert np.linalg.norm(change[inside]) == pytest.approx(persons.std(), rel=0.15)
    assert np.count_nonzero(change[population.size : population.size + 5]) == 1


def test_a_concept_that_changed_moves_labels_and_nothing_else(population: Population) -> None:
    patients = population.patients(np.random.default_rng(4), 200)
    before, after = (
        population.draw(np.random.default_rng(5), patients, 10, change) for change in (None, Change(of=1, confuse=0.5))
    )
    np.testing.assert_array_equal(before.embedding, after.embedding)
    moved = before.label != after.label
    assert set(before.label[moved]) == {1} and set(after.label[moved]) == {2}
    assert moved[before.label == 1].mean() == pytest.approx(0.5, abs=0.08)


def test_windows_close_as_the_monitors_do(population: Population) -> None:
    stream = list(visits(population, np.random.default_rng(6), 30, BUSY))
    settings = JudgeSettings()
    cut = list(windows(stream, settings))
    assert sum(len(window.label) for window in cut) <= sum(len(visit.cells) for visit in stream)
    for window in cut:
        assert len(window.label) >= settings.min_cells and window.arrays.patients >= settings.min_patients
        last = window.time == window.time[-1]
        rest = len(window.label) - int(last.sum())
        # Without its last visit it would not have closed.
        assert rest < settings.min_cells or len(set(window.person[~last])) < settings.min_patients
    rare = [Visit(8 * DAY * number, number, stream[0].cells) for number in range(40)]
    assert list(windows(rare, settings)) == []


def test_a_large_shift_is_found_and_a_quiet_month_is_not(population: Population) -> None:
    rng = np.random.default_rng(7)
    reference = population.reference(rng, 60, 20)
    quiet = list(watch(visits(population, rng, 28, BUSY), reference, seed=1, reviewed_share=0.1))
    assert len(quiet) > 10
    assert not any(step.decision.kind == "retrain" for step in quiet)
    onset = SHIFTS["new stain"](population, rng, "large", 7)
    found = list(watch(visits(population, rng, 28, BUSY, change=onset), reference, seed=1, reviewed_share=0.1))
    kinds = [step.decision.kind for step in found if step.window.at > 7 * DAY]
    assert "retrain" in kinds[:6]
    assert all(step.decision.kind != "retrain" for step in found if step.window.at < 7 * DAY)


def test_bounds_are_those_of_the_textbooks() -> None:
    assert upper(0, 1) == pytest.approx(3.689, abs=0.001)
    assert upper(10, 10) == pytest.approx(1.839, abs=0.001)
    assert list(share(95, 100)) == pytest.approx([0.887, 0.984], abs=0.001)
    assert share(0, 10)[0] == 0 and share(10, 10)[1] == 1


def test_single_windows_start_one_a_day() -> None:
    class At:
        def __init__(self, at: float) -> None:
            self.at = at

    flags = [(At(hour * 3600.0), True) for hour in range(0, 72, 6)] + [(At(80 * 3600.0), False)]
    assert runs_of(flags) == 3


def outcome(kind: str | None, cells: int = 700) -> dict[str, Any]:
    found = None if kind is None else {"kind": kind, "causes": [], "cells": cells, "patients": 60, "days": 9.0}
    return {"found": found, "points": 6.0}


def test_found_is_the_right_decision_in_time() -> None:
    assert is_found(outcome("retrain"), "new stain")
    assert not is_found(outcome("retrain", 1001), "new stain")
    assert not is_found(outcome("recalibrate"), "new stain")
    assert not is_found(outcome(None), "new stain")
    assert is_found(outcome("recalibrate"), PRIOR) and not is_found(outcome("retrain"), PRIOR)
    assert is_found(outcome("retrain", 3000), "slow drift, 60 days")


def test_a_missed_target_is_said_to_be_missed(population: Population, tmp_path: Path) -> None:
    year = {"windows": 130, "cells": 26000, "retrain": 0, "recalibrate": 1, "page": 0, "causes": []}
    results: dict[tuple[str, ...], dict[str, Any]]
    results = {("quiet", "", str(n)): {**year, "ks_flagged": 100, "ks_runs": 90} for n in range(10)}
    results |= {("new stain", "medium", str(n)): outcome("retrain" if n else None) for n in range(10)}
    write(tmp_path / "result.md", results, population)
    text = (tmp_path / "result.md").read_text()
    assert "| blastwatch | 10 | 1300 | | 0.00 | 0.37 (met: ≤ 1) |" in text
    assert "| new stain | medium | 6.0 | 90% (55%–100%) | 700 | 60 | 0% | **missed** |" in text


def test_every_shift_is_simulated_at_every_size_and_each_has_a_file_of_its_own() -> None:
    todo = plans(3, 2, 1)
    assert {(plan.kind, plan.size) for plan in todo} == {
        *((kind, size) for kind in SHIFTS for size in SIZES),
        ("quiet", ""),
        ("evidently", ""),
    }
    assert len({plan.name for plan in todo}) == len(todo)
    assert Plan("quiet", "", 3).name == "quiet--3"
