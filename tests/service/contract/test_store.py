import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError

from service.contract.database import Database
from service.contract.errors import ConfigError, StoreUnavailable
from service.contract.store import Store
from tests.support.records import prediction, review


def _url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    store = Store(store_url, timeout_s=5.0)
    yield store
    store.close()


class TestPredictions:
    def test_what_goes_in_comes_out(self, store: Store) -> None:
        embedding = tuple(np.random.default_rng(1).normal(size=64).astype(np.float32).tolist())
        record = prediction(1, embedding=embedding, refer=True, refer_reasons=("uncertain",), patient="")
        assert store.insert_predictions([record]) == 1
        stored = store.get(record.record_id)
        assert stored is not None
        assert (stored.seq, stored.record, stored.disputed) == (1, record, False)
        assert store.get("0" * 32) is None

    def test_each_record_once_however_often_it_is_sent(self, store: Store) -> None:
        records = [prediction(number) for number in range(5)]
        assert store.insert_predictions(records[:3]) == 3
        assert store.insert_predictions([*records, *records]) == 2
        assert store.insert_predictions(iter(records)) == 0
        assert store.insert_predictions([]) == 0
        assert store.count() == 5
        assert [stored.record for stored in store.predictions()] == records

    def test_more_records_than_one_statement_can_name(self, store: Store) -> None:
        records = [prediction(number) for number in range(1201)]
        assert store.insert_predictions(records) == 1201
        assert store.insert_predictions(records) == 0

    def test_reading_on_from_a_number(self, store: Store) -> None:
        assert store.latest_seq() == 0
        store.insert_predictions([prediction(number) for number in range(6)])
        assert store.latest_seq() == 6
        assert [stored.seq for stored in store.predictions(after_seq=2, limit=3)] == [3, 4, 5]
        assert [stored.seq for stored in store.predictions(after_seq=6)] == []

    def test_of_one_model(self, store: Store) -> None:
        store.insert_predictions([prediction(n, model_version="ab"[n % 2] * 32) for n in range(6)])
        assert {stored.record.model_version for stored in store.predictions(model_version="b" * 32)} == {"b" * 32}
        assert len(store.predictions(model_version="b" * 32)) == 3

    def test_test_traffic_only_if_asked(self, store: Store) -> None:
        store.insert_predictions([prediction(0), prediction(1, test=True)])
        assert [stored.record.test for stored in store.predictions()] == [False]
        assert [stored.record.test for stored in store.predictions(include_test=True)] == [False, True]
        assert store.count() == 2


class TestDisputed:
    def _disputed(self, store: Store) -> list[bool]:
        return [stored.disputed for stored in store.predictions(include_test=True)]

    @pytest.mark.parametrize("together", [True, False])
    def test_one_request_id_with_two_pictures_marks_both(self, store: Store, together: bool) -> None:
        first, other = prediction(1), prediction(1, pixels_sha256="f" * 64)
        for batch in [[first, other, prediction(2)]] if together else [[first, prediction(2)], [other]]:
            store.insert_predictions(batch)
        marked = {stored.record.record_id for stored in store.predictions() if stored.disputed}
        assert marked == {first.record_id, other.record_id}
        assert [stored.disputed for stored in store.by_request("ward-1", "request-1")] == [True, True]

    def test_another_client_may_use_the_same_number(self, store: Store) -> None:
        store.insert_predictions([prediction(1), prediction(1, pixels_sha256="f" * 64, client="ward-2")])
        assert self._disputed(store) == [False, False]
        assert len(store.by_request("ward-2", "request-1")) == 1

    def test_a_retry_that_met_a_new_model_is_no_dispute(self, store: Store) -> None:
        store.insert_predictions([prediction(1), prediction(1, model_version="b" * 32)])
        assert self._disputed(store) == [False, False]


class TestReviews:
    def test_the_latest_review_counts_however_they_arrive(self, store: Store) -> None:
        record = prediction()
        late, early = review(record, "L3", time="2026-02-03"), review(record, "L1", time="2026-02-02")
        store.insert_predictions([record])
        assert store.insert_reviews([late]) == 1
        assert store.insert_reviews([early, late]) == 1
        assert [(stored.record, latest) for stored, latest in store.reviewed()] == [(record, late)]

    def test_a_review_may_arrive_before_its_record(self, store: Store) -> None:
        record = prediction()
        store.insert_reviews([review(record)])
        assert store.reviewed() == []
        store.insert_predictions([record])
        assert len(store.reviewed()) == 1

    def test_what_is_left_out(self, store: Store) -> None:
        kept, bare = prediction(1, pixels_kept=True), prediction(2)
        tested, unread = prediction(3, test=True), prediction(4)
        one, other = prediction(5), prediction(5, pixels_sha256="f" * 64)
        store.insert_predictions([kept, bare, tested, unread, one, other])
        store.insert_reviews([review(record) for record in (bare, kept, tested, one)])

        def read(**options: bool) -> list[str]:
            return [stored.record.record_id for stored, _ in store.reviewed(**options)]

        assert read() == [kept.record_id, bare.record_id]
        assert read(with_pixels=True) == [kept.record_id]
        assert read(with_pixels=False) == [bare.record_id]
        assert read(include_test=True) == [kept.record_id, bare.record_id, tested.record_id]


def test_heartbeats(store: Store) -> None:
    store.heartbeat("one", "a" * 32, 100.0)
    store.heartbeat("two", "a" * 32, 100.0)
    store.heartbeat("one", "b" * 32, 110.0)
    assert store.workers(since=100.0) == {"one": "b" * 32, "two": "a" * 32}
    assert store.workers(since=100.5) == {"one": "b" * 32}


def _insert(arguments: tuple[str, int]) -> int:
    url, start = arguments
    store = Store(url)
    return sum(store.insert_predictions([prediction(number)]) for number in range(start, start + 30))


def test_several_processes_open_and_fill_a_new_store(store_url: str) -> None:
    """Ranges overlap: every record is sent by two processes, and is there once."""
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        new = sum(pool.map(_insert, [(store_url, start) for start in (0, 15, 30, 45, 0, 15, 30, 45)]))
    store = Store(store_url)
    assert new == store.count() == 75
    assert {stored.record.request_id for stored in store.predictions()} == {f"request-{n}" for n in range(75)}


def test_several_threads_share_one_store(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        new = list(pool.map(lambda number: store.insert_predictions([prediction(number % 40)]), range(80)))
    assert sum(new) == store.count() == 40


EVERY_METHOD: list[Callable[[Store], object]] = [
    lambda store: store.insert_predictions([prediction(99)]),
    lambda store: store.insert_reviews([review(prediction(99))]),
    lambda store: store.get("x"),
    lambda store: store.by_request("a", "b"),
    lambda store: store.predictions(),
    lambda store: store.reviewed(),
    lambda store: store.readings(),
    lambda store: store.latest_seq(),
    lambda store: store.count(),
    lambda store: store.heartbeat("w", "v", 1.0),
    lambda store: store.workers(0.0),
]


class TestAway:
    @pytest.mark.parametrize("call", EVERY_METHOD)
    def test_away_and_back(
        self, store: Store, outage: Callable[[], AbstractContextManager[None]], call: Callable[[Store], object]
    ) -> None:
        store.insert_predictions([prediction(1)])
        with outage(), pytest.raises(StoreUnavailable, match="cannot be reached") as error:
            call(store)
        assert "\n" not in str(error.value)
        call(store)
        assert store.get(prediction(1).record_id) is not None

    def test_what_makes_no_sense_is_no_outage(self, store_url: str) -> None:
        """A missing table, a missing column, a row that the tables refuse: waiting would not help."""
        database = Database(store_url)
        for statement in ("SELECT 1 FROM nowhere", "SELECT nothing FROM nowhere", "nonsense"):
            with pytest.raises(DBAPIError), database.read() as connection:
                connection.exec_driver_sql(statement)
        with database.write() as connection:
            connection.exec_driver_sql("CREATE TABLE once (number INTEGER PRIMARY KEY)")
        with pytest.raises(IntegrityError), database.write() as connection:
            connection.exec_driver_sql("INSERT INTO once VALUES (1), (1)")
        with database.read() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM once").scalar() == 0
        database.close()

    def test_no_empty_store_takes_the_place_of_one_that_was_moved(self, tmp_path: Path) -> None:
        store = Store(_url(tmp_path / "var" / "store.db"))
        (tmp_path / "var").rename(tmp_path / "gone")
        (tmp_path / "var").mkdir()
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            store.insert_predictions([prediction(1)])
        assert not list((tmp_path / "var").iterdir())

    def test_replaced_by_another_file(self, tmp_path: Path) -> None:
        """What is written goes to the store that is there now, not to the deleted one a connection still holds."""
        path = tmp_path / "store.db"
        store = Store(_url(path))
        store.insert_predictions([prediction(1)])
        for file in tmp_path.iterdir():
            file.rename(tmp_path / f"old-{file.name}")
        Store(_url(path)).close()
        store.insert_predictions([prediction(2)])
        assert [stored.record.request_id for stored in Store(_url(path)).predictions()] == ["request-2"]

    def test_locked_by_another_writer(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        store = Store(_url(path), timeout_s=0.05)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            store.insert_predictions([prediction(1)])
        assert store.count() == 0, "readers do not wait for a writer"
        other.execute("COMMIT")
        other.close()
        assert store.insert_predictions([prediction(1)]) == 1

    def test_not_a_database(self, tmp_path: Path) -> None:
        (tmp_path / "store.db").write_text("no database at all" * 100)
        with pytest.raises(StoreUnavailable, match="not a database"):
            Store(_url(tmp_path / "store.db"), timeout_s=0.05)

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StoreUnavailable, match="cannot be made"):
            Store(_url(tmp_path / "file" / "store.db"))

    def test_a_crash_between_insert_and_commit_leaves_nothing(self, store_url: str) -> None:
        code = (
            "import os, sys\n"
            "from service.contract import store\n"
            "from tests.support.records import prediction\n"
            "store._mark_disputed = lambda ids: os._exit(9)\n"
            "store.Store(sys.argv[1]).insert_predictions([prediction(1)])\n"
        )
        assert subprocess.run([sys.executable, "-c", code, store_url], check=False).returncode == 9
        store = Store(store_url)
        assert store.count() == 0
        assert store.insert_predictions([prediction(1)]) == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "sqlite://",
        "sqlite:///:memory:",
        "nosuchdb://host/x",
        "postgresql+psycopg2://h/d",
        "postgresql://h",
    ],
)
def test_a_url_that_makes_no_sense(url: str) -> None:
    with pytest.raises(ConfigError, match="sqlite:///path"):
        Store(url)


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("sqlite:///var/store.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.insert_predictions([prediction(1)])
    assert (tmp_path / "var" / "store.db").is_file()
    assert store.count() == 1


def test_readers_and_writers_do_not_wait_for_each_other(tmp_path: Path) -> None:
    Store(_url(tmp_path / "store.db"))
    with sqlite3.connect(tmp_path / "store.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
