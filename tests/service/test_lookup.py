"""Lookups: a store that is away costs one question its patience, not every answer."""

import asyncio
import threading

import pytest
from prometheus_client import CollectorRegistry

from service.contract.errors import StoreUnavailable
from service.lookup import Lookup
from service.metrics import build_metrics
from service.settings import load_settings


class Away:
    """A store that can be switched off, and a clock that is moved by hand."""

    def __init__(self) -> None:
        self.there = True
        self.asked = 0
        self.now = 0.0
        self.lookup = Lookup(
            build_metrics(CollectorRegistry(), load_settings()), timeout_s=5.0, pause_s=2.0, clock=lambda: self.now
        )

    def question(self) -> str:
        self.asked += 1
        if not self.there:
            raise StoreUnavailable("sqlite:////secret/path is away")
        return "found"

    async def ask(self, *, insist: bool = False) -> str:
        return await self.lookup.ask(self.question, insist=insist)


def test_after_a_failure_nobody_waits_until_the_pause_is_over() -> None:
    async def scenario() -> None:
        store = Away()
        assert await store.ask() == "found"
        store.there = False
        for _ in range(3):
            with pytest.raises(StoreUnavailable) as caught:
                await store.ask()
            assert "secret" not in str(caught.value)
        assert store.asked == 2
        store.there = True
        with pytest.raises(StoreUnavailable):
            await store.ask()
        store.now = 2.1
        assert await store.ask() == "found"
        assert await store.ask() == "found"

    asyncio.run(scenario())


def test_who_insists_is_asked_for_in_a_pause_too() -> None:
    async def scenario() -> None:
        store = Away()
        store.there = False
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store.ask(insist=True)
        assert store.asked == 2
        store.there = True
        assert await store.ask(insist=True) == "found"
        assert await store.ask() == "found"

    asyncio.run(scenario())


def test_after_the_pause_one_question_finds_out_for_all() -> None:
    async def scenario() -> None:
        store = Away()
        store.there = False
        with pytest.raises(StoreUnavailable):
            await store.ask()
        store.now = 2.1
        answer = threading.Event()

        def slow() -> str:
            answer.wait(10)
            return "found"

        probing = asyncio.create_task(store.lookup.ask(slow))
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable):
            await store.ask()
        answer.set()
        assert await probing == "found"
        assert store.asked == 1

    asyncio.run(scenario())


def test_a_store_that_hangs_is_away() -> None:
    async def scenario() -> None:
        lookup = Lookup(build_metrics(CollectorRegistry(), load_settings()), timeout_s=0.01)
        release = threading.Event()
        with pytest.raises(StoreUnavailable):
            await lookup.ask(lambda: release.wait(10))
        release.set()
        lookup.close()

    asyncio.run(scenario())


def test_a_queue_of_questions_is_not_a_store_that_is_away() -> None:
    async def scenario() -> None:
        lookup = Lookup(build_metrics(CollectorRegistry(), load_settings()), timeout_s=0.5)
        pause = threading.Event()
        # Forty questions of 40 ms, two at a time: the last one waits longer than any one may take.
        answers = await asyncio.gather(*(lookup.ask(lambda: not pause.wait(0.04)) for _ in range(40)))
        assert all(answers)
        lookup.close()

    asyncio.run(scenario())
