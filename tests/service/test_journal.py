"""An append returns once its entries are durable, and fails otherwise; group commit, bound, faults of the disk."""

import asyncio
import errno
import fcntl
import math
import os
import threading
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service import disk
from service.contract.errors import ConfigError, NotReady, Overloaded, StoreUnavailable
from service.contract.records import PredictionRecord
from service.disk import LOCK
from service.frames import Entry, decode, encode, split
from service.journal import Journal
from tests.support.disks import FaultyFiles
from tests.support.entries import entries, prediction, review
from tests.support.fake_time import settle


def size(*numbers: int) -> int:
    """Bytes that these answers take on disk."""
    return sum(len(encode(entry)) for entry in entries(*numbers))


class Gate:
    """Stops the journal's thread at a point until it is opened; notes the points and the threads that pass."""

    def __init__(self, point: str) -> None:
        self.point = point
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.passed: list[tuple[str, int]] = []

    def at(self, point: str) -> None:
        self.passed.append((point, threading.get_ident()))
        if point == self.point:
            self.reached.set()
            assert self.opened.wait(30)

    async def wait_until_reached(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 30)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


def on_disk(folder: Path) -> list[list[str]]:
    """Request ids of the whole entries, file by file."""
    files = [split(path.read_bytes()) for path in sorted(folder.glob("*.journal"))]
    return [[numbered(decode(payload)) for payload in file.payloads] for file in files]


def numbered(entry: Entry) -> str:
    return entry.record.request_id if isinstance(entry.record, PredictionRecord) else "review"


async def outcomes(*appends: Coroutine[Any, Any, None]) -> list[type[BaseException] | None]:
    results = await asyncio.gather(*appends, return_exceptions=True)
    return [None if result is None else type(result) for result in results]


def test_an_append_is_on_disk_when_it_returns(tmp_path: Path) -> None:
    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=10**6)
        await journal.append([*entries(1, 2), Entry.review(review(1))])
        assert on_disk(journal.folder) == [["1", "2", "review"]]
        await journal.append(entries(3))
        assert on_disk(journal.folder) == [["1", "2", "review", "3"]]
        assert journal.pending_bytes == sum(path.stat().st_size for path in journal.folder.glob("*.journal"))
        await journal.close()

    run(scenario())


def test_it_does_not_return_before_the_fsync(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate, files = Gate("write"), FaultyFiles()
        journal = Journal(tmp_path, max_bytes=10**6, files=files, at=gate.at)
        task = asyncio.create_task(journal.append(entries(1)))
        await gate.wait_until_reached()
        await settle()
        assert not task.done()
        assert "sync" not in files.calls
        gate.opened.set()
        await task
        assert files.calls[-1] == "sync"
        await journal.close()

    run(scenario())


def test_the_order_is_name_bytes_answer_and_the_loop_is_free_meanwhile(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate, files = Gate("none"), FaultyFiles()
        journal = Journal(tmp_path, max_bytes=10**6, files=files, at=gate.at)
        files.calls.clear()
        await journal.append(entries(1))
        assert files.calls == ["create", "sync_folder", "write", "sync"]
        assert [point for point, _ in gate.passed] == ["enqueue", "write", "fsync", "reply"]
        here = threading.get_ident()
        assert [thread == here for _, thread in gate.passed] == [True, False, False, True]
        await journal.close()

    run(scenario())


def test_appends_that_come_during_an_fsync_share_the_next_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate, files = Gate("write"), FaultyFiles()
        journal = Journal(tmp_path, max_bytes=10**6, files=files, at=gate.at)
        first = asyncio.create_task(journal.append(entries(0)))
        await gate.wait_until_reached()
        others = [asyncio.create_task(journal.append(entries(number))) for number in range(1, 20)]
        await settle()
        gate.opened.set()
        await asyncio.gather(first, *others)
        assert files.calls.count("sync") == 2
        assert on_disk(journal.folder) == [[str(number) for number in range(20)]]
        await journal.close()

    run(scenario())


def test_a_caller_that_left_before_its_group_was_written_is_not_on_record(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate = Gate("write")
        journal = Journal(tmp_path, max_bytes=10**6, at=gate.at)
        first = asyncio.create_task(journal.append(entries(0)))
        await gate.wait_until_reached()
        leaving, staying = (asyncio.create_task(journal.append(entries(number))) for number in (1, 2))
        await settle()
        leaving.cancel()
        await settle()
        gate.opened.set()
        await asyncio.gather(first, staying)
        assert on_disk(journal.folder) == [["0", "2"]]
        assert journal.pending_bytes == size(0, 2)
        await journal.close()

    run(scenario())


def test_an_entry_that_cannot_be_written_fails_its_own_caller_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=10**6)
        bad = [Entry.prediction(replace(prediction(1), ood_score=math.inf))]
        assert await outcomes(journal.append(entries(0)), journal.append(bad), journal.append(entries(2))) == [
            None,
            ValueError,
            None,
        ]
        assert on_disk(journal.folder) == [["0", "2"]]
        await journal.close()

    run(scenario())


def test_at_the_bound_work_is_refused_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=size(0, 1, 2))
        answers = await outcomes(*(journal.append(entries(number)) for number in range(5)))
        assert answers == [None, None, None, Overloaded, Overloaded]
        assert on_disk(journal.folder) == [["0", "1", "2"]]
        journal.seal()
        journal.forget(journal.sealed()[0])
        assert journal.pending_bytes == 0
        await journal.append(entries(6))
        journal.count_orphaned(size(1, 2))  # what the dead left behind takes room too
        with pytest.raises(Overloaded):
            await journal.append(entries(7))
        await journal.close()

    run(scenario())


def test_a_file_is_ended_when_it_is_large(tmp_path: Path) -> None:
    async def scenario() -> None:
        journal = Journal(tmp_path, max_bytes=10**6, segment_bytes=size(0, 1))
        for number in (0, 1, 0, 1, 0):
            await journal.append(entries(number))
        assert on_disk(journal.folder) == [["0", "1"], ["0", "1"], ["0"]]
        assert len(journal.sealed()) == 2
        await journal.close()

    run(scenario())


FAULTS = {
    "full disk": {"write": errno.ENOSPC},
    "failed fsync": {"sync": errno.EIO},
    "no room for the name": {"create": errno.ENOSPC},
    "failed fsync of the folder": {"sync_folder": errno.EIO},
    "failed fsync and failed cut": {"sync": errno.EIO, "truncate": errno.EIO},
    "everything": dict.fromkeys(("write", "sync", "create", "sync_folder", "truncate", "unlink"), errno.EIO),
}


@pytest.mark.parametrize("before", [0, 2], ids=["new file", "file with answers"])
@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_when_the_disk_fails_nobody_is_answered_and_nothing_before_or_after_is_lost(
    tmp_path: Path, faults: dict[str, int], before: int
) -> None:
    async def scenario() -> None:
        files = FaultyFiles()
        journal = Journal(tmp_path, max_bytes=10**6, files=files)
        for number in range(before):
            await journal.append(entries(number))
        if "create" in faults or "sync_folder" in faults:
            journal.seal()  # so that the next append needs a new file
        files.faults = {name: OSError(code, os.strerror(code)) for name, code in faults.items()}
        failed = await outcomes(*(journal.append(entries(number)) for number in (10, 11)))
        assert failed == [StoreUnavailable] * 2
        assert await outcomes(journal.append(entries(12))) == [StoreUnavailable]
        assert journal.pending_bytes == size(*range(before))
        files.faults = {}
        await journal.append(entries(20, 21))
        journal.seal()
        durable = [split(segment.path.read_bytes()[: segment.length]) for segment in journal.sealed()]
        assert [numbered(decode(payload)) for file in durable for payload in file.payloads] == [
            *(str(number) for number in range(before)),
            "20",
            "21",
        ]
        assert not any(file.torn or file.damaged for file in durable)
        await journal.close()

    run(scenario())


def test_a_file_whose_fsync_failed_is_cut_back_and_never_written_again(tmp_path: Path) -> None:
    """A second fsync of it may say yes to bytes that the first one dropped."""

    async def scenario() -> None:
        files = FaultyFiles()
        journal = Journal(tmp_path, max_bytes=10**6, files=files)
        await journal.append(entries(0))
        files.faults = {"sync": OSError(errno.EIO, "EIO")}
        assert await outcomes(journal.append(entries(1))) == [StoreUnavailable]
        files.faults = {}
        assert await outcomes(journal.append(entries(2))) == [None]
        assert on_disk(journal.folder) == [["0"], ["2"]]
        await journal.close()

    run(scenario())


def test_the_caller_is_told_nothing_of_the_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        files = FaultyFiles()
        journal = Journal(tmp_path, max_bytes=10**6, files=files)
        files.faults = {"create": OSError(errno.ENOSPC, "No space left", str(tmp_path))}
        with pytest.raises(StoreUnavailable) as caught:
            await journal.append(entries(0))
        assert str(tmp_path) not in str(caught.value)
        await journal.close()

    run(scenario())
    assert "No space left" in caplog.text


def test_close_writes_what_waits_and_takes_no_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate = Gate("write")
        journal = Journal(tmp_path, max_bytes=10**6, at=gate.at)
        tasks = [asyncio.create_task(journal.append(entries(0)))]
        await gate.wait_until_reached()
        tasks += [asyncio.create_task(journal.append(entries(number))) for number in (1, 2)]
        await settle()
        closing = asyncio.create_task(journal.close())
        await settle()
        with pytest.raises(NotReady):
            await journal.append(entries(3))
        assert not closing.done()
        gate.opened.set()
        await asyncio.gather(*tasks, closing)
        await journal.close()  # a second time is nothing
        assert on_disk(journal.folder) == [["0", "1", "2"]]

    run(scenario())


def test_a_loop_that_ends_leaves_nobody_waiting(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate = Gate("write")
        journal = Journal(tmp_path, max_bytes=10**6, at=gate.at)
        tasks = [asyncio.create_task(journal.append(entries(0)))]
        await gate.wait_until_reached()
        tasks.append(asyncio.create_task(journal.append(entries(1))))
        await settle()
        next(task for task in asyncio.all_tasks() if task.get_name() == "journal").cancel()
        await settle()
        gate.opened.set()
        assert await asyncio.gather(*tasks, return_exceptions=True) == [
            exception for exception in [task.exception() for task in tasks] if isinstance(exception, NotReady)
        ]
        await journal.close()

    run(scenario())


def held(folder: Path) -> bool:
    """Whether somebody holds the folder's lock."""
    with (folder / LOCK).open("rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_the_folder_is_held_until_close(tmp_path: Path) -> None:
    async def scenario() -> None:
        one, two = (Journal(tmp_path, max_bytes=10**6) for _ in range(2))
        assert one.folder != two.folder
        assert one.folder == tmp_path / one.worker
        assert held(one.folder)
        await one.append(entries(0))
        await one.close()
        assert not held(one.folder)
        assert on_disk(one.folder) == [["0"]]
        await two.close()
        assert not two.folder.exists()  # nothing in it

    run(scenario())


def test_a_folder_that_a_shipper_took_in_the_making_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between mkdir and lock it looks like an orphan's."""
    taken: list[Path] = []

    def claim(folder: Path) -> int | None:
        taken.append(folder)
        return None if len(taken) < 3 else original(folder)

    original = disk.claim
    monkeypatch.setattr("service.journal.claim", claim)
    journal = Journal(tmp_path, max_bytes=10**6)
    assert journal.folder == taken[-1]
    assert len(set(taken)) == 3
    asyncio.run(journal.close())


def test_a_place_that_cannot_be_used_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="BLASTWATCH_JOURNAL_DIR"):
        Journal(tmp_path / "file" / "journal", max_bytes=10**6)


def test_folders_above_are_made(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a" / "b", max_bytes=10**6)
    assert journal.folder.parent == tmp_path / "a" / "b"
    asyncio.run(journal.close())
