"""Work in a thread of its own that outlives its own faults and ends when it is told to."""

import asyncio
import threading

import pytest

from service.periodic import Periodic


def test_it_works_again_and_again_even_after_a_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.periodic.AFTER_SURPRISE_S", 0.0)
    calls: list[str] = []
    enough = threading.Event()

    def work() -> float:
        calls.append(threading.current_thread().name)
        if len(calls) == 2:
            raise RuntimeError("a fault")
        if len(calls) == 5:
            enough.set()
        return 0.0

    async def scenario() -> None:
        periodic = Periodic("worker", work)
        periodic.start()
        assert await asyncio.to_thread(enough.wait, 30)
        await periodic.stop()
        after = len(calls)
        await periodic.stop()
        assert len(calls) == after

    asyncio.run(scenario())
    assert set(calls) == {"worker"}
    assert "a fault" in caplog.text


def test_stop_waits_for_the_call_under_way_and_cuts_the_pause_short() -> None:
    began, let_go, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> float:
        began.set()
        assert let_go.wait(30)
        ended.set()
        return 3600.0

    async def scenario() -> None:
        periodic = Periodic("worker", work)
        periodic.start()
        assert await asyncio.to_thread(began.wait, 30)
        stopping = asyncio.create_task(periodic.stop())
        await asyncio.sleep(0)
        assert not stopping.done()
        let_go.set()
        await asyncio.wait_for(stopping, 30)
        assert ended.is_set()

    asyncio.run(scenario())


def test_what_never_started_can_be_stopped() -> None:
    asyncio.run(Periodic("worker", lambda: 0.0).stop())
