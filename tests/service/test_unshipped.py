"""A retry meets its record on any worker of the host, whether or not the store has it yet."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.client import Client
from service.contract.errors import Conflict
from service.domain import Cell
from service.engine import Engine
from service.frames import Entry, encode, placed, split
from service.journal import Journal
from service.unshipped import Unshipped
from tests.service.process import START_S, Service, service
from tests.service.running import Site, eventually, started
from tests.support.entries import review
from tests.support.images import png
from tests.support.records import prediction


async def classify(engine: Engine, cell: Cell, client: str = "ward") -> str:
    return (await engine.core().classify(cell, transport="grpc", client=client)).record_id


class TestFind:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """A worker's folder."""
        found = tmp_path / ("a" * 32)
        found.mkdir()
        return found

    def test_what_was_written_since_the_last_look_is_found(self, tmp_path: Path, folder: Path) -> None:
        unshipped = Unshipped(tmp_path)
        assert unshipped.find("ward-1", "request-1") == []
        with (folder / "1.journal").open("ab") as file:
            for number in range(3):
                file.write(encode(Entry.prediction(prediction(number))))
                file.write(encode(Entry.review(review(number))))
                file.flush()
                assert unshipped.find("ward-1", f"request-{number}") == [prediction(number)]
        assert unshipped.find("ward-2", "request-1") == []
        (folder / "2.journal").write_bytes(encode(Entry.prediction(prediction(1, model_version="b" * 32))))
        assert len(unshipped.find("ward-1", "request-1")) == 2

    def test_half_an_entry_is_found_when_the_rest_comes(self, tmp_path: Path, folder: Path) -> None:
        unshipped, data = Unshipped(tmp_path), encode(Entry.prediction(prediction(1)))
        for cut in (3, 40, len(data) - 1):
            (folder / "1.journal").write_bytes(data[:cut])
            assert unshipped.find("ward-1", "request-1") == []
        (folder / "1.journal").write_bytes(data)
        assert unshipped.find("ward-1", "request-1") == [prediction(1)]

    def test_what_is_shipped_or_cut_back_is_forgotten(self, tmp_path: Path, folder: Path) -> None:
        unshipped, file = Unshipped(tmp_path), folder / "1.journal"
        first, second = (encode(Entry.prediction(prediction(number))) for number in (1, 2))
        file.write_bytes(first + second)
        assert unshipped.find("ward-1", "request-2")
        file.write_bytes(first)
        assert unshipped.find("ward-1", "request-2") == []
        assert unshipped.find("ward-1", "request-1")
        file.unlink()
        assert unshipped.find("ward-1", "request-1") == []
        assert not unshipped._places

    def test_names_that_look_like_other_fields_are_only_names(self, tmp_path: Path, folder: Path) -> None:
        odd = '","client":"x","request_id":"y \\ "'
        records = [prediction(1, client=odd), prediction(2, request_id=odd), prediction(3, site=odd)]
        (folder / "1.journal").write_bytes(b"".join(encode(Entry.prediction(record)) for record in records))
        unshipped = Unshipped(tmp_path)
        for record in records:
            assert unshipped.find(*record.key) == [record]
        assert unshipped.find("x", "y \\ ") == []

    def test_damage_is_passed_over(self, tmp_path: Path, folder: Path) -> None:
        frames = [encode(Entry.prediction(prediction(number))) for number in range(3)]
        damaged = frames[1][:20] + b"\0" + frames[1][21:]
        data = frames[0] + damaged + frames[2]
        (folder / "1.journal").write_bytes(data)
        assert [payload for _, payload in placed(data)] == list(split(data).payloads)
        unshipped = Unshipped(tmp_path)
        assert [bool(unshipped.find("ward-1", f"request-{number}")) for number in range(3)] == [True, False, True]

    def test_a_folder_that_is_not_there_has_nothing(self, tmp_path: Path) -> None:
        assert Unshipped(tmp_path / "none").find("a", "b") == []

    def test_readers_and_a_writer_at_once(self, tmp_path: Path) -> None:
        unshipped = Unshipped(tmp_path)
        written: list[int] = []

        async def write() -> None:
            journal = Journal(tmp_path, max_bytes=2**28, segment_bytes=4000)
            for number in range(150):
                await journal.append([Entry.prediction(prediction(number))])
                written.append(number)
            await journal.close()

        writer = threading.Thread(target=lambda: asyncio.run(write()))
        writer.start()
        with ThreadPoolExecutor(3) as pool:
            while writer.is_alive():
                seen = written[-20:]
                looked = pool.map(lambda number: unshipped.find("ward-1", f"request-{number}"), seen)
                assert all(looked), seen
        writer.join()
        assert all(unshipped.find("ward-1", f"request-{number}") for number in range(150))


def test_a_retry_on_another_worker_is_the_same_record_while_the_store_is_away(live: Site) -> None:
    async def scenario() -> None:
        async with started(live.settings()) as one, started(live.settings()) as other:
            live.take_store_away()
            first = await classify(one, Cell(png(1), "r1"))
            assert await classify(other, Cell(png(1), "r1")) == first
            with pytest.raises(Conflict):
                await classify(other, Cell(png(2), "r1"))
            assert await classify(other, Cell(png(2), "r1"), client="another") != first
            live.bring_store_back()

    asyncio.run(scenario())
    assert live.store.count() == 2


@pytest.mark.e2e
@pytest.mark.xdist_group("unshipped")
def test_a_restarted_service_knows_what_it_answered_before_the_store_does(live: Site) -> None:
    answered = {}
    with service(live, workers="2") as running:
        running.wait()
        # Both are there: one that starts without a store makes a new one.
        eventually(lambda: len(live.store.workers(0)) == 2, patience_s=START_S)
        eventually(lambda: both_ready(running), patience_s=START_S)
        live.take_store_away()
        with Client(running.grpc) as client:
            for number in range(12):
                answered[number] = client.classify(png(number), request_id=f"r{number}").record_id
        running.kill()
    live.bring_store_back()
    with service(live, workers="2") as running:
        eventually(lambda: both_ready(running), patience_s=START_S)
        again = asked_of_every_worker(running, answered)
    assert all(records == {answered[number]} for number, records in again.items())
    eventually(lambda: live.store.count() == 12)


def both_ready(running: Service) -> bool:
    """Each worker takes some of so many connections."""
    return all(running.status("/readyz") == 200 for _ in range(16))


def asked_of_every_worker(running: Service, answered: dict[int, str]) -> dict[int, set[str]]:
    """Request → record ids, from a few connections each, which spread over the workers."""
    found: dict[int, set[str]] = {number: set() for number in answered}
    for _ in range(4):
        with Client(running.grpc) as client:
            for number in answered:
                found[number].add(client.classify(png(number), request_id=f"r{number}").record_id)
    return found
