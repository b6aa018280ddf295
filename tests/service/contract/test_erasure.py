"""What is deleted is gone, is counted in the ledger, and nothing else is touched."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.contract import erasure as module
from service.contract.erasure import Erasure, patient_hash
from service.contract.ledger import Ledger
from service.contract.pixels import PixelStore
from service.contract.store import Store
from tests.support.images import smear
from tests.support.records import prediction, review

PATIENT, OTHER = "a" * 32, "b" * 32


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    store = Store(store_url)
    yield store
    store.close()


@pytest.fixture
def erasure(store_url: str, store: Store) -> Iterator[Erasure]:
    erasure = Erasure(store_url)
    yield erasure
    erasure.close()


def _on(day: int) -> str:
    return f"2026-01-{day:02d}T12:00:00.000000+00:00"


@pytest.mark.parametrize("chunk", [2, 5000])
def test_rows_go_when_they_are_older_than_allowed(
    store: Store, erasure: Erasure, store_url: str, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    records = [prediction(day, time=_on(day)) for day in range(1, 11)]
    store.insert_predictions(records)
    store.insert_reviews([review(records[0], time=_on(1))])
    now = datetime(2026, 1, 11, 12, tzinfo=UTC)
    assert erasure.expire("predictions", 5, now=now) == 5
    assert [stored.record for stored in store.predictions()] == records[5:], "of that very age is not older"
    assert erasure.expire("predictions", 5, now=now) == 0
    assert erasure.expire("reviews", 9, now=now) == 1
    ledger = Ledger(store_url)
    rows = [row.body for row in ledger.rows("expired")]
    assert sum(row["rows"] for row in rows if row["table"] == "predictions") == 5
    assert max(row["rows"] for row in rows) <= chunk
    assert rows[-1] == {"table": "reviews", "rows": 1, "before": _on(2), "days": 9}
    ledger.verify()


def test_a_number_of_a_deleted_row_is_not_given_again(store: Store, erasure: Erasure) -> None:
    """Monitoring remembers how far it has read."""
    store.insert_predictions([prediction(1, patient=PATIENT)])
    erasure.purge(PATIENT, PixelStore(Path("none")))
    store.insert_predictions([prediction(2)])
    assert [stored.seq for stored in store.predictions()] == [2]


def test_a_patient_is_gone_and_others_are_as_they_were(
    store: Store, erasure: Erasure, store_url: str, tmp_path: Path
) -> None:
    pixels = PixelStore(tmp_path / "pixels")
    own, both, others = (pixels.save(smear(number)) for number in (1, 2, 3))
    theirs = [
        prediction(1, patient=PATIENT, pixels_sha256=own),
        prediction(2, patient=PATIENT, pixels_sha256=both),
        prediction(3, patient=PATIENT),
    ]
    rest = [prediction(4, patient=OTHER, pixels_sha256=both), prediction(5, patient="", pixels_sha256=others)]
    store.insert_predictions([*theirs, *rest])
    store.insert_reviews([review(theirs[0]), review(theirs[0], "L3"), review(rest[0])])
    found = erasure.purge(PATIENT, pixels)
    assert (found.predictions, found.reviews, found.pixels, found.shared_pixels) == (3, 2, 1, 1)
    assert found.reviewed == (theirs[0].record_id,)
    assert [stored.record for stored in store.predictions()] == rest
    assert [stored.record for stored, _ in store.reviewed()] == [rest[0]]
    assert [pixels.has(name) for name in (own, both, others)] == [False, True, True]
    ledger = Ledger(store_url)
    (row,) = ledger.rows("purged")
    assert row.body == {"patient_hash": patient_hash(PATIENT), "predictions": 3, "reviews": 2, "pixels": 1}
    assert PATIENT not in str(ledger.rows())
    ledger.verify()


def test_a_purge_that_cannot_finish_deletes_no_row(store: Store, erasure: Erasure, tmp_path: Path) -> None:
    class Stuck(PixelStore):
        def remove(self, name: str) -> bool:
            raise OSError("read-only")

    store.insert_predictions([prediction(1, patient=PATIENT)])
    with pytest.raises(Exception, match="read-only"):
        erasure.purge(PATIENT, Stuck(tmp_path))
    assert store.count() == 1


def test_cells_without_a_patient_are_no_patient(store: Store, erasure: Erasure, tmp_path: Path) -> None:
    store.insert_predictions([prediction(1, patient="")])
    with pytest.raises(ValueError, match="without a patient"):
        erasure.purge("", PixelStore(tmp_path))
    assert store.count() == 1
