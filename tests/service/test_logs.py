"""The log: every line whole, about the right call, and not to be forged."""

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import pytest

from service.client import Client
from service.contract.errors import BadImage
from service.door import access
from service.logs import THEIRS, JsonFormatter, TextFormatter, announce, as_json, configure
from service.open_inference_model import NAME
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.proto.blastwatch.v1.blastwatch_pb2_grpc import BlastClassifierStub
from service.settings import load_settings
from tests.service.running import Site, eventually, working
from tests.support.images import png

FORGED = "one\n2026-01-01T00:00:00.000000Z ERROR   service: two\u2028three\x1b[2J"


def record(message: str, *arguments: object, error: Exception | None = None) -> logging.LogRecord:
    trouble = (type(error), error, error.__traceback__) if error is not None else None
    found = logging.LogRecord("service.test", logging.ERROR, __file__, 1, message, arguments, trouble)
    found.created = 1767225600.25
    return found


def raised(text: str) -> Exception:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """`configure` is for a process of its own."""
    names = ("", "service", "service.access", *THEIRS)
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in map(logging.getLogger, names)]
    yield
    logging.captureWarnings(False)
    for logger, handlers, level, propagate in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


def test_json_is_one_line_with_time_level_logger_and_message() -> None:
    line = JsonFormatter().format(record("it is %s", FORGED, error=raised(FORGED)))
    assert line.isascii()
    assert len(line.splitlines()) == 1
    found = json.loads(line)
    assert found["time"] == "2026-01-01T00:00:00.250000Z"
    assert (found["level"], found["logger"], found["message"]) == ("error", "service.test", f"it is {FORGED}")
    assert found["exception"].startswith("Traceback")
    assert found["exception"].endswith(f"ValueError: {FORGED}")


def test_text_cannot_be_forged_and_a_traceback_is_indented() -> None:
    first, *below = TextFormatter().format(record("it is %s", FORGED, error=raised(FORGED))).splitlines()
    assert first.startswith("2026-01-01T00:00:00.250000Z ERROR   service.test: it is one\\n2026-")
    assert first.endswith("two\\u2028three\\x1b[2J")
    assert len(below) > 3
    assert all(line.startswith("    ") for line in below)


@pytest.mark.usefixtures("logging_restored")
def test_every_logger_of_the_process_ends_up_in_one_format(capsys: pytest.CaptureFixture[str]) -> None:
    for name in THEIRS:
        logging.getLogger(name).addHandler(logging.StreamHandler(sys.stdout))
    configure(load_settings(log_format="json"))
    for name in (*THEIRS, "service.core", "another.library"):
        logging.getLogger(name).error("from %s", name)
    warnings.warn("a warning of Python's", stacklevel=1)
    logging.getLogger("another.library").info("too little to say")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["logger"] for line in lines] == [*THEIRS, "service.core", "another.library", "py.warnings"]
    assert "a warning of Python's" in lines[-1]["message"]


@pytest.mark.usefixtures("logging_restored")
@pytest.mark.parametrize(
    ("settings", "there"),
    [
        ({"log_format": "json"}, True),
        ({"log_format": "json", "log_level": "error"}, True),
        ({"log_format": "json", "log_access": False}, False),
        ({"log_format": "text"}, False),
    ],
)
def test_lines_of_calls_are_for_machines_and_can_be_turned_off(settings: dict[str, object], there: bool) -> None:
    configure(load_settings(**settings))
    assert access.isEnabledFor(logging.INFO) == there


def test_outside_a_terminal_it_is_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert as_json(load_settings())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert not as_json(load_settings())
    assert as_json(load_settings(log_format="json"))
    announce(load_settings(), "it starts")
    announce(load_settings(), "look out", warning=True)
    assert capsys.readouterr() == ("it starts\n", "warning: look out\n")


@pytest.mark.usefixtures("logging_restored")
def test_each_call_has_a_line_of_its_own(live: Site, capsys: pytest.CaptureFixture[str]) -> None:
    settings = live.settings(log_format="json")
    configure(settings)
    written: list[dict[str, Any]] = []

    def lines(**wanted: object) -> list[dict[str, Any]]:
        written.extend(json.loads(line) for line in capsys.readouterr().out.splitlines())
        return [line for line in written if wanted.items() <= line.items()]

    with working(settings) as worker:
        with Client(worker.grpc) as client, ThreadPoolExecutor(8) as pool:
            names = [f"cell-{number}" for number in range(24)]
            answers = list(pool.map(lambda name: client.classify(png(int(name[5:])), request_id=name), names))
            with grpc.insecure_channel(worker.grpc) as channel:
                streamed = [pb.Cell(image=png(number), request_id=f"streamed-{number}") for number in range(3)]
                replies = list(BlastClassifierStub(channel).ClassifyStream(iter(streamed), timeout=30))
            with pytest.raises(BadImage):
                client.classify(b"nonsense", request_id="not a picture")
        tensor = {"name": "image", "datatype": "UINT8", "shape": [2, 40, 40, 3], "data": [0] * 9600}
        url = f"{worker.http}/v2/models/{NAME}/infer"
        httpx.post(url, json={"id": "pair", "inputs": [tensor]}, timeout=30, trust_env=False).raise_for_status()
        eventually(lambda: lines(method="ModelInfer", status="200"))
    for name, answer in zip(names, answers, strict=True):
        [line] = lines(request_id=name)
        assert line["record_id"] == answer.record_id
        assert (line["method"], line["status"], line["client"], line["level"]) == ("Classify", "OK", "local", "info")
        assert line["seconds"] > 0
    for reply in replies:
        [line] = lines(request_id=reply.request_id)
        assert (line["method"], line["record_id"]) == ("ClassifyStreamCell", reply.prediction.record_id)
    [stream] = lines(method="ClassifyStream")
    assert stream["cells"] == 3
    assert "request_id" not in stream
    [bad] = lines(request_id="not a picture")
    assert (bad["status"], bad["error"]) == ("INVALID_ARGUMENT", "BadImage")
    assert "record_id" not in bad
    [call] = lines(method="ModelInfer", status="200")
    assert call["cells"] == 2
    assert "request_id" not in call
    cells = [line for line in lines(method="ModelInfer") if line is not call]
    stored = {found.record.request_id: found.record.record_id for found in live.store.predictions()}
    assert len(cells) == 2
    assert all(stored[line["request_id"]] == line["record_id"] for line in cells)
