"""One request followed as docs/operations.md says: client, log, trace, record, the answer once more."""

import contextlib
import json
import os
import shlex
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.proto.blastwatch.v1.blastwatch_pb2_grpc import BlastClassifierStub
from tests.service.process import ROOT, Service, service
from tests.service.running import Site, eventually
from tests.support.collector import Collector, attributes, collecting
from tests.support.images import png

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("bento")]

CANARY = "CANARY-PATIENT-4711"
CALLER = "00f067aa0ba902b7"
EXAMPLE = "lis-4711"


def commands(**values: str) -> list[list[str]]:
    """The commands of the section, word by word, about another request than the one they name."""
    section = (ROOT / "docs/operations.md").read_text().partition("## Following one request\n")[2]
    block = section.partition("```sh\n")[2].partition("```")[0]
    for name, value in values.items():
        block = block.replace(name, value)
    return [shlex.split(line, comments=True) for line in block.splitlines()]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture(scope="module")
def running(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    site = Site(tmp_path_factory.mktemp("following"))
    site.promote(site.add().version)
    with service(site, workers="2", image_retention="all", trace_endpoint=collector.url) as found:
        found.wait()
        yield found


def lines(running: Service, **wanted: object) -> list[dict[str, Any]]:
    """Lines of the log with these values; every line is an object."""
    return [line for line in map(json.loads, running.log.splitlines()) if wanted.items() <= line.items()]


def send(running: Service, transport: str, request_id: str, traceparent: str) -> str:
    """The `traceparent` of the reply."""
    if transport == "http":
        headers = {"content-type": "image/png", "traceparent": traceparent, "blastwatch-patient-id": CANARY}
        headers["blastwatch-request-id"] = request_id
        reply = httpx.post(f"{running.http}/v1/classify", headers=headers, content=png(1), timeout=30, trust_env=False)
        return str(reply.raise_for_status().headers["traceparent"])
    with grpc.insecure_channel(running.grpc) as channel:
        cell = pb.Cell(image=png(1), request_id=request_id, patient_id=CANARY)
        metadata = (("traceparent", traceparent),)
        _, call = BlastClassifierStub(channel).Classify.with_call(cell, timeout=30, metadata=metadata)
        return str(dict(call.trailing_metadata())["traceparent"])


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_from_the_client_to_the_record(running: Service, collector: Collector, transport: str) -> None:
    request_id, trace_id = f"lis-{transport}", transport.encode().hex().zfill(32)
    replied = send(running, transport, request_id, f"00-{trace_id}-{CALLER}-01")
    eventually(lambda: lines(running, request_id=request_id))
    root = running.site.root
    # The log, by the client's own name for the request: one line, of whichever worker.
    grep, sql, _ = commands(**{EXAMPLE: request_id})
    line = json.loads(subprocess.run(grep, cwd=root, capture_output=True, text=True, check=True).stdout)
    assert line["trace_id"] == trace_id
    assert f"00-{trace_id}-{line['span_id']}-01" == replied
    # The trace, by its id; one span of a server, ours, and five stages.
    eventually(lambda: len(collector.spans(trace_id)) == 6)
    [server] = collector.server_spans(trace_id)
    assert server.span_id.hex() == line["span_id"]
    assert server.parent_span_id.hex() == CALLER
    assert attributes(server)["blastwatch.record_id"] == line["record_id"]
    # The record, by client and request id.
    assert sql[0] == "sqlite3"
    with contextlib.closing(sqlite3.connect(root / "db/store.db")) as store:
        [(record_id, moment, version, label, _)] = eventually(lambda: store.execute(sql[2]).fetchall())
    assert record_id == line["record_id"]
    # The answer once more.
    _, _, replay = commands(RECORD=record_id)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("BLASTWATCH_", "BENTOML_"))}
    environ |= {"BLASTWATCH_STORE_URL": running.site.url, "BLASTWATCH_MODELS_DIR": str(root / "models")}
    environ |= {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    again = subprocess.run(replay, cwd=root, env=environ, capture_output=True, text=True, check=True).stdout
    assert again.startswith(f"record {record_id} of {moment}, model {version}")
    assert ["label", label, label] in [shown.split() for shown in again.splitlines()]
    assert "the same, bit for bit" in again
    assert CANARY not in running.log
    assert not any(CANARY.encode() in body for body in collector.bodies)


def test_every_process_of_the_service_writes_objects(running: Service) -> None:
    # BentoML's own and two workers, of which one may still be starting.
    eventually(lambda: len({line["process"] for line in lines(running)}) == 3)
    with socket.create_connection(("127.0.0.1", int(running.http.rpartition(":")[2]))) as caller:
        caller.sendall(b"no HTTP\r\n\r\n")
        caller.recv(1024)
    eventually(lambda: lines(running, logger="uvicorn.error"))
    found = lines(running)
    assert len(lines(running, logger="uvicorn.error")) == 1
    loggers = {line["logger"] for line in found}
    assert {"service", "service.registry", "bentoml.serve"} <= loggers
    assert all({"time", "level", "logger", "process", "message"} <= line.keys() for line in found)
