"""What readers together say about a cell."""

from typing import Any

import pytest

from service.contract.ledger import Ledger
from service.contract.reading import EXPORTED, Asked, asked_for, read, readings
from service.contract.records import ReviewRecord
from service.contract.store import Store
from tests.support.records import prediction, review

RECORD = prediction(1)


def _said(role: str, label: str, day: int = 1, **changes: Any) -> ReviewRecord:
    return review(RECORD, label, role=role, time=f"2026-03-{day:02d}T00:00:00.000000+00:00", **changes)


@pytest.mark.parametrize(
    ("said", "readers", "how", "label"),
    [
        ([("one", "L1")], 1, "single", "L1"),
        ([("one", "L1")], 2, "waiting", None),
        ([("one", "L1"), ("two", "L1")], 2, "agreed", "L1"),
        ([("one", "L1"), ("two", "L2")], 2, "disagreed", None),
        # Nobody asked for a second reader, but there is one, and he sees something else.
        ([("one", "L1"), ("two", "L2")], 1, "disagreed", None),
        # A second thought of one reader is no second reader.
        ([("one", "L1"), ("one", "L2")], 1, "single", "L2"),
        ([("one", "L1"), ("one", "L1")], 2, "waiting", None),
        ([("one", "L1"), ("two", "L2"), ("one", "L2")], 2, "agreed", "L2"),
        ([("one", "L1"), ("two", "L2"), ("adjudicator", "L2")], 2, "adjudicated", "L2"),
        # What was decided is decided, whoever reads on.
        ([("adjudicator-2", "L3"), ("one", "L1"), ("two", "L1")], 2, "adjudicated", "L3"),
        ([("adjudicator", "L3"), ("adjudicator-2", "L1")], 2, "adjudicated", "L1"),
    ],
)
def test_how_readers_settle_a_cell(said: list[tuple[str, str]], readers: int, how: str, label: str | None) -> None:
    reviews = [_said(role, name, day) for day, (role, name) in enumerate(said, start=1)]
    reading = read(reversed(reviews), Asked(("uncertain",), readers))
    assert reading is not None
    assert reading.how == how
    assert (reading.decisive.label if reading.settled else None) == label


@pytest.mark.parametrize("role", ["model", "Model", "blastwatch", "AI", "auto", RECORD.model_version])
def test_a_model_is_no_reader(role: str) -> None:
    assert read([_said(role, RECORD.label)]) is None
    reading = read([_said("one", "L2"), _said(role, RECORD.label, day=2)])
    assert reading is not None
    assert (reading.how, reading.decisive.label, len(reading.readers)) == ("single", "L2", 1)


def test_a_cell_once_drawn_stays_in_the_sample() -> None:
    reading = read([_said("one", "L2", sampled=True), _said("adjudicator", "L1", day=2)])
    assert reading is not None
    assert (reading.sampled, reading.decisive.label) == (True, "L1")


def test_what_the_ledger_says_was_asked(store_url: str) -> None:
    ledger = Ledger(store_url)
    ledger.append(EXPORTED, cells={"uncertain": ["a", "b"]}, readers=2)
    ledger.append("frozen", by="sre")
    ledger.append(EXPORTED, cells={"random": ["b"], "uncertain": ["b"]}, readers=1)
    assert asked_for(ledger.rows()) == {"a": Asked(("uncertain",), 2), "b": Asked(("uncertain", "random"), 2)}
    ledger.close()


def test_readings_come_with_their_answers_and_without_what_counts_for_nothing(store_url: str) -> None:
    store = Store(store_url)
    first, second, tested, planted = (prediction(n, test=n == 3, pixels_kept=n == 1) for n in (1, 2, 3, 4))
    store.insert_predictions([second, first, tested, planted, prediction(5)])
    store.insert_reviews([review(record, "L2") for record in (first, second, tested)])
    store.insert_reviews([review(first, "L1", role="two"), review(planted, planted.label, role="model")])
    found = readings(store, {second.record_id: Asked(("random",), 2)})
    assert [(stored.record, reading.how) for stored, reading in found] == [(second, "waiting"), (first, "disagreed")]
    assert [stored.record for stored, _ in readings(store, {}, with_pixels=True)] == [first]
    store.close()


def test_reviews_and_their_row_of_the_ledger_come_together_or_not_at_all(store_url: str) -> None:
    store, ledger = Store(store_url), Ledger(store_url)
    assert store.insert_reviews([_said("one", "L1")], note=("reviews_imported", {"reader": "one"})) == 1
    assert [row.body for row in ledger.rows("reviews_imported")] == [{"reader": "one"}]
    with pytest.raises(ValueError, match="no rows of kind"):
        store.insert_reviews([_said("two", "L1")], note=("unknown", {}))
    store.insert_predictions([RECORD])
    assert [len(reviews) for _, reviews in store.readings()] == [1]
    ledger.close()
    store.close()
