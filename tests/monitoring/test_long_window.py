"""The long view is cut from the store: as many windows as it needs, none from before the last retraining."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitoring.judge_settings import JudgeSettings
from monitoring.long_window import long_window
from monitoring.verdict import JudgedWindow, judged_window
from monitoring.window import Window, tumble
from service.contract.ledger import Row
from service.contract.records import PredictionRecord
from service.contract.statistics import STATISTICS
from service.contract.store import Store
from tests.support.records import prediction

SETTINGS = JudgeSettings(min_cells=20, min_patients=4, long_cells=60, long_patients=12, long_windows=4)
MODEL = "a" * 32


def filled(store: Store, windows: int) -> list[Window]:
    """Windows of 20 cells of 5 patients, 2 of whom are always the same."""
    for number in range(20 * windows):
        who = number % 5 if number % 5 < 2 else 10 * (number // 20) + number % 5
        store.insert_predictions([answer(number, patient=f"p{who}", time=time(number))])
    answers = store.predictions()
    closed, rest = tumble(answers, min_cells=20, min_patients=4, max_age_s=1e9, now=0.0)
    assert (len(closed), rest) == (windows, [])
    return closed


def answer(number: int, **changes: Any) -> PredictionRecord:
    return prediction(number, model_version=MODEL, statistics=dict.fromkeys(STATISTICS, 0.5), **changes)


def time(number: int) -> str:
    return f"2026-01-05T08:{number // 60:02}:{number % 60:02}+00:00"


def judged(windows: list[Window]) -> list[JudgedWindow]:
    return [judged_window(window, []) for window in windows]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path / 'store.db'}")


def test_it_goes_back_as_far_as_it_needs(store: Store) -> None:
    windows = filled(store, 7)
    long = long_window(store, judged(windows[:-1]), windows[-1], [], SETTINGS)
    assert long is not None
    # Each window brings three patients of its own: four of them have fourteen.
    assert (long.first_seq, long.last_seq, len(long.columns), long.patients) == (61, 140, 80, 14)
    assert np.all(np.diff(long.columns.seq) == 1)
    assert long.opened == windows[3].opened


def test_early_it_is_what_there_is(store: Store) -> None:
    windows = filled(store, 2)
    long = long_window(store, judged(windows[:1]), windows[1], [], SETTINGS)
    assert long is not None
    assert len(long.columns) == 40


def test_what_led_to_a_run_is_left_out(store: Store) -> None:
    windows = filled(store, 6)
    started = Row(1, "2026-01-05T08:01:00+00:00", "retraining_started", {"run": "r"}, "", "")
    long = long_window(store, judged(windows[:-1]), windows[-1], [started], SETTINGS)
    assert long is not None
    assert (long.first_seq, long.last_seq) == (61, 120)


def test_a_window_that_is_long_itself_or_expired_has_none(store: Store) -> None:
    windows = filled(store, 5)
    enough = JudgeSettings(min_cells=20, min_patients=4, long_cells=20, long_patients=10)
    assert long_window(store, judged(windows[:-1]), windows[-1], [], enough) is not None
    alone = Window(MODEL, 1, 100, 0.0, 1.0, True, tuple(store.predictions()))
    assert long_window(store, [], alone, [], SETTINGS) is None
    expired = Window(MODEL, 81, 100, 0.0, 1.0, False, windows[-1].cells)
    assert long_window(store, judged(windows[:-1]), expired, [], SETTINGS) is None


def test_what_is_disputed_since_is_not_in_it(store: Store) -> None:
    windows = filled(store, 4)
    store.insert_predictions([answer(20, record_id="f" * 32, pixels_sha256="e" * 64)])
    long = long_window(store, judged(windows[:-1]), windows[-1], [], SETTINGS)
    assert long is not None
    assert 21 not in long.columns.seq
    assert len(long.columns) == 79
