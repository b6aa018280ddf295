"""The arithmetic, the load generator and the table of `benchmarks.serving`; the servers themselves are not started."""

import argparse
import asyncio
import math

import pytest

from benchmarks import serving
from benchmarks.load import HttpLoad, Point, Refused, closed, opened, quantile, read_reply


def point(rate: int, latency: float = 0.01) -> Point:
    return Point(seconds=1.0, latencies=[latency] * rate)


def row(rate: int) -> serving.Row:
    return serving.Row(points={1: [point(rate // 2)], 16: [point(rate)]}, ready_s=[2.0], worker_megabytes=[300.0])


@pytest.fixture
def run() -> serving.Run:
    arguments = argparse.Namespace(seconds=1.0, rounds=1)
    return serving.Run(arguments, serving.Material([], [], 0.0))


def test_a_quantile_is_a_value_that_was_measured() -> None:
    assert quantile([4, 1, 3, 2], 0.5) == 2
    assert quantile([4, 1, 3, 2], 0.99) == 4
    assert quantile(range(1, 101), 0.99) == 99
    assert quantile([7], 0.01) == 7
    assert math.isnan(quantile([], 0.5))


def test_wrong_and_refused_answers_are_no_throughput() -> None:
    async def send(_: int, image: int) -> bool:
        await asyncio.sleep(0)
        if image == 2:
            raise Refused
        return image != 1

    found = asyncio.run(closed(send, clients=3, seconds=0.05, images=3))
    assert found.latencies and found.failed and found.refused
    assert found.rate == len(found.latencies) / found.seconds


def test_arrivals_do_not_wait_for_answers() -> None:
    under_way = most = 0

    async def send(_: int, __: int) -> bool:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.05)
        under_way -= 1
        return True

    found = asyncio.run(opened(send, rate=500, seconds=0.2, images=4, seed=1))
    assert most > 1
    assert len(found.latencies) > 1 and min(found.latencies) >= 0.05


def test_an_http_reply_is_read_to_its_end() -> None:
    async def read(data: bytes) -> tuple[int, bytes, bool]:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await read_reply(reader)

    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    assert asyncio.run(read(plain)) == (200, b"hi", True)
    assert asyncio.run(read(chunked)) == (200, b"hi", False)
    with pytest.raises(EOFError):
        asyncio.run(read(plain[:-1]))


def test_a_kept_connection_is_used_again() -> None:
    accepted = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        for reply in (b"yes", b"no!"):
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(3)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + reply)
        writer.close()

    async def both() -> tuple[bool, bool]:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            load = HttpLoad(port, "/", [b"img"], ["yes"], lambda body, label: body == label.encode(), "")
            right, wrong = await load(0, 0), await load(0, 0)
            await load.close()
            return right, wrong

    assert asyncio.run(both()) == (True, False)
    assert accepted == 1


def test_a_target_is_judged_by_the_medians(run: serving.Run) -> None:
    run.rows = {serving.OURS_GRPC: row(100), serving.BARE: row(120), serving.LITSERVE: row(50)}
    run.half = [(2.0, 50.0), (9.0, 50.0), (2.5, 50.0)]
    run.overload = [(math.nan, point(0))]
    lines = list(serving.judged(run))
    assert "| ours, gRPC / bare grpc.aio | 0.83 | ≥ 0.95 | **missed** |" in lines
    assert "| ours, gRPC / LitServe | 2.00 | ≥ 1.35 | met |" in lines
    assert "| p99 at half of saturation / single median | 2.50 | ≤ 3 | met |" in lines
    assert "| p99 accepted at 4× overload / p99 at saturation | nan | ≤ 2 | **missed** |" in lines
    assert "| start to ready, s | 2.00 | ≤ 5 | met |" in lines


def test_what_could_not_be_started_is_in_the_table(run: serving.Run) -> None:
    run.rows = {serving.OURS_GRPC: row(100), serving.RAY: serving.Row(error="did not start: a | b")}
    text = serving.report(run, run._arguments)
    table = [line for line in text.splitlines() if line.startswith(("| server", "|---", "| ours, gRPC |", "| Ray"))]
    assert "did not start: a / b" in text
    assert len({line.count("|") for line in table[:2] + table[-2:] if not line.startswith("|---|---:|---:|---|")}) == 1


def test_versions_name_no_folder_of_this_machine() -> None:
    assert serving.pins("ours") == ["this repository[service]"]
