"""Told to stop: readiness goes first, calls are answered for a while yet, and who looks at readiness feels nothing."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.client import Client, HttpClient
from service.contract.errors import BlastwatchError
from service.notice import give_notice
from tests.service.process import Service, service
from tests.service.running import Site, eventually
from tests.support.images import png

SERVING = health_pb2.HealthCheckResponse.SERVING


@dataclass
class Load:
    """Clients that ask once, without a retry, for as long as the service says that it is ready."""

    running: Service
    ready: Callable[[], bool]
    over_http: bool
    answered: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, clients: int = 3) -> None:
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)

    def _run(self, client: int) -> None:
        made = HttpClient(self.running.http, attempts=1) if self.over_http else Client(self.running.grpc, attempts=1)
        with made as calls:
            number = 0
            while self.ready():
                number += 1
                try:
                    self.answered.append(
                        calls.classify(png(number), request_id=f"{self.over_http}-{client}-{number}").record_id
                    )
                except BlastwatchError as error:
                    self.failed.append(f"{type(error).__name__}: {error}")


class Watcher:
    """What gRPC's health service says, as a balancer follows it; one stream, which is one worker's."""

    def __init__(self, running: Service) -> None:
        self.serving = threading.Event()
        self._channel = grpc.insecure_channel(running.grpc)
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        stub = health_pb2_grpc.HealthStub(self._channel)
        try:
            for reply in stub.Watch(health_pb2.HealthCheckRequest()):
                self.serving.set() if reply.status == SERVING else self.serving.clear()
        except grpc.RpcError:
            self.serving.clear()

    def close(self) -> None:
        self._channel.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_who_honours_readiness_meets_no_failure(live: Site, workers: str) -> None:
    with service(live, workers=workers, drain_notice_s="3") as running:
        running.wait()
        watcher = Watcher(running)
        assert watcher.serving.wait(20)
        loads = [
            Load(running, watcher.serving.is_set, over_http=False),
            Load(running, lambda: running.status("/readyz") == 200, over_http=True),
        ]
        for load in loads:
            load.start()
        eventually(lambda: all(len(load.answered) > 20 for load in loads))
        asked = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        for load in loads:
            load.join()
        assert time.monotonic() - asked < 60
        assert running.process.wait(60) == 0
        watcher.close()
        assert [load.failed for load in loads] == [[], []]
        records = [record for load in loads for record in load.answered]
        assert len(set(records)) == len(records) == live.store.count()
        assert list((live.root / "var/journal").glob("*/*.journal")) == []
        assert "Traceback" not in running.log
        assert "not ready any more" in running.log


def test_calls_are_taken_during_the_notice_and_readiness_is_off(live: Site) -> None:
    with service(live, drain_notice_s="5") as running, Client(running.grpc, attempts=1) as client:
        running.wait()
        running.process.send_signal(signal.SIGTERM)
        eventually(lambda: running.status("/readyz") == 503)
        assert running.status("/livez") == 200
        with grpc.insecure_channel(running.health) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            eventually(lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=5).status != SERVING)
        assert client.classify(png(1)).label  # from a caller that has not heard of it yet
        assert running.process.wait(60) == 0


def test_a_second_sigterm_does_not_wait() -> None:
    async def scenario() -> None:
        stopped, drained = asyncio.Event(), []
        before = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        try:
            give_notice(3600, lambda: drained.append(True))
            os.kill(os.getpid(), signal.SIGTERM)
            while not drained:
                await asyncio.sleep(0.01)
            assert not stopped.is_set()
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(20):
                await stopped.wait()
        finally:
            signal.signal(signal.SIGTERM, before)

    asyncio.run(scenario())
