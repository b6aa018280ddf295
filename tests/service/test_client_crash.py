"""A worker is killed under load: callers with a retrying client notice nothing, and every answer is on record once."""

import contextlib
import itertools
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from service.client import AnyClient, Client, HttpClient
from service.contract.errors import BlastwatchError
from service.domain import Cell
from tests.service.process import Service, service
from tests.service.running import Site, eventually
from tests.support.images import png

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("bento")]

CALLERS = 8
"""Of each kind: enough that the worker to be killed has some of each (all on the other: once in 2^8)."""


class Load:
    """Callers that go on until they are stopped. What they were answered and what they met is kept."""

    def __init__(self, running: Service) -> None:
        self.answered: dict[str, str] = {}  # request id → record id
        self.failures: list[BlastwatchError] = []
        self.felt: list[BlastwatchError] = []  # by those who ask once
        self._running = running
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(4 * CALLERS)
        self._callers: list[Future[None]] = [
            self._pool.submit(self._stream if kind == "stream" else self._call, kind, number)
            for kind in ("grpc", "http", "stream", "once")
            for number in range(CALLERS)
        ]

    def _client(self, kind: str) -> AnyClient:
        if kind == "http":
            return HttpClient(self._running.http, timeout_s=60, attempts=20)
        return Client(self._running.grpc, timeout_s=60, attempts=1 if kind == "once" else 20)

    def _call(self, kind: str, caller: int) -> None:
        # A client each: a connection stays with the worker that took it.
        client, number = self._client(kind), 0
        with contextlib.closing(client):
            while not self._stop.is_set():
                number += 1
                name = f"{kind}-{caller}-{number}"
                try:
                    self.answered[name] = client.classify(png(number % 40), request_id=name).record_id
                except BlastwatchError as error:
                    (self.felt if kind == "once" else self.failures).append(error)
                    time.sleep(0.2)

    def _stream(self, kind: str, caller: int) -> None:
        def cells() -> Iterator[Cell]:
            for number in itertools.count():
                if self._stop.wait(0.05):
                    return
                yield Cell(image=png(number % 40), request_id=f"{kind}-{caller}-{number}")

        try:
            with Client(self._running.grpc, timeout_s=60, attempts=20) as client:
                for result in client.classify_stream(cells()):
                    if result.answer is None:
                        self.failures.append(result.error or BlastwatchError("no answer"))
                    else:
                        self.answered[result.request_id] = result.answer.record_id
        except BlastwatchError as error:
            self.failures.append(error)

    def goes_on(self) -> None:
        """Until each kind was answered some more."""
        before = Counter(name.partition("-")[0] for name in list(self.answered))

        def more() -> bool:
            now = Counter(name.partition("-")[0] for name in list(self.answered))
            return all(now[kind] >= before[kind] + 2 * CALLERS for kind in ("grpc", "http", "stream"))

        eventually(more, patience_s=60)

    def stop(self) -> None:
        self._stop.set()
        for caller in self._callers:
            caller.result()
        self._pool.shutdown()


def test_a_killed_worker_fails_no_call_of_a_retrying_client(live: Site) -> None:
    # Waiting for company keeps a call in a worker's hands most of the time, so that the kill meets some.
    with service(live, workers="2", max_wait_ms="100", max_batch="64") as running:
        running.wait()
        eventually(lambda: len(running.workers()) == 2)
        before = running.workers()
        load = Load(running)
        try:
            load.goes_on()
            os.kill(min(before), signal.SIGKILL)
            eventually(lambda: len(found := running.workers()) == 2 and found != before, patience_s=60)
            load.goes_on()  # with the worker that took its place
        finally:
            load.stop()
        assert load.failures == []
        assert load.felt, "those who ask once felt nothing, so this shows nothing"
        store = live.store
        eventually(lambda: all(store.get(record) for record in load.answered.values()), patience_s=60)
        assert len(set(load.answered.values())) == len(load.answered)
        for name, record in load.answered.items():
            assert [found.record.record_id for found in store.by_request("local", name)] == [record]
