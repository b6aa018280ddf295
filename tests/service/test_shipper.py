"""From the journal to the store: once and whole, whoever wrote it, whatever happened to it."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from service.contract.errors import Overloaded, StoreUnavailable
from service.contract.records import PredictionRecord, ReviewRecord
from service.contract.store import Store
from service.disk import LOCK
from service.frames import Entry, encode
from service.journal import Journal
from service.shipper import Shipper
from tests.support.disks import FaultyFiles
from tests.support.entries import entries, prediction, review

REPOSITORY = Path(__file__).parents[2]


class Site:
    """A journal root and a store in a folder."""

    def __init__(self, folder: Path, url: str) -> None:
        self.root = folder / "journal"
        self.store = Store(url)

    def journal(self, *, max_bytes: int = 10**6, **options: Any) -> Journal:
        return Journal(self.root, max_bytes=max_bytes, **options)

    def shipper(self, journal: Journal, store: Any = None, **options: Any) -> Shipper:
        return Shipper(self.root, journal, store or self.store, **options)

    async def leave(self, *groups: Sequence[int]) -> Path:
        """A folder of a worker that is gone, one file for each group of answers."""
        journal = self.journal()
        for group in groups:
            await journal.append(entries(*group))
            journal.seal()
        await journal.close()
        return journal.folder

    @property
    def stored(self) -> list[str]:
        return sorted(stored.record.request_id for stored in self.store.predictions())

    @property
    def folders(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir())


class Fickle:
    """A store that may be away, and that cannot take some records."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.away = False
        self.refused: set[str] = set()

    def insert_predictions(self, records: Sequence[PredictionRecord]) -> int:
        self._check([record.request_id for record in records])
        return self.store.insert_predictions(records)

    def insert_reviews(self, reviews: Sequence[ReviewRecord]) -> int:
        self._check([])
        return self.store.insert_reviews(reviews)

    def _check(self, request_ids: list[str]) -> None:
        if self.away:
            raise StoreUnavailable("away")
        if self.refused & set(request_ids):
            raise OverflowError("a number that no column holds")


@pytest.fixture
def site(tmp_path: Path, store_url: str) -> Site:
    return Site(tmp_path, store_url)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


async def reached(condition: Callable[[], bool], *, within_s: float = 30.0) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


def test_answers_and_reviews_arrive_as_they_were_and_the_journal_is_empty(site: Site) -> None:
    async def scenario() -> None:
        journal = site.journal()
        shipper = site.shipper(journal)
        await journal.append([*entries(1, 2), Entry.review(review(1))])
        await journal.append(entries(3))
        assert shipper.pending_bytes > 0
        assert shipper.ship()
        assert [stored.record for stored in site.store.predictions()] == [prediction(number) for number in (1, 2, 3)]
        assert [one for _, one in site.store.reviewed()] == [review(1)]
        assert shipper.pending_bytes == 0
        assert [path.name for path in journal.folder.iterdir()] == [LOCK]
        await journal.append(entries(4))
        assert shipper.ship()
        assert site.stored == ["1", "2", "3", "4"]
        await journal.close()

    run(scenario())


def test_a_round_with_nothing_to_ship_makes_no_files(site: Site) -> None:
    async def scenario() -> None:
        files = FaultyFiles()
        journal = site.journal(files=files)
        files.calls.clear()
        shipper = site.shipper(journal, files=files)
        assert shipper.ship()
        assert shipper.ship()
        assert files.calls == []
        await journal.close()

    run(scenario())


def test_a_file_that_is_shipped_twice_changes_nothing(site: Site) -> None:
    async def scenario() -> None:
        files = FaultyFiles()
        journal = site.journal()
        shipper = site.shipper(journal, files=files)
        await journal.append([*entries(1), Entry.review(review(1))])
        files.faults = {"unlink": OSError(errno.EROFS, "read-only")}
        assert not shipper.ship()
        assert site.stored == ["1"]
        assert shipper.pending_bytes > 0
        files.faults = {}
        assert shipper.ship()
        assert site.stored == ["1"]
        assert len(site.store.reviewed()) == 1
        assert shipper.pending_bytes == 0
        await journal.close()

    run(scenario())


def test_while_the_store_is_away_the_journal_grows_to_its_bound_and_then_refuses(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        store, rounds = Fickle(site.store), []
        bound = len(b"".join(encode(entry) for entry in entries(*range(20))))
        journal = site.journal(max_bytes=bound)
        shipper = site.shipper(journal, store, on_store_away=lambda: rounds.append(1))
        store.away = True
        for number in range(20):
            await journal.append(entries(number))
            assert not shipper.ship()
        assert shipper.pending_bytes == bound
        assert len(list(journal.folder.glob("*.journal"))) == 2  # not one a round
        assert len(rounds) == 20
        with pytest.raises(Overloaded):
            await journal.append(entries(20))
        store.away = False
        assert shipper.ship()
        await journal.append(entries(20))
        assert shipper.ship()
        assert len(site.stored) == 21
        await journal.close()

    run(scenario())
    assert caplog.text.count("cannot be shipped") == 1


def test_a_store_that_goes_away_gets_everything_when_it_is_back(
    site: Site, outage: Callable[[], AbstractContextManager[None]]
) -> None:
    """The real store, found missing and found again."""

    async def scenario() -> None:
        journal = site.journal()
        shipper = site.shipper(journal, period_s=0.01)
        await shipper.start()
        await journal.append(entries(1))
        await reached(lambda: site.stored == ["1"])
        with outage():
            for number in (2, 3, 4):
                await journal.append(entries(number))
            assert not shipper.ship()
        await reached(lambda: site.stored == ["1", "2", "3", "4"])
        await shipper.stop()
        await journal.close()

    run(scenario())


def test_a_store_without_its_tables_is_no_reason_to_set_entries_aside(site: Site, store_url: str) -> None:
    async def scenario() -> None:
        journal = site.journal()
        shipper = site.shipper(journal)
        await journal.append(entries(1))
        engine = create_engine(store_url)
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE predictions RENAME TO elsewhere"))
        assert not shipper.ship()
        assert not (site.root / "rejected").exists()
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO predictions"))
        engine.dispose()
        assert shipper.ship()
        assert site.stored == ["1"]
        await journal.close()

    run(scenario())


def test_asking_a_store_that_is_away_becomes_rarer(site: Site) -> None:
    async def scenario() -> None:
        store = Fickle(site.store)
        journal = site.journal()
        shipper = site.shipper(journal, store, period_s=0.2)
        await journal.append(entries(1))
        store.away = True
        assert [shipper._work() for _ in range(7)] == pytest.approx([0.4, 0.8, 1.6, 3.2, 5, 5, 5])
        store.away = False
        assert shipper._work() == pytest.approx(0.2)
        await journal.close()

    run(scenario())


def test_it_ships_by_itself_until_it_is_stopped(site: Site) -> None:
    async def scenario() -> None:
        journal = site.journal()
        shipper = site.shipper(journal, period_s=0.01)
        await shipper.start()
        await journal.append(entries(1))
        await reached(lambda: site.stored == ["1"])
        await shipper.stop()
        assert not [thread for thread in threading.enumerate() if thread.name == "shipper"]
        await journal.close()

    run(scenario())


@pytest.mark.parametrize("journal_first", [False, True])
def test_at_the_end_everything_is_shipped_and_no_folder_stays(site: Site, journal_first: bool) -> None:
    async def scenario() -> None:
        journal = site.journal()
        shipper = site.shipper(journal, period_s=3600)
        await shipper.start()
        await journal.append(entries(1, 2))
        for part in [journal.close, shipper.stop] if journal_first else [shipper.stop, journal.close]:
            await part()
        assert site.stored == ["1", "2"]
        assert site.folders == []

    run(scenario())


def test_at_the_end_without_a_store_it_is_left_for_another(site: Site) -> None:
    async def scenario() -> None:
        store = Fickle(site.store)
        store.away = True
        journal = site.journal()
        shipper = site.shipper(journal, store)
        await shipper.start()
        await journal.append(entries(1))
        await shipper.stop()
        await journal.close()
        assert site.folders == [journal.worker]
        heir = site.journal()
        await site.shipper(heir).stop()
        await heir.close()
        assert site.stored == ["1"]
        assert site.folders == []

    run(scenario())


def test_the_folders_of_the_dead_are_adopted_and_those_of_the_living_are_not(site: Site) -> None:
    async def scenario() -> None:
        await site.leave([1, 2], [3])
        await site.leave([4])
        (site.root / ("0" * 32)).mkdir()  # a worker that died before its first answer
        (site.root / "notes").mkdir()
        living = site.journal()
        await living.append(entries(9))
        journal = site.journal()
        assert site.shipper(journal).ship()
        assert site.stored == ["1", "2", "3", "4"]
        assert site.folders == sorted([living.worker, journal.worker, "notes"])
        await living.append(entries(10))
        assert site.shipper(living).ship()
        assert site.stored == ["1", "10", "2", "3", "4", "9"]
        await living.close()
        await journal.close()

    run(scenario())


def test_what_the_dead_left_takes_room_from_the_start(site: Site) -> None:
    async def scenario() -> None:
        orphan = await site.leave([1, 2])
        size = sum(path.stat().st_size for path in orphan.glob("*.journal"))
        store = Fickle(site.store)
        store.away = True
        journal = site.journal(max_bytes=size)
        shipper = site.shipper(journal, store, period_s=3600)
        await shipper.start()
        assert shipper.pending_bytes == size
        with pytest.raises(Overloaded):
            await journal.append(entries(3))
        store.away = False
        assert shipper.ship()
        assert shipper.pending_bytes == 0
        await journal.append(entries(3))
        await shipper.stop()
        await journal.close()

    run(scenario())


def test_a_torn_end_is_cut_and_everything_before_it_is_shipped(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        orphan = await site.leave([1, 2], [3])
        with sorted(orphan.glob("*.journal"))[-1].open("ab") as file:
            file.write(encode(entries(4)[0])[:-1])
        journal = site.journal()
        assert site.shipper(journal).ship()
        assert site.stored == ["1", "2", "3"]
        assert site.folders == [journal.worker]
        await journal.close()

    run(scenario())
    assert "never answered: cut" in caplog.text


@pytest.mark.parametrize("where", ["in the middle", "at the end of a file that was ended"])
def test_a_damaged_file_is_kept_after_its_whole_entries_are_shipped(site: Site, where: str) -> None:
    async def scenario() -> None:
        orphan = await site.leave([1, 2, 3], [4])
        path = min(orphan.glob("*.journal"))
        data = bytearray(path.read_bytes())
        data[len(data) // 2 if where == "in the middle" else -1] ^= 1
        path.write_bytes(data)
        journal = site.journal()
        assert site.shipper(journal).ship()
        assert site.stored == (["1", "3", "4"] if where == "in the middle" else ["1", "2", "4"])
        assert site.folders == sorted([journal.worker, "rejected"])
        kept = site.root / "rejected" / f"{orphan.name}-{path.name}"
        assert kept.read_bytes() == data
        assert site.shipper(journal).ship()  # it is not in the way
        await journal.close()

    run(scenario())


def test_an_entry_of_another_release_is_kept_and_the_others_are_shipped(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        journal = site.journal()
        with monkeypatch.context() as later:
            later.setattr(ReviewRecord, "to_json", lambda self: '{"of":"a later form"}')
            await journal.append([*entries(1), Entry.review(review(1)), *entries(2)])
        assert site.shipper(journal).ship()
        assert site.stored == ["1", "2"]
        assert len(list((site.root / "rejected").iterdir())) == 1
        assert journal.pending_bytes == 0
        await journal.close()

    run(scenario())


def test_an_entry_that_the_store_cannot_take_does_not_hold_the_others_up(site: Site) -> None:
    async def scenario() -> None:
        store = Fickle(site.store)
        store.refused = {"2"}
        journal = site.journal()
        shipper = site.shipper(journal, store)
        await journal.append([*entries(1, 2, 3), Entry.review(review(1))])
        assert shipper.ship()
        assert site.stored == ["1", "3"]
        assert len(site.store.reviewed()) == 1
        assert len(list((site.root / "rejected").iterdir())) == 1
        await journal.close()

    run(scenario())


def test_a_folder_that_cannot_be_read_does_not_hold_the_others_up(site: Site) -> None:
    class BadSector(FaultyFiles):
        def read(self, path: Path) -> bytes:
            if path.parent == bad:
                raise OSError(errno.EIO, "bad sector")
            return super().read(path)

    async def leave() -> list[Path]:
        return sorted([await site.leave([number]) for number in range(3)])

    async def scenario() -> None:
        journal = site.journal()
        assert not site.shipper(journal, files=BadSector()).ship()
        assert len(site.stored) == 2
        assert site.folders == sorted([bad.name, journal.worker])
        assert journal.pending_bytes > 0
        assert site.shipper(journal).ship()
        assert site.stored == ["0", "1", "2"]
        await journal.close()

    bad = asyncio.run(leave())[0]
    run(scenario())


def test_only_what_was_answered_is_shipped_of_a_file_that_could_not_be_cut(site: Site) -> None:
    async def scenario() -> None:
        files = FaultyFiles()
        journal = site.journal(files=files)
        await journal.append(entries(1))
        fault = OSError(errno.EIO, "EIO")
        files.faults = {"sync": fault, "truncate": fault}
        with pytest.raises(StoreUnavailable):
            await journal.append(entries(2))
        files.faults = {}
        assert site.shipper(journal).ship()
        assert site.stored == ["1"]
        assert not (site.root / "rejected").exists()
        await journal.close()

    run(scenario())


def test_shippers_that_race_for_the_same_folders_ship_everything_once(site: Site) -> None:
    async def scenario() -> None:
        for folder in range(40):
            await site.leave([10 * folder + number for number in range(3)])
        journals = [site.journal() for _ in range(4)]
        shippers = [site.shipper(journal) for journal in journals]
        barrier = threading.Barrier(len(shippers))

        def race(shipper: Shipper) -> list[bool]:
            barrier.wait(30)
            return [shipper.ship() for _ in range(3)]

        with ThreadPoolExecutor(len(shippers)) as threads:
            assert all(all(rounds) for rounds in threads.map(race, shippers))
        assert site.shipper(journals[0]).ship()
        assert len(site.stored) == len(set(site.stored)) == 40 * 3
        assert site.folders == sorted(journal.worker for journal in journals)
        for journal in journals:
            await journal.close()

    run(scenario())


def test_a_shipper_that_still_works_when_its_journal_closes_loses_nothing_to_another(site: Site) -> None:
    """It has a list of files, and finds them taken."""

    async def scenario() -> None:
        journal, other = site.journal(), site.journal()
        await journal.append(entries(1))
        journal.seal()
        late = site.shipper(journal)
        segment = journal.sealed()[0]
        await journal.close()
        assert site.shipper(other).ship()
        late._move(segment.path, segment.length, torn_end=False)
        assert site.stored == ["1"]
        await other.close()

    run(scenario())


def test_a_killed_process_lets_its_folder_go_and_a_living_one_does_not(site: Site) -> None:
    async def scenario() -> None:
        journal = site.journal()
        program = (
            "import asyncio, sys; from pathlib import Path; from service.journal import Journal\n"
            "from tests.support.entries import entries\n"
            "async def live():\n"
            "    journal = Journal(Path(sys.argv[1]), max_bytes=10**6)\n"
            "    await journal.append(entries(7)); print('answered', flush=True); await asyncio.sleep(600)\n"
            "asyncio.run(live())\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, str(site.root)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        ) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "answered\n"
            assert site.shipper(journal).ship()
            assert site.stored == []
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait()
        assert site.shipper(journal).ship()
        assert site.stored == ["7"]
        assert site.folders == [journal.worker]
        await journal.close()

    run(scenario())


def test_a_root_that_is_gone_is_no_traceback(site: Site) -> None:
    async def scenario() -> None:
        journal = site.journal()
        shipper = site.shipper(journal)
        await journal.close()
        site.root.rmdir()
        assert shipper.ship()

    run(scenario())
