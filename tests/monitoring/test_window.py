"""Windows follow from the order of the answers and the times on them, and from nothing else."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.window import NO_PATIENT, Window, arrays, tumble
from service.contract.statistics import STATISTICS
from service.contract.store import StoredPrediction
from tests.support.records import prediction

LABELS = ("healthy", "L1")
STATISTICS_OF_A_CELL = dict.fromkeys(STATISTICS, 0.5)


def answer(seq: int, patient: str = "", at: float = 0.0, *, disputed: bool = False, **changes: Any) -> StoredPrediction:
    time = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")
    changes = {"statistics": STATISTICS_OF_A_CELL, "patient": patient, "time": time} | changes
    return StoredPrediction(seq, prediction(seq, **changes), disputed)


def cut(
    items: Sequence[StoredPrediction], *, cells: int = 6, patients: int = 3, age: float = 100.0, now: float = 0.0
) -> tuple[list[Window], list[StoredPrediction]]:
    return tumble(items, min_cells=cells, min_patients=patients, max_age_s=age, now=now)


def test_a_window_closes_with_the_cell_that_completes_both_counts() -> None:
    items = [answer(seq, f"p{seq % 3}", at=float(seq)) for seq in range(1, 15)]
    closed, rest = cut(items)
    assert [(window.first_seq, window.last_seq) for window in closed] == [(1, 6), (7, 12)]
    assert [(window.opened, window.closed) for window in closed] == [(1.0, 6.0), (7.0, 12.0)]
    assert all(window.complete for window in closed)
    assert [item.seq for item in rest] == [13, 14]


def test_many_cells_of_few_patients_do_not_close_it() -> None:
    items = [answer(seq, f"p{seq % 2}") for seq in range(1, 50)] + [answer(50, "third")]
    assert cut(items[:-1]) == ([], items[:-1])
    (window,), rest = cut(items)
    assert (window.last_seq, len(window.cells), rest) == (50, 50, [])


def test_cells_without_a_patient_are_kept_but_do_not_count() -> None:
    items = [answer(seq, f"p{seq % 3}" if seq % 2 else "") for seq in range(1, 12)]
    (window,), _ = cut(items)
    assert (window.last_seq, len(window.cells)) == (11, 11)
    assert cut(items[:-1])[0] == []


def test_it_expires_when_a_cell_comes_too_late() -> None:
    items = [answer(1, "a", at=0.0), answer(2, "b", at=100.0), answer(3, "c", at=100.5), answer(4, "d", at=101.0)]
    (window,), rest = cut(items, now=150.0)
    assert (window.first_seq, window.last_seq, window.complete, window.closed) == (1, 2, False, 100.0)
    assert [item.seq for item in rest] == [3, 4]


def test_it_expires_when_nothing_comes_at_all() -> None:
    items = [answer(1, "a", at=0.0), answer(2, "b", at=5.0)]
    assert cut(items, now=100.0) == ([], items)
    (window,), rest = cut(items, now=100.1)
    assert (window.complete, window.closed, rest) == (False, 100.0, [])


def test_test_traffic_and_disputed_answers_are_left_out() -> None:
    items = [answer(seq, f"p{seq % 3}") for seq in range(1, 7)]
    spoiled = [items[0], answer(2, "p2", test=True), answer(3, "p0", disputed=True), *items[3:]]
    assert cut(spoiled)[0] == []
    (window,), _ = cut([*spoiled, answer(7, "p1"), answer(8, "p2")])
    assert isinstance(window.cells, tuple)
    assert [item.seq for item in window.cells] == [1, 4, 5, 6, 7, 8]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(0, 40)), max_size=60),
    st.integers(0, 60),
)
def test_asking_in_between_changes_nothing(cells: list[tuple[int, float]], split: int) -> None:
    at, items = 0.0, []
    for seq, (patient, gap) in enumerate(cells, start=1):
        at += gap
        items.append(answer(seq, f"p{patient}" if patient else "", at=at))
    whole, left = cut(items, now=at)
    early, open_then = cut(items[:split], now=0.0)
    last = early[-1].last_seq if early else 0
    late, left_late = cut([item for item in items if item.seq > last], now=at)
    assert early + late == whole
    assert left_late == left
    assert open_then == [item for item in items[:split] if item.seq > last]


def test_windows_are_per_model_and_in_order_of_seq() -> None:
    with pytest.raises(ValueError, match="per model version"):
        cut([answer(1, "a"), answer(2, "b", model_version="b" * 32)])
    with pytest.raises(ValueError, match="order of seq"):
        cut([answer(2, "a"), answer(1, "b")])


def test_nothing_gives_nothing() -> None:
    assert cut([], now=1e9) == ([], [])


def test_arrays_hold_what_the_records_say() -> None:
    items = [
        answer(1, "a", label="L1", probabilities={"L1": 0.75, "healthy": 0.25}, embedding=(1.0, 2.0)),
        answer(2, "", label="healthy", probabilities={"healthy": 0.9, "L1": 0.1}, embedding=(3.0, 4.0), refer=True),
        answer(3, "b", refer=True, refer_reasons=("uncertain", "out_of_distribution"), embedding=(5.0, 6.0)),
        answer(4, "a", embedding=(7.0, 8.0), statistics={name: float(n) for n, name in enumerate(STATISTICS)}),
    ]
    (window,), _ = cut(items, cells=3, patients=2)
    cells = arrays(window, LABELS)
    assert cells.embedding.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert cells.probabilities[:2].tolist() == [[0.25, 0.75], [0.9, 0.1]]
    assert cells.predicted.tolist() == [1, 0, 1, 1]
    assert cells.patient.tolist() == [0, NO_PATIENT, 1, 0]
    assert cells.ood.tolist() == [False, False, True, False]
    assert cells.refer.tolist() == [False, True, True, False]
    assert cells.statistics[3].tolist() == [0, 1, 2, 3, 4]
    assert (len(cells), cells.patients, len(cells.with_patient())) == (4, 2, 3)
    assert cells.take(np.array([False, False, False, True])).embedding.tolist() == [[7, 8]]


def test_arrays_refuse_answers_of_another_model() -> None:
    (window,), _ = cut([answer(1, "a")], cells=1, patients=1)
    with pytest.raises(ValueError, match="healthy, L1, L2"):
        arrays(window, ("healthy", "L1", "L2"))
