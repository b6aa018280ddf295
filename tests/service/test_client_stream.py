"""The client's streams against a real worker: results find their cells, whatever breaks in between."""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

import pytest

from service import tokens
from service.client import Client
from service.client_aio import AsyncClient
from service.client_stream import StreamResult
from service.contract.errors import (
    BadImage,
    InvalidRequest,
    NotReady,
    TooLarge,
    Unauthenticated,
)
from service.domain import Cell
from service.tokens import Role
from tests.service.running import Site, Worker, eventually, free_ports, working
from tests.support.images import png


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    site = Site(tmp_path_factory.mktemp("client_stream"))
    site.promote(site.add().version)
    with working(site.settings(max_message_bytes=2**16)) as found:
        yield found


@pytest.fixture
def client(worker: Worker) -> Iterator[Client]:
    with Client(worker.grpc) as found:
        yield found


def cells(count: int, **fields: Any) -> Iterator[Cell]:
    for number in range(count):
        yield Cell(image=png(number % 50), **fields)


def in_order(results: Iterator[StreamResult]) -> list[StreamResult]:
    """All of them; each position once, none left out."""
    found = sorted(results, key=lambda result: result.position)
    assert [result.position for result in found] == list(range(len(found)))
    return found


def test_each_cell_gets_the_answer_that_it_gets_alone(client: Client) -> None:
    found = in_order(client.classify_stream(cells(60, pixel_size_um=0.5)))
    assert len(found) == 60
    for result in found[:5]:
        alone = client.classify(png(result.position), pixel_size_um=0.5)
        assert result.answer is not None
        assert result.answer.pixels_sha256 == alone.pixels_sha256
        assert result.answer.request_id == result.request_id
    assert len({result.request_id for result in found}) == 60


def test_a_cell_that_cannot_be_answered_is_a_result(client: Client) -> None:
    wrong = [
        Cell(image=png(1)),
        Cell(image=b"nonsense"),
        Cell(image=b""),
        Cell(image=png(1), site="\udcff"),
        Cell(image=bytes(2**16 + 1)),
        Cell(image=png(2), request_id="mine"),
    ]
    found = in_order(client.classify_stream(wrong))
    errors = [type(result.error) for result in found]
    assert errors == [type(None), BadImage, InvalidRequest, InvalidRequest, TooLarge, type(None)]
    assert [result.answer is None for result in found] == [error is not type(None) for error in errors]
    assert found[5].request_id == "mine"


@pytest.mark.parametrize("given", [[], [Cell(image=b"")]])
def test_without_a_cell_to_send_it_ends(client: Client, given: list[Cell]) -> None:
    assert len(list(client.classify_stream(given))) == len(given)


def test_what_the_cells_raise_is_raised_after_their_answers(client: Client) -> None:
    def broken() -> Iterator[Cell]:
        yield from cells(3)
        raise OSError("the scanner is gone")

    seen = []
    with pytest.raises(OSError, match="the scanner is gone"):
        for result in client.classify_stream(broken()):
            seen.append(result.position)
    assert sorted(seen) == [0, 1, 2]


def test_leaving_early_stops_the_reading(client: Client, worker: Worker) -> None:
    read: list[int] = []

    def endless() -> Iterator[Cell]:
        for number in itertools.count():
            read.append(number)
            yield Cell(image=png(number % 50))

    results = client.classify_stream(endless())
    assert next(results).answer is not None
    results.close()  # type: ignore[attr-defined]
    count = eventually(lambda: len(read))
    assert client.model()
    assert len(read) - count <= 1
    registry = worker.engine.metrics.registry
    labels = {"transport": "grpc", "method": "ClassifyStream", "code": "CANCELLED"}
    assert eventually(lambda: registry.get_sample_value("blastwatch_requests_total", labels))


def test_a_busy_service_is_asked_once_more_for_the_cell(
    client: Client, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, faults = worker.engine.core().classify, [NotReady("not yet"), NotReady("not yet")]
    names: list[str] = []

    async def flaky(cell: Cell, **options: Any) -> Any:
        names.append(cell.request_id)
        if faults:
            raise faults.pop()
        return await real(cell, **options)

    monkeypatch.setattr(worker.engine.core(), "classify", flaky)
    monkeypatch.setattr("service.client_calls.sleep", lambda _: None)
    found = in_order(client.classify_stream(cells(6)))
    assert all(result.answer is not None for result in found)
    assert len(names) == 8
    assert len(set(names)) == 6


def test_a_service_that_comes_back_gets_what_was_not_answered_once_more(live: Site) -> None:
    settings = live.settings()
    began, go_on = threading.Event(), threading.Event()

    def slow_scanner() -> Iterator[Cell]:
        yield from cells(10)
        began.set()
        go_on.wait(60)
        yield from cells(10)

    results: list[StreamResult] = []
    with Client(f"127.0.0.1:{settings.grpc_port}", timeout_s=60, attempts=100) as client:

        def read() -> None:
            results.extend(client.classify_stream(slow_scanner()))

        reading = threading.Thread(target=read)
        with working(settings):
            reading.start()
            assert began.wait(60)
        with working(settings):
            go_on.set()
            reading.join(60)
    found = in_order(iter(results))
    assert [type(result.error) for result in found] == [type(None)] * 20
    assert live.store.count() == 20


def test_nobody_there_ends_it() -> None:
    (port,) = free_ports(1)
    with Client(f"127.0.0.1:{port}", attempts=2) as client, pytest.raises(NotReady, match="make serve"):
        list(client.classify_stream(cells(3)))


def test_a_stranger_gets_nothing(live: Site) -> None:
    file = live.root / "tokens"
    token = tokens.add(file, "lis-a", [Role.INFER])
    with working(live.settings(tokens_file=file)) as worker:
        with Client(worker.grpc) as client, pytest.raises(Unauthenticated):
            list(client.classify_stream(cells(3)))
        with Client(worker.grpc, token=token) as client:
            assert len(in_order(client.classify_stream(cells(3)))) == 3


def test_a_message_beyond_every_bound_ends_the_stream(client: Client) -> None:
    with pytest.raises(TooLarge):
        list(client.classify_stream([Cell(image=bytes(2**20))]))


async def told(where: str, given: Iterable[Cell] | AsyncIterable[Cell], **options: Any) -> list[StreamResult]:
    """All results of an asynchronous client."""
    async with AsyncClient(where, **options) as client:
        return in_order(iter([result async for result in client.classify_stream(given)]))


async def slowly(given: Iterable[Cell]) -> AsyncIterator[Cell]:
    for cell in given:
        await asyncio.sleep(0)
        yield cell


@pytest.mark.parametrize("source", [iter, slowly])
def test_asyncio_gets_the_same(worker: Worker, client: Client, source: Any) -> None:
    given = [*cells(20, pixel_size_um=0.5), Cell(image=b"nonsense"), Cell(image=b"")]
    found = asyncio.run(told(worker.grpc, source(given)))
    other = in_order(client.classify_stream(given))
    assert [type(result.error) for result in found] == [type(result.error) for result in other]
    assert [result.answer and result.answer.pixels_sha256 for result in found] == [
        result.answer and result.answer.pixels_sha256 for result in other
    ]


def test_asyncio_raises_what_the_cells_raise(worker: Worker) -> None:
    async def broken() -> AsyncIterator[Cell]:
        for cell in cells(3):
            yield cell
        raise OSError("the scanner is gone")

    seen = []

    async def read() -> None:
        async with AsyncClient(worker.grpc) as client:
            async for result in client.classify_stream(broken()):
                seen.append(result.position)

    with pytest.raises(OSError, match="the scanner is gone"):
        asyncio.run(read())
    assert sorted(seen) == [0, 1, 2]


def test_leaving_early_leaves_no_task(worker: Worker) -> None:
    async def leave() -> int:
        async with AsyncClient(worker.grpc) as client:
            async with contextlib.aclosing(client.classify_stream(slowly(cells(10**6)))) as results:
                assert (await anext(results)).answer is not None
            assert await client.model()
        await asyncio.sleep(0.1)
        return len(asyncio.all_tasks())

    assert asyncio.run(leave()) == 1


def test_asyncio_sends_again_what_was_not_answered(live: Site) -> None:
    settings = live.settings()

    async def across() -> list[StreamResult]:
        go_on = asyncio.Event()

        async def scanner() -> AsyncIterator[Cell]:
            for cell in cells(10):
                yield cell
            began.set()
            await go_on.wait()
            for cell in cells(10):
                yield cell

        began = asyncio.Event()
        first, second = Worker(settings), Worker(settings)
        await asyncio.to_thread(first.start)
        reading = asyncio.create_task(told(f"127.0.0.1:{settings.grpc_port}", scanner(), timeout_s=60, attempts=100))
        try:
            await asyncio.wait_for(began.wait(), 60)
        finally:
            await asyncio.to_thread(first.stop)
        await asyncio.to_thread(second.start)
        try:
            go_on.set()
            return await asyncio.wait_for(reading, 60)
        finally:
            await asyncio.to_thread(second.stop)

    found = asyncio.run(across())
    assert [type(result.error) for result in found] == [type(None)] * 20
    assert live.store.count() == 20


def test_asyncio_finds_nobody(live: Site) -> None:
    (port,) = free_ports(1)
    with pytest.raises(NotReady, match="make serve"):
        asyncio.run(told(f"127.0.0.1:{port}", cells(3), attempts=2))
