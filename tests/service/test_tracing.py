"""Traces: taken over from the caller, sent to a real collector, and never in the way of an answer."""

import asyncio
import logging
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import httpx
import numpy as np
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from service.open_inference_model import NAME
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.proto.blastwatch.v1.blastwatch_pb2_grpc import BlastClassifierStub
from service.tracing import Tracing
from tests.service.running import Site, Worker, eventually, working
from tests.support.collector import Collector, attributes, collecting
from tests.support.images import png

STAGES = ["decode", "queue", "compute", "keep", "journal"]
CANARY = "CANARY-PATIENT-4711"
TRANSPORTS = ("grpc", "http")


@dataclass
class Traced:
    """A worker that traces what its callers say is sampled, and nothing else."""

    worker: Worker
    collector: Collector

    def call(self, transport: str, *headers: tuple[str, str], request_id: str = "", image: bytes = b"") -> str:
        """Classifies a cell; the `traceparent` of the reply."""
        image = image or png(1)
        if transport == "http":
            more = [("content-type", "image/png"), ("blastwatch-patient-id", CANARY), *headers]
            if request_id:
                more.append(("blastwatch-request-id", request_id))
            reply = httpx.post(f"{self.worker.http}/v1/classify", headers=more, content=image, trust_env=False)
            return str(reply.headers["traceparent"])
        with grpc.insecure_channel(self.worker.grpc) as channel:
            cell = pb.Cell(image=image, request_id=request_id, patient_id=CANARY)
            _, call = _called(BlastClassifierStub(channel).Classify, cell, headers)
        return str(dict(call.trailing_metadata())["traceparent"])


def _called(method: grpc.UnaryUnaryMultiCallable, message: object, headers: object) -> tuple[object, grpc.Call]:
    """The reply or the error, and the call."""
    try:
        return method.with_call(message, timeout=30, metadata=headers)  # type: ignore[no-any-return]
    except grpc.RpcError as error:
        return error, error


def parent(number: int, *, sampled: bool = True) -> tuple[str, tuple[str, str]]:
    """A caller's trace: its id, and the header."""
    trace_id = f"{number:032x}"
    return trace_id, ("traceparent", f"00-{trace_id}-00f067aa0ba902b7-{int(sampled):02x}")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    site = Site(tmp_path_factory.mktemp("traces"))
    site.promote(site.add().version)
    with collecting() as collector:
        settings = site.settings(trace_endpoint=collector.url, trace_sample=0.0, image_retention="all")
        with working(settings) as worker:
            yield Traced(worker, collector)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_call_goes_on_in_its_callers_trace(traced: Traced, transport: str) -> None:
    trace_id, header = parent(0xA0 + TRANSPORTS.index(transport))
    replied = traced.call(transport, header, ("tracestate", "lis=a7,other=b"), request_id=f"traced-{transport}")
    eventually(lambda: len(traced.collector.spans(trace_id)) == 1 + len(STAGES))
    [server] = traced.collector.server_spans(trace_id)
    assert replied == f"00-{trace_id}-{server.span_id.hex()}-01"
    assert server.parent_span_id.hex() == "00f067aa0ba902b7"
    assert server.trace_state == "lis=a7,other=b"
    found = attributes(server)
    assert found["blastwatch.request_id"] == f"traced-{transport}"
    assert found["blastwatch.client"] == "local"
    if transport == "grpc":
        assert server.name == found["rpc.method"] == "blastwatch.v1.BlastClassifier/Classify"
        assert (found["rpc.system.name"], found["rpc.response.status_code"]) == ("grpc", "OK")
    else:
        assert server.name == "POST /v1/classify"
        assert (found["http.route"], found["http.response.status_code"]) == ("/v1/classify", 200)
    store = Site(traced.worker.settings.root).store
    [stored] = eventually(lambda: store.by_request("local", f"traced-{transport}"))
    assert found["blastwatch.record_id"] == stored.record.record_id


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_stages_lie_one_after_another_within_the_call(traced: Traced, transport: str) -> None:
    trace_id, header = parent(0xB0 + TRANSPORTS.index(transport))
    traced.call(transport, header, request_id=f"stages-{transport}")
    spans = eventually(lambda: _complete(traced.collector.spans(trace_id)))
    [server] = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    stages = [span for span in spans if span is not server]
    assert [span.name for span in stages] == STAGES
    moment = server.start_time_unix_nano
    for span in stages:
        assert span.parent_span_id == server.span_id
        assert attributes(span) == {"blastwatch.request_id": f"stages-{transport}"}
        assert moment <= span.start_time_unix_nano <= span.end_time_unix_nano
        moment = span.end_time_unix_nano
    assert moment <= server.end_time_unix_nano


def _complete(spans: list[Span]) -> list[Span]:
    return spans if len(spans) == 1 + len(STAGES) else []


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_the_caller_does_not_sample_is_not_sent(traced: Traced, transport: str) -> None:
    quiet, unsampled = parent(0xC0 + TRANSPORTS.index(transport), sampled=False)
    assert re.fullmatch(f"00-{quiet}-[0-9a-f]{{16}}-00", traced.call(transport, unsampled))
    loud, sampled = parent(0xC8 + TRANSPORTS.index(transport))
    traced.call(transport, sampled)
    eventually(lambda: traced.collector.server_spans(loud))
    assert traced.collector.spans(quiet) == []


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", "nonsense")],
        [("traceparent", f"ff-{1:032x}-{1:016x}-01")],
        [("traceparent", f"00-{0:032x}-{1:016x}-01"), ("tracestate", "a=b")],
        [("tracestate", "=,=")],
    ],
)
def test_a_context_that_makes_no_sense_is_none(traced: Traced, transport: str, headers: list[tuple[str, str]]) -> None:
    _, trace_id, _, flags = traced.call(transport, *headers).split("-")
    assert not int(flags, 16) & 1
    assert trace_id not in str(headers)
    assert int(trace_id, 16) != 0


def test_of_two_contexts_none_is_taken(traced: Traced) -> None:
    """Over HTTP: gRPC itself keeps one of them."""
    (one, header), (two, other) = parent(0xD0), parent(0xD1)
    assert traced.call("http", header, other).split("-")[1] not in (one, two)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_error_is_in_the_trace_by_its_name(traced: Traced, transport: str) -> None:
    trace_id, header = parent(0xE0 + TRANSPORTS.index(transport))
    assert traced.call(transport, header, image=b"nonsense").split("-")[1] == trace_id
    [server] = eventually(lambda: traced.collector.server_spans(trace_id))
    assert attributes(server)["error.type"] == "BadImage"
    assert server.status.code == Status.STATUS_CODE_UNSET  # the caller's fault


def test_each_cell_of_a_call_has_stages_of_its_own(traced: Traced) -> None:
    trace_id, header = parent(0xF0)
    cells = np.zeros((2, 40, 40, 3), dtype=np.uint8)
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(cells.shape), "data": cells.ravel().tolist()}
    url = f"{traced.worker.http}/v2/models/{NAME}/infer"
    reply = httpx.post(url, headers=[header], json={"id": "pair", "inputs": [tensor]}, timeout=30, trust_env=False)
    assert reply.status_code == 200
    spans = eventually(lambda: _all_of_two(traced.collector.spans(trace_id)))
    [server] = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    assert server.name == "POST /v2/models/{model}/infer"
    assert attributes(server)["blastwatch.cells"] == 2
    by_cell = {str(attributes(span)["blastwatch.request_id"]) for span in spans if span is not server}
    assert len(by_cell) == 2
    assert all(name.startswith("pair") for name in by_cell)


def test_each_cell_of_a_stream_has_a_span_of_its_own(traced: Traced) -> None:
    trace_id, header = parent(0xF4)
    with grpc.insecure_channel(traced.worker.grpc) as channel:
        cells = [pb.Cell(image=image, request_id=f"streamed-{image[:1]!r}") for image in (png(1), b"nonsense")]
        call = BlastClassifierStub(channel).ClassifyStream(iter(cells), timeout=30, metadata=[header])
        replies = {reply.position: reply for reply in call}
        told = str(dict(call.trailing_metadata())["traceparent"])
    spans = eventually(lambda: _all_of_a_stream(traced.collector.spans(trace_id)))
    by_name = {span.name: span for span in spans if span.name != "ClassifyStreamCell"}
    server = by_name["blastwatch.v1.BlastClassifier/ClassifyStream"]
    assert told == f"00-{trace_id}-{server.span_id.hex()}-01"
    assert attributes(server)["blastwatch.cells"] == 2
    good, bad = (span for span in spans if span.name == "ClassifyStreamCell")
    if "error.type" in attributes(good):
        good, bad = bad, good
    assert attributes(good)["blastwatch.record_id"] == replies[0].prediction.record_id
    assert attributes(bad)["error.type"] == replies[1].failure.error == "BadImage"
    assert good.parent_span_id == bad.parent_span_id == server.span_id
    assert all(by_name[stage].parent_span_id == good.span_id for stage in STAGES)


def _all_of_a_stream(spans: list[Span]) -> list[Span]:
    return spans if len(spans) == 3 + len(STAGES) else []


def _all_of_two(spans: list[Span]) -> list[Span]:
    return spans if len(spans) == 1 + 2 * len(STAGES) else []


def test_a_patient_is_in_no_span(traced: Traced) -> None:
    """Every call of this module has named one."""
    trace_id, header = parent(0xF8)
    traced.call("http", header)
    eventually(lambda: traced.collector.server_spans(trace_id))
    assert not any(CANARY.encode() in body for body in traced.collector.bodies)


def test_without_a_collector_nothing_is_traced(live: Site) -> None:
    with working(live.settings()) as worker:
        reply = httpx.get(f"{worker.http}/v1/model", headers=[parent(1)[1]], trust_env=False)
    assert reply.status_code == 200
    assert "traceparent" not in reply.headers


def one_call(tracing: Tracing, code: str, error: str = "") -> None:
    tracing.begin("http", "GET /v1/model", time.monotonic(), ()).end("http", code, error, {})


def test_calls_without_a_parent_are_sampled_by_chance() -> None:
    async def calls() -> None:
        for share in (1.0, 0.0):
            tracing = Tracing(collector.url, share)
            for _ in range(10):
                one_call(tracing, "200")
            await tracing.stop()

    with collecting() as collector:
        asyncio.run(calls())
    assert len(collector.spans()) == 10


def test_what_is_the_services_fault_is_an_error() -> None:
    async def calls() -> None:
        tracing = Tracing(collector.url, 1.0)
        one_call(tracing, "404", "NotFound")
        one_call(tracing, "503", "NotReady")
        await tracing.stop()

    with collecting() as collector:
        asyncio.run(calls())
    codes = {attributes(span)["error.type"]: span.status.code for span in collector.spans()}
    assert codes == {"NotFound": Status.STATUS_CODE_UNSET, "NotReady": Status.STATUS_CODE_ERROR}


def test_a_collector_that_refuses_is_one_line_and_its_return_another(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with collecting() as collector:
        tracing = Tracing(collector.url, 1.0)
        collector.status = 400
        for refused in (1, 2):
            one_call(tracing, "200")
            eventually(lambda wanted=refused: collector.refused >= wanted)  # type: ignore[misc]
        collector.status = 200
        one_call(tracing, "200")
        asyncio.run(tracing.stop())
    assert len(collector.spans()) == 1
    said = [record.getMessage() for record in caplog.records if record.name.startswith(("service", "opentelemetry"))]
    assert said == [
        "the trace collector does not take spans: they are dropped until it does",
        "the trace collector takes spans again",
    ]


@pytest.mark.parametrize("listening", [True, False], ids=["silent", "away"])
def test_a_collector_that_does_not_answer_stops_nothing(live: Site, listening: bool) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if listening:
            held.listen()
        endpoint = f"http://127.0.0.1:{held.getsockname()[1]}/v1/traces"
        with working(live.settings(trace_endpoint=endpoint, trace_sample=1.0, drain_s=0.5)) as worker:
            found = Traced(worker, Collector(endpoint))
            assert all(int(found.call(transport).split("-")[3], 16) & 1 for transport in TRANSPORTS)
    assert live.store.count() == 2
