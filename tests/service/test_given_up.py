"""A call that nobody waits for any more is dropped wherever it is: its time is up, it is cancelled, its caller left."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest

from service.batching import Batcher
from service.client import Client
from service.contract.errors import DeadlineExceeded
from service.contract.image import Pixels, encode_png
from service.contract.predictor import Predictor
from service.domain import Cell
from service.identity import Computed
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.proto.blastwatch.v1.blastwatch_pb2_grpc import BlastClassifierStub
from service.steering import Production
from tests.service.process import service
from tests.service.running import Site, Worker, busy, eventually, working
from tests.support.images import png

STAGES = ("decode", "compute", "journal")


@dataclass
class Bench:
    """A worker whose stages can be stopped, and what came as far as its model."""

    worker: Worker
    batches: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        run = self.batcher._run

        def counted(batch: Pixels) -> Computed[Predictor]:
            self.batches.append(len(batch))
            return run(batch)

        self.batcher._run = counted

    @property
    def batcher(self) -> Batcher[Predictor]:
        production = self.worker.engine.core()._steering.production
        assert isinstance(production, Production)
        return production._batcher

    @property
    def in_work(self) -> int:
        return self.worker.engine._turns.in_work

    def threads(self, stage: str) -> ThreadPoolExecutor:
        core = self.worker.engine.core()
        found = {"decode": core._intake._threads, "compute": self.batcher._executor, "journal": core._journal._thread}
        threads = found[stage]
        assert isinstance(threads, ThreadPoolExecutor)
        return threads

    def waiting(self, stage: str) -> int:
        """Cells that wait at a stage that is stopped, behind one that its threads have taken."""
        if stage == "decode":
            return self.threads(stage)._work_queue.qsize() - 1
        return self.batcher.depth if stage == "compute" else len(self.worker.engine.core()._journal._waiting)

    def until_one_waits(self, stage: str) -> None:
        eventually(lambda: self.waiting(stage) == 1)

    def count(self, transport: str, code: str) -> float:
        labels = {"transport": transport, "method": "Classify", "code": code}
        return self.worker.engine.metrics.registry.get_sample_value("blastwatch_requests_total", labels) or 0.0


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    site = Site(tmp_path_factory.mktemp("given-up"))
    site.promote(site.add().version)
    with pytest.MonkeyPatch.context() as patch:
        # Threads for each stage, so that each can be stopped by itself, whatever this machine has.
        patch.setattr("service.engine.processors", lambda workers: 4 / workers)
        with working(site.settings()) as worker:
            yield Bench(worker)


@pytest.fixture(scope="module")
def stub(bench: Bench) -> Iterator[BlastClassifierStub]:
    with grpc.insecure_channel(bench.worker.grpc) as channel:
        yield BlastClassifierStub(channel)


def deadline_of_the_core(bench: Bench, stub: BlastClassifierStub, name: str, at_stage: Callable[[], None]) -> None:
    """As HTTP has it, whose callers say no deadline."""
    with pytest.raises(DeadlineExceeded):
        bench.worker.run(
            bench.worker.engine.core().classify(
                Cell(png(2), name), transport="http", client="local", deadline=time.monotonic() + 0.3
            )
        )


def deadline_over_grpc(bench: Bench, stub: BlastClassifierStub, name: str, at_stage: Callable[[], None]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(pb.Cell(image=png(2), request_id=name), timeout=0.5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def cancelled_over_grpc(bench: Bench, stub: BlastClassifierStub, name: str, at_stage: Callable[[], None]) -> None:
    call = stub.Classify.future(pb.Cell(image=png(2), request_id=name), timeout=60)
    at_stage()
    call.cancel()


def disconnected_over_http(bench: Bench, stub: BlastClassifierStub, name: str, at_stage: Callable[[], None]) -> None:
    before = bench.count("http", "499")
    with socket.create_connection(("127.0.0.1", bench.worker.settings.http_port), timeout=20) as raw:
        raw.sendall(request(png(2), name))
        at_stage()
    eventually(lambda: bench.count("http", "499") == before + 1)


def request(image: bytes, name: str) -> bytes:
    """A call of POST /v1/classify as it is on the wire."""
    head = (
        "POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\n"
        f"blastwatch-request-id: {name}\r\ncontent-length: {len(image)}\r\n\r\n"
    )
    return head.encode() + image


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "give_up", [deadline_of_the_core, deadline_over_grpc, cancelled_over_grpc, disconnected_over_http]
)
def test_a_call_that_was_given_up_goes_no_further_and_leaves_no_record(
    bench: Bench,
    stub: BlastClassifierStub,
    stage: str,
    give_up: Callable[[Bench, BlastClassifierStub, str, Callable[[], None]], None],
) -> None:
    name = f"{give_up.__name__}-{stage}"
    bench.batches.clear()
    store = bench.worker.engine.core()._store
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stopped:
        threads = bench.threads(stage)
        stopped.enter_context(busy(threads))
        # The one ahead is in the hands of the stage, and stays: it shows that only the other one was dropped.
        ahead = pool.submit(stub.Classify, pb.Cell(image=png(1), request_id=f"ahead-{name}"), timeout=60)
        eventually(lambda: threads._work_queue.qsize() == 1)
        give_up(bench, stub, name, lambda: bench.until_one_waits(stage))
        eventually(lambda: bench.in_work == 1)
        if stage == "compute":
            eventually(lambda: bench.waiting(stage) == 0)
        stopped.close()
        record = ahead.result().record_id
    assert sum(bench.batches) == (2 if stage == "journal" else 1)
    assert bench.in_work == 0
    eventually(lambda: store.get(record))
    assert store.by_request("local", name) == []


def test_who_leaves_over_http_does_not_take_along_who_asks_the_same(bench: Bench, stub: BlastClassifierStub) -> None:
    core = bench.worker.engine.core()
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stopped:
        stopped.enter_context(busy(bench.threads("compute")))
        with socket.create_connection(("127.0.0.1", bench.worker.settings.http_port), timeout=20) as raw:
            raw.sendall(request(png(3), "shared"))
            eventually(lambda: ("local", "shared") in core._flights._flights)
            other = pool.submit(stub.Classify, pb.Cell(image=png(3), request_id="shared"), timeout=60)
            eventually(lambda: core._flights._flights["local", "shared"].waiting == 2)
        eventually(lambda: core._flights._flights["local", "shared"].waiting == 1)
        stopped.close()
        assert other.result().request_id == "shared"


@pytest.mark.e2e
@pytest.mark.xdist_group("bento")
def test_behind_bentoml_who_leaves_is_noticed_too(live: Site) -> None:
    large = encode_png(np.full((4000, 4000, 3), 200, dtype=np.uint8))  # takes a while to decode
    with service(live) as running, Client(running.grpc) as client, contextlib.ExitStack() as connections:
        running.wait()
        host, _, port = running.http.removeprefix("http://").partition(":")
        for number in range(12):
            raw = connections.enter_context(socket.create_connection((host, int(port)), timeout=20))
            raw.sendall(request(large, f"large-{number}"))
        eventually(lambda: running.metrics()["blastwatch_in_work"] > 4)
        connections.close()
        assert client.classify(png(1)).label

        def codes() -> dict[str, float]:
            name = 'blastwatch_requests_total{code="%s",method="Classify",transport="http"}'
            return {code: running.metrics().get(name % code, 0) for code in ("200", "499")}

        eventually(lambda: sum(codes().values()) == 12 and running.metrics()["blastwatch_in_work"] == 0)
        assert codes()["499"] > 0
        assert running.terminate() == 0
        assert "Traceback" not in running.log
        assert live.store.count() < 13
