"""ClassifyStream against a real worker: every cell gets its own reply, whatever becomes of the others."""

import asyncio
import contextlib
import itertools
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import grpc
import pytest

from service import tokens
from service.contract.image import Field, load_field, pixels_sha256
from service.grpc_status import ERROR_KEY
from service.grpc_stream import CELL, ClassifyStream
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.proto.blastwatch.v1.blastwatch_pb2_grpc import BlastClassifierStub
from service.tokens import Role
from tests.service.running import Site, Worker, eventually, working
from tests.support.images import png

WINDOW = 4


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    found = Site(tmp_path_factory.mktemp("stream"))
    found.promote(found.add().version)
    return found


@pytest.fixture(scope="module")
def worker(site: Site) -> Iterator[Worker]:
    with working(site.settings(stream_window=WINDOW, max_message_bytes=2**16)) as found:
        yield found


@pytest.fixture
def stub(worker: Worker) -> Iterator[BlastClassifierStub]:
    with channel_to(worker) as found:
        yield found


def replies(stub: BlastClassifierStub, cells: Iterable[pb.Cell]) -> dict[int, pb.StreamReply]:
    """Position → reply; each position once."""
    found = list(stub.ClassifyStream(iter(cells), timeout=60))
    assert len({reply.position for reply in found}) == len(found)
    return {reply.position: reply for reply in found}


def seen_by_the_model(image: bytes) -> str:
    return pixels_sha256(load_field(image, Field(32, 32), 0))


def test_each_cell_of_many_gets_its_own_answer(stub: BlastClassifierStub, site: Site) -> None:
    cells = [pb.Cell(image=png(seed), request_id=f"many-{seed}") for seed in range(200)]
    found = replies(stub, cells)
    assert sorted(found) == list(range(200))
    for position, cell in enumerate(cells):
        assert found[position].request_id == found[position].prediction.request_id == cell.request_id
        assert found[position].prediction.pixels_sha256 == seen_by_the_model(cell.image)
    records = {reply.prediction.record_id for reply in found.values()}
    assert len(records) == 200
    eventually(lambda: all(site.store.get(record) for record in sorted(records)[::20]))


def test_a_cell_that_cannot_be_answered_fails_alone(stub: BlastClassifierStub) -> None:
    cells = [
        pb.Cell(image=png(1), request_id="good-1"),
        pb.Cell(image=b"no picture", request_id="bad"),
        pb.Cell(image=png(1), request_id="x" * 300),
        pb.Cell(image=png(1), pixel_size_um=-1),
        pb.Cell(image=b"x" * (2**16 + 1), request_id="large"),
        pb.Cell(),
        pb.Cell(image=png(2), request_id="good-2"),
        pb.Cell(image=png(3), request_id="good-2"),
    ]
    found = replies(stub, cells)
    assert {position: reply.failure.error for position, reply in found.items() if position < 6} == {
        **{0: "", 1: "BadImage", 2: "InvalidRequest", 3: "InvalidRequest", 4: "TooLarge", 5: "InvalidRequest"}
    }
    assert found[1].failure.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert found[1].request_id == "bad"
    assert "PNG" in found[1].failure.message
    assert found[2].request_id == ""  # a name that is refused is not repeated
    assert Counter(found[position].failure.error for position in (6, 7)) == {"": 1, "Conflict": 1}


def test_bytes_that_are_no_cell_fail_alone(worker: Worker) -> None:
    with grpc.insecure_channel(worker.grpc, options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.stream_stream(
            "/blastwatch.v1.BlastClassifier/ClassifyStream", response_deserializer=pb.StreamReply.FromString
        )
        found = {
            reply.position: reply
            for reply in call(iter([b"\xff\xff", pb.Cell(image=png(1)).SerializeToString()]), timeout=60)
        }
    assert found[0].failure.error == "InvalidRequest"
    assert found[1].prediction.record_id


def test_a_stream_without_cells_ends_well(stub: BlastClassifierStub) -> None:
    assert replies(stub, []) == {}


class Sender:
    """A client's side of a stream inside the process: counts what was taken from it."""

    def __init__(self, cells: int) -> None:
        self.cells = cells
        self.taken = 0

    async def messages(self) -> AsyncIterator[bytes]:
        for seed in range(self.cells):
            self.taken += 1
            yield pb.Cell(image=png(seed)).SerializeToString()

    def time_remaining(self) -> None:
        """No deadline."""


def test_no_more_is_read_than_the_window_holds(worker: Worker) -> None:
    async def reads_rarely() -> list[int]:
        sender = Sender(cells=30)
        replies = ClassifyStream(worker.engine)(sender.messages(), sender)
        taken = []
        for _ in range(3):
            await anext(replies)
            await asyncio.sleep(0.3)  # long enough to answer everything, if it were taken
            taken.append(sender.taken)
        rest = [reply async for reply in replies]
        assert len(rest) == 27
        return taken

    assert worker.run(reads_rarely()) == [WINDOW, WINDOW + 1, WINDOW + 2]


def test_nothing_goes_on_for_a_client_that_left(worker: Worker) -> None:
    async def leaves() -> set[str]:
        before = asyncio.all_tasks()
        sender = Sender(cells=30)
        replies = ClassifyStream(worker.engine)(sender.messages(), sender)
        await anext(replies)
        await replies.aclose()
        return {task.get_name() for task in asyncio.all_tasks() - before if not task.done()}

    # The journal writes for everybody, and what it has begun it finishes.
    assert worker.run(leaves()) <= {"journal"}


def test_a_cancelled_stream_is_counted(stub: BlastClassifierStub, worker: Worker) -> None:
    before = counted(worker, "ClassifyStream", "CANCELLED")
    call = stub.ClassifyStream(endless())
    next(call)
    call.cancel()
    eventually(lambda: counted(worker, "ClassifyStream", "CANCELLED") == before + 1)


def test_the_streams_deadline_ends_it(stub: BlastClassifierStub) -> None:
    call = stub.ClassifyStream(one_and_no_end(), timeout=1)
    assert next(call).prediction.record_id
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_service_at_its_bound_makes_the_stream_wait(site: Site) -> None:
    with working(site.settings(max_queue=1, max_batch=1, stream_window=8)) as busy, channel_to(busy) as stub:
        found = replies(stub, [pb.Cell(image=png(seed)) for seed in range(20)])
    assert [found[position].prediction.label != "" for position in range(20)] == [True] * 20


def test_a_service_that_stops_answers_what_it_has_and_says_so(site: Site) -> None:
    with working(site.settings()) as stopping, channel_to(stopping) as stub:
        call = stub.ClassifyStream(one_and_no_end(), timeout=60)
        assert next(call).prediction.record_id
        stopping.run(stopping.servers.stop())
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(caught.value.trailing_metadata())[ERROR_KEY] == "NotReady"


def test_roles_hold_and_each_cell_is_on_the_record_of_access(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    sends = tokens.add(file, "pacs", [Role.INFER])
    reads = tokens.add(file, "reader", [Role.REVIEW])
    audit = tmp_path / "audit"
    with working(site.settings(tokens_file=file, audit_dir=audit)) as guarded, channel_to(guarded) as stub:
        cells = [pb.Cell(image=png(1), request_id="a"), pb.Cell(image=b"x", request_id="b")]
        call = stub.ClassifyStream(iter(cells), metadata=bearer(sends), timeout=60)
        assert len(list(call)) == 2
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.ClassifyStream(iter(cells), metadata=bearer(reads), timeout=60))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    rows = [json.loads(line) for path in audit.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert sorted((row["client"], row["method"], row["request_id"], row["code"]) for row in rows) == [
        ("pacs", "ClassifyStream", "", "OK"),
        ("pacs", CELL, "a", "OK"),
        ("pacs", CELL, "b", "INVALID_ARGUMENT"),
        ("reader", "ClassifyStream", "", "PERMISSION_DENIED"),
    ]


@contextlib.contextmanager
def channel_to(worker: Worker) -> Iterator[BlastClassifierStub]:
    with grpc.insecure_channel(worker.grpc, options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield BlastClassifierStub(channel)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def endless() -> Iterator[pb.Cell]:
    for seed in itertools.count():
        yield pb.Cell(image=png(seed % 50))


def one_and_no_end() -> Iterator[pb.Cell]:
    yield pb.Cell(image=png(1))
    threading.Event().wait(5)


def counted(worker: Worker, method: str, code: str) -> float:
    labels = {"transport": "grpc", "method": method, "code": code}
    return worker.engine.metrics.registry.get_sample_value("blastwatch_requests_total", labels) or 0.0
