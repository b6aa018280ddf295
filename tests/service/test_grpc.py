"""gRPC against a real server: every outcome has its status, and garbage never is INTERNAL."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.contract.errors import Overloaded
from service.grpc_server import LIVENESS
from service.grpc_status import ERROR_KEY, INTERNAL_TEXT, PUSHBACK_KEY
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.proto.blastwatch.v1.blastwatch_pb2_grpc import BlastClassifierStub
from tests.service.running import Site, Worker, eventually, held, working
from tests.support.images import png

CLASSIFY = "/blastwatch.v1.BlastClassifier/Classify"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    site = Site(tmp_path_factory.mktemp("grpc"))
    site.promote(site.add().version)
    with working(site.settings(max_message_bytes=2**20)) as found:
        yield found


@pytest.fixture(scope="module")
def channel(worker: Worker) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(worker.grpc) as found:
        yield found


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> BlastClassifierStub:
    return BlastClassifierStub(channel)


def failure(call: Any, *args: Any, **options: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, **{"timeout": 20, **options})
    return caught.value


def test_a_cell_is_classified_and_reviewed(stub: BlastClassifierStub) -> None:
    found = stub.Classify(pb.Cell(image=png(1), request_id="r1", site="site-a"), timeout=20)
    assert found.request_id == "r1"
    assert found.label in found.probabilities
    assert found.model_version == stub.GetModel(pb.GetModelRequest(), timeout=20).version
    reviewed = stub.Review(pb.ReviewRequest(record_id=found.record_id, label="L1", role="haematologist"), timeout=20)
    assert reviewed.record_id == found.record_id
    assert not reviewed.counts_for_training
    assert reviewed.note


def test_the_model_is_described(stub: BlastClassifierStub) -> None:
    found = stub.GetModel(pb.GetModelRequest(), timeout=20)
    assert list(found.labels) == ["healthy", "L1", "L2", "L3"]
    assert list(found.malignant) == ["L1", "L2", "L3"]
    assert (found.height, found.width, found.field_um) == (32, 32, 20.0)


@pytest.mark.parametrize(
    ("cell", "status", "name"),
    [
        (pb.Cell(), "INVALID_ARGUMENT", "InvalidRequest"),
        (pb.Cell(image=b"nonsense"), "INVALID_ARGUMENT", "BadImage"),
        (pb.Cell(image=png(1), pixel_size_um=-1), "INVALID_ARGUMENT", "InvalidRequest"),
        (pb.Cell(image=png(1), site="x" * 300), "INVALID_ARGUMENT", "InvalidRequest"),
        (pb.Cell(image=bytes(2**20 + 1)), "INVALID_ARGUMENT", "TooLarge"),
        (pb.Cell(image=png(99), request_id="r1"), "ALREADY_EXISTS", "Conflict"),
    ],
)
def test_outcomes_have_their_status_and_their_name(
    stub: BlastClassifierStub, cell: pb.Cell, status: str, name: str
) -> None:
    stub.Classify(pb.Cell(image=png(1), request_id="r1"), timeout=20)
    error = failure(stub.Classify, cell)
    assert error.code().name == status
    assert dict(error.trailing_metadata())[ERROR_KEY] == name


def test_a_review_of_an_unknown_record_is_not_found(stub: BlastClassifierStub) -> None:
    request = pb.ReviewRequest(record_id="0" * 32, label="L1", role="haematologist")
    assert failure(stub.Review, request).code() is grpc.StatusCode.NOT_FOUND


def test_a_message_far_above_the_limit_is_refused_by_grpc_itself(stub: BlastClassifierStub) -> None:
    error = failure(stub.Classify, pb.Cell(image=bytes(2 * 2**20)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in error.details()


def test_garbage_is_never_internal(channel: grpc.Channel) -> None:
    rng = np.random.default_rng(20)
    whole = pb.Cell(image=png(5), site="site-a").SerializeToString()
    garbage = [rng.bytes(int(size)) for size in rng.integers(1, 2000, 60)]
    for position in rng.integers(0, len(whole), 60):
        broken = bytearray(whole)
        broken[position] ^= 1 << int(rng.integers(0, 8))
        garbage.append(bytes(broken))
    garbage += [whole[:40], b"\x0a\xff\xff\xff\xff\x0f", b"\x12\x02\xff\xfe"]
    call = channel.unary_unary(CLASSIFY)
    seen = set()
    for data in garbage:
        try:
            call(data, timeout=20)
            seen.add(grpc.StatusCode.OK)
        except grpc.RpcError as error:
            seen.add(error.code())
    assert grpc.StatusCode.INVALID_ARGUMENT in seen
    assert seen <= {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    error = failure(channel.unary_unary("/blastwatch.v1.BlastClassifier/Guess"), b"")
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_fault_of_ours_is_a_constant_text_and_a_traceback_in_the_log(
    worker: Worker, stub: BlastClassifierStub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr(worker.engine.core(), "classify", broken)
    error = failure(stub.Classify, pb.Cell(image=png(1)))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == INTERNAL_TEXT
    assert "a secret of ours" in caplog.text


def test_overload_says_when_to_come_back(
    worker: Worker, stub: BlastClassifierStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: object, **__: object) -> None:
        raise Overloaded(retry_after_s=2.5)

    monkeypatch.setattr(worker.engine.core(), "classify", busy)
    error = failure(stub.Classify, pb.Cell(image=png(1)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(error.trailing_metadata())[PUSHBACK_KEY] == "2500"


def test_the_callers_deadline_reaches_the_core(
    worker: Worker, stub: BlastClassifierStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float | None] = []
    core = worker.engine.core()
    real = core.classify

    async def spy(cell: Any, *, deadline: float | None, **options: Any) -> Any:
        seen.append(deadline)
        return await real(cell, deadline=deadline, **options)

    monkeypatch.setattr(core, "classify", spy)
    now = time.monotonic()
    stub.Classify(pb.Cell(image=png(1)), timeout=15)
    stub.Classify(pb.Cell(image=png(1)))
    assert seen[0] is not None
    assert now + 10 < seen[0] < now + 20
    assert seen[1] is None
    error = failure(stub.Classify, pb.Cell(image=png(1)), timeout=0.000001)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_every_call_is_counted_by_its_status(worker: Worker, stub: BlastClassifierStub) -> None:
    def count() -> float:
        labels = {"transport": "grpc", "method": "Classify", "code": "INVALID_ARGUMENT"}
        return worker.engine.metrics.registry.get_sample_value("blastwatch_requests_total", labels) or 0.0

    before = count()
    failure(stub.Classify, pb.Cell())
    eventually(lambda: count() == before + 1)


def test_reflection_tells_the_service_and_its_messages(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)

    def ask(request: Any) -> Any:
        return next(iter(stub.ServerReflectionInfo(iter([request]), timeout=20)))

    listed = ask(reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {service.name for service in listed.list_services_response.service}
    assert {"blastwatch.v1.BlastClassifier", "grpc.health.v1.Health"} <= names
    answer = ask(reflection_pb2.ServerReflectionRequest(file_containing_symbol="blastwatch.v1.BlastClassifier"))
    files = [FileDescriptorProto.FromString(data) for data in answer.file_descriptor_response.file_descriptor_proto]
    assert "blastwatch/v1/blastwatch.proto" in {file.name for file in files}


@pytest.mark.parametrize("name", ["", "blastwatch.v1.BlastClassifier", LIVENESS])
def test_health_is_served_on_both_ports(worker: Worker, name: str) -> None:
    for target in (worker.grpc, worker.health):
        eventually(lambda: health_of(target, name) == SERVING)  # noqa: B023  (called within the same turn)


def health_of(target: str, name: str) -> int:
    with grpc.insecure_channel(target) as channel:
        request = health_pb2.HealthCheckRequest(service=name)
        return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=20).status)


def test_the_health_port_serves_health_only(worker: Worker) -> None:
    with grpc.insecure_channel(worker.health) as channel:
        error = failure(BlastClassifierStub(channel).Classify, pb.Cell(image=png(1)))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


def test_an_unknown_name_has_no_health(channel: grpc.Channel) -> None:
    error = failure(health_pb2_grpc.HealthStub(channel).Check, health_pb2.HealthCheckRequest(service="other"))
    assert error.code() is grpc.StatusCode.NOT_FOUND


def test_readiness_is_watched_from_no_model_to_the_end(site: Site) -> None:
    seen: list[int] = []
    worker = Worker(site.settings())
    worker.start()
    with grpc.insecure_channel(worker.health) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(service=LIVENESS), timeout=20).status == SERVING

        def watch() -> None:
            try:
                for update in stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=60):
                    seen.append(update.status)
            except grpc.RpcError:
                pass  # the server is gone, or the test is over

        thread = threading.Thread(target=watch)
        thread.start()
        eventually(lambda: seen == [NOT_SERVING])
        with grpc.insecure_channel(worker.grpc) as calls:
            error = failure(BlastClassifierStub(calls).Classify, pb.Cell(image=png(1)))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "dvc repro" in error.details()
        site.promote(site.add().version)
        eventually(lambda: seen == [NOT_SERVING, SERVING])
        worker.stop()
        thread.join(20)
        assert not thread.is_alive()
    assert seen == [NOT_SERVING, SERVING, NOT_SERVING]


def test_calls_under_way_finish_while_the_worker_stops(live: Site) -> None:
    worker = Worker(live.settings(max_batch=64, max_wait_ms=1000, drain_s=20))
    worker.start()
    with grpc.insecure_channel(worker.grpc) as channel, ThreadPoolExecutor(20) as pool:
        stub = BlastClassifierStub(channel)
        stub.GetModel(pb.GetModelRequest(), timeout=20)
        with held(worker.engine):
            calls = [pool.submit(stub.Classify, pb.Cell(image=png(n)), timeout=20) for n in range(20)]
            eventually(lambda: worker.servers._servicer.active == 20)
            worker.stop()
        answers = [call.result() for call in calls]
    assert len({answer.record_id for answer in answers}) == 20
    assert live.store.count() == 20
