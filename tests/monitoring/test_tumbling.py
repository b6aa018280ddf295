"""Windows cut from columns, page by page, are those that are cut from the records."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.tumbling import Tumbling
from monitoring.window import Window, arrays, tumble
from service.contract.cells import Cells, cells_of_records
from service.contract.statistics import STATISTICS
from service.contract.store import StoredPrediction
from tests.support.records import prediction

LABELS = ("healthy", "L1")
RULE: dict[str, Any] = {"min_cells": 6, "min_patients": 3, "max_age_s": 100.0}


def answer(seq: int, patient: str, at: float, **changes: Any) -> StoredPrediction:
    time = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")
    statistics = dict.fromkeys(STATISTICS, seq / 2)
    values = {"statistics": statistics, "embedding": (float(seq), float(-seq), 0.5)} | changes
    return StoredPrediction(seq, prediction(seq, patient=patient, time=time, **values), False)


def page(items: list[StoredPrediction]) -> Cells:
    return cells_of_records([item.seq for item in items], [item.record for item in items])


def cut(items: list[StoredPrediction], size: int, now: float) -> tuple[list[Window], Tumbling]:
    open_one = Tumbling("a" * 32, **RULE)
    closed = [
        window for start in range(0, len(items), size) for window in open_one.add(page(items[start : start + size]))
    ]
    return closed + list(open_one.expire(now)), open_one


def outline(windows: list[Window]) -> list[tuple[Any, ...]]:
    return [
        (w.model_version, w.first_seq, w.last_seq, w.opened, w.closed, w.complete, w.columns.seq.tolist(), w.patients)
        for w in windows
    ]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 40)), max_size=60), st.integers(1, 20), st.floats(0, 200))
def test_pages_of_any_size_give_the_windows_of_the_records(
    cells: list[tuple[int, float]], size: int, later: float
) -> None:
    at, items = 0.0, []
    for seq, (patient, gap) in enumerate(cells, start=1):
        at += gap
        items.append(answer(seq, f"p{patient}" if patient else "", at))
    wanted, left = tumble(items, **RULE, now=at + later)
    found, open_one = cut(items, size, at + later)
    assert outline(found) == outline(wanted)
    assert open_one.cells == len(left)
    assert open_one.patients == len({item.record.patient for item in left} - {""})
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.columns.embedding, other.columns.embedding)
        np.testing.assert_array_equal(arrays(one, LABELS).statistics, arrays(other, LABELS).statistics)


def test_a_window_that_waits_for_patients_grows_beyond_its_cells() -> None:
    items = [answer(seq, f"p{seq % 2}", 0.0) for seq in range(1, 60)] + [answer(60, "third", 0.0)]
    (window,), open_one = cut(items, 7, 0.0)
    assert (len(window.cells), open_one.cells) == (60, 0)
    assert window.columns.embedding[:, 0].tolist() == [float(seq) for seq in range(1, 61)]


def test_embeddings_of_two_sizes_are_no_models() -> None:
    open_one = Tumbling("a" * 32, **RULE)
    list(open_one.add(page([answer(1, "a", 0.0)])))
    with pytest.raises(ValueError, match="different sizes"):
        list(open_one.add(page([answer(2, "a", 0.0, embedding=(1.0,))])))
