"""Turns on a clock of the test's own, and over a real core: bounded, fair, nothing left behind."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator

import grpc
import httpx
import pytest

from service.contract.errors import DeadlineExceeded, Overloaded
from service.domain import Answer, Cell
from service.engine import processors
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.proto.blastwatch.v1.blastwatch_pb2_grpc import BlastClassifierStub
from service.tokens import Role, add
from service.turns import SAMPLE, Pace, Turns
from tests.service.running import Site, eventually, held, started, working
from tests.support.images import png

NEVER = float("inf")


class Bench:
    """Turns, and cells that stay in hand until the test ends them, in the order in which they got their turn."""

    def __init__(self, *, at_once: int = 1, max_queue: int = 100, always: int = 100, max_queue_s: float = 1.0) -> None:
        self.now = 0.0
        self.turns = Turns(
            max_queue=max_queue, at_once=at_once, always=always, max_queue_s=max_queue_s, clock=lambda: self.now
        )
        self.begun: list[str] = []
        self._hold: list[asyncio.Event] = []

    async def cell(self, client: str, deadline: float = NEVER) -> float:
        self.turns.let_in(client)
        try:
            async with self.turns.turn(client, deadline) as turn:
                self.begun.append(client)
                done = asyncio.Event()
                self._hold.append(done)
                await done.wait()
                return turn.waited_s
        finally:
            self.turns.let_out()

    def send(self, client: str, deadline: float = NEVER) -> "asyncio.Task[float]":
        return asyncio.create_task(self.cell(client, deadline))

    async def end_one(self, took_s: float = 0.0) -> None:
        self.now += took_s
        self._hold.pop(0).set()
        await settled()

    async def end_all(self, took_s: float = 0.0) -> None:
        while self._hold:
            await self.end_one(took_s)

    def empty(self) -> bool:
        return (self.turns.in_work, self.turns.waiting, self.turns.coming, self.turns._in_hand) == (0, 0, 0, 0)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_turns_go_round_the_clients() -> None:
    async def scenario() -> None:
        bench = Bench()
        calls = [bench.send(client) for client in "aaaaaabbc"]
        await settled()
        await bench.end_all()
        assert "".join(bench.begun) == "aabcabaaa"
        await asyncio.gather(*calls)
        assert bench.empty()

    asyncio.run(scenario())


def test_no_more_in_hand_than_at_once() -> None:
    async def scenario() -> None:
        bench = Bench(at_once=3)
        calls = [bench.send("a") for _ in range(5)]
        await settled()
        assert len(bench.begun) == 3
        assert bench.turns.waiting == 2
        assert bench.turns.in_work == 5
        await bench.end_one()
        assert len(bench.begun) == 4
        await bench.end_all()
        await asyncio.gather(*calls)
        assert bench.empty()

    asyncio.run(scenario())


def test_the_wait_is_said() -> None:
    async def scenario() -> None:
        bench = Bench()
        first, second = bench.send("a"), bench.send("a")
        await settled()
        await bench.end_one(took_s=0.5)
        await bench.end_all()
        assert (await first, await second) == (0.0, 0.5)

    asyncio.run(scenario())


def test_a_cell_whose_deadline_passed_does_not_get_its_turn() -> None:
    async def scenario() -> None:
        bench = Bench()
        calls = [bench.send("a"), bench.send("a", deadline=0.3), bench.send("a")]
        await settled()
        await bench.end_one(took_s=0.5)
        await bench.end_all()
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(item) for item in found] == [float, DeadlineExceeded, float]
        assert len(bench.begun) == 2
        assert bench.empty()

    asyncio.run(scenario())


@pytest.mark.parametrize("when", ["waiting", "its turn just now", "in hand"])
def test_a_cell_that_is_given_up_makes_room(when: str) -> None:
    async def scenario() -> None:
        bench = Bench()
        first, second, third = bench.send("a"), bench.send("b"), bench.send("c")
        await settled()
        if when == "waiting":
            second.cancel()
        elif when == "its turn just now":
            bench._hold.pop(0).set()
            while not bench.turns._waiting.get("b") and len(bench.begun) == 1 and not second.cancelling():
                # The turn is given, and the task has not run since.
                second.cancel()
            await settled()
        else:
            first.cancel()
        await settled()
        await bench.end_all()
        await asyncio.gather(first, second, third, return_exceptions=True)
        assert bench.begun[-1] == "c"
        assert bench.empty()

    asyncio.run(scenario())


def test_a_full_queue_refuses_the_client_that_filled_it_and_makes_room_for_another() -> None:
    async def scenario() -> None:
        bench = Bench(max_queue=4)
        many = [bench.send("many") for _ in range(5)]
        await settled()
        assert isinstance(many[4].exception(), Overloaded)
        few = bench.send("few")
        await settled()
        refused = many[3].exception()  # the newest of those that waited
        assert isinstance(refused, Overloaded)
        assert "other clients" in str(refused)
        assert bench.turns.in_work == 4
        await bench.end_all()
        await asyncio.gather(few, *many[:3])
        assert bench.begun == ["many", "many", "few", "many"]
        assert bench.empty()

    asyncio.run(scenario())


def test_a_client_with_its_share_does_not_take_another_s() -> None:
    async def scenario() -> None:
        bench = Bench(max_queue=4)
        calls = [bench.send(client) for client in "abab"]
        await settled()
        with pytest.raises(Overloaded):
            bench.turns.let_in("a")
        await bench.end_all()
        await asyncio.gather(*calls)

    asyncio.run(scenario())


def test_nobody_gives_way_to_many_cells_at_once() -> None:
    async def scenario() -> None:
        bench = Bench(max_queue=6)
        calls = [bench.send("a") for _ in range(6)]
        await settled()
        with pytest.raises(Overloaded):
            bench.turns.let_in("b", 5)
        await bench.end_all()
        await asyncio.gather(*calls)

    asyncio.run(scenario())


def test_a_message_comes_in_whole_or_not_at_all() -> None:
    turns = Turns(max_queue=10, at_once=2, always=4, max_queue_s=1.0)
    turns.let_in("a", 8)
    with pytest.raises(Overloaded):
        turns.let_in("b", 3)
    turns.let_in("b", 2)
    turns.let_out(8)
    turns.let_out(2)
    assert turns.in_work == 0


def test_the_pace_is_that_of_a_queue_that_waits() -> None:
    pace = Pace()
    for number in range(SAMPLE + 1):
        assert pace.interval_s is None
        pace.left(0.01 * number, contended=True)
    assert pace.interval_s == pytest.approx(0.01)
    pace.left(100.0, contended=False)  # idle for long: no pace of anything
    for number in range(SAMPLE + 1):
        pace.left(200 + 0.03 * number, contended=True)
    assert pace.interval_s == pytest.approx(0.02)


def test_what_is_let_in_waits_no_longer_than_the_bound() -> None:
    async def scenario() -> None:
        bench = Bench(max_queue=1000, always=4, max_queue_s=0.5)
        measured = [bench.send("a") for _ in range(SAMPLE + 2)]
        await settled()
        await bench.end_all(took_s=0.01)
        await asyncio.gather(*measured)

        flood = [bench.send("a") for _ in range(200)]
        await settled()
        refused = [call.exception() for call in flood if call.done()]
        assert {type(error) for error in refused} == {Overloaded}
        assert 40 < 200 - len(refused) < 60  # 0.5 s of 10 ms each
        other = bench.send("b")
        await bench.end_all(took_s=0.01)
        waited = [call.result() for call in flood if not isinstance(call.exception(), Overloaded)]
        assert max(waited) <= 0.6
        assert await other <= 0.1  # a turn of its own, whatever the other one sent

    asyncio.run(scenario())


def test_a_crowd_of_one_client_does_not_hold_another_one_up(live: Site) -> None:
    async def scenario() -> None:
        async with started(live.settings(max_batch=4, max_wait_ms=0, max_queue=64)) as engine:
            core = engine.core()

            async def classify(client: str, number: int) -> tuple[str, Answer]:
                return client, await core.classify(Cell(png(number)), transport="grpc", client=client)

            order = [
                await call
                for call in asyncio.as_completed(
                    [*(classify("many", number) for number in range(60)), *(classify("few", n) for n in range(60, 63))]
                )
            ]
            places = [place for place, (client, _) in enumerate(order) if client == "few"]
            # In hand are twelve, and then the turns alternate; in order of arrival these would be 60 to 62.
            assert max(places) < 30, places
            assert engine._turns.in_work == engine._turns.coming == engine._turns.waiting == 0

    asyncio.run(scenario())


@contextlib.contextmanager
def in_time(seconds: float) -> Iterator[None]:
    started_at = time.monotonic()
    yield
    assert time.monotonic() - started_at < seconds


def test_a_lone_cell_waits_for_no_company(live: Site) -> None:
    async def scenario() -> None:
        async with started(live.settings(max_wait_ms=1000, max_batch=64)) as engine:
            core = engine.core()
            with in_time(0.9):
                await core.classify(Cell(png(1)), transport="grpc", client="a")
            with held(engine):
                before = time.monotonic()
                await core.classify(Cell(png(2)), transport="grpc", client="a")
                assert time.monotonic() - before >= 0.9

    asyncio.run(scenario())


def test_a_client_that_floods_is_turned_away_cheaply_and_nobody_else(live: Site) -> None:
    settings = live.settings(max_queue=4, max_batch=4, max_wait_ms=1000, tokens_file=live.root / "tokens")
    flood, calm = (add(live.root / "tokens", name, [Role.INFER]) for name in ("flood", "calm"))
    with working(settings) as worker, contextlib.ExitStack() as stack:
        channel = stack.enter_context(grpc.insecure_channel(worker.grpc))
        stub = BlastClassifierStub(channel)

        def ask(token: str, number: int) -> "grpc.Future":
            cell = pb.Cell(image=png(number), request_id=str(number))
            return stub.Classify.future(cell, timeout=20, metadata=(("authorization", f"Bearer {token}"),))

        with held(worker.engine):
            worker.engine._turns.let_in("somebody", 3)
            calls = [ask(flood, number) for number in range(40)]
            eventually(lambda: sum(call.done() for call in calls) >= 39)
            worker.engine._turns.let_out(3)
            refused = [call for call in calls if call.done() and call.code() is not grpc.StatusCode.OK]
            assert len(refused) >= 39
            assert {call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert all(("blastwatch-error", "Overloaded") in call.trailing_metadata() for call in refused)
            pushback = [dict(call.trailing_metadata())["grpc-retry-pushback-ms"] for call in refused]
            assert all(int(text) > 0 for text in pushback)
        for call in calls:
            call.exception()  # until all are over
        assert ask(calm, 100).result().label
        text = httpx.get(worker.http + "/metrics", headers={"Authorization": f"Bearer {calm}"}, trust_env=False).text
    assert f'blastwatch_rejected_total{{reason="Overloaded",transport="grpc"}} {len(refused)}.0' in text
    rows = [json.loads(line) for file in (live.root / "var/audit").iterdir() for line in file.read_text().splitlines()]
    outcomes = Counter((row["client"], row["code"]) for row in rows if row["method"] == "Classify")
    assert outcomes["flood", "RESOURCE_EXHAUSTED"] == len(refused)
    assert outcomes["flood", "OK"] == 40 - len(refused)
    assert outcomes["calm", "OK"] == 1


def test_a_worker_with_one_processor_has_one_thread_for_both(live: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engine.processors", lambda workers: 1.0)

    async def scenario() -> list[Answer]:
        async with started(live.settings()) as engine:
            assert engine.core()._intake._threads is engine.core()._steering.production._batcher._executor  # type: ignore[attr-defined]
            calls = [engine.core().classify(Cell(png(n)), transport="grpc", client="a") for n in range(60)]
            return await asyncio.gather(*calls)

    alone = asyncio.run(scenario())
    monkeypatch.undo()

    async def apart() -> list[Answer]:
        async with started(live.settings()) as engine:
            assert processors(1) < 2 or engine.core()._intake._owned
            calls = [engine.core().classify(Cell(png(n)), transport="grpc", client="a") for n in range(60)]
            return await asyncio.gather(*calls)

    beside = asyncio.run(apart())
    assert [answer.pixels_sha256 for answer in alone] == [answer.pixels_sha256 for answer in beside]
    assert [answer.label for answer in alone] == [answer.label for answer in beside]
