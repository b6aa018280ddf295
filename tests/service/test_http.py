"""HTTP against the real routes on a real server: the same outcomes, as JSON."""

import io
import re
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from PIL import Image

from service.contract.errors import Overloaded
from service.http_api import INTERNAL_TEXT
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.proto.blastwatch.v1.blastwatch_pb2_grpc import BlastClassifierStub
from tests.service.running import Site, Worker, working
from tests.support.images import bmp, encoded, jpeg, png, smear, tiff

PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    site = Site(tmp_path_factory.mktemp("http"))
    site.promote(site.add().version)
    with working(site.settings(max_message_bytes=2**20)) as found:
        yield found


@pytest.fixture(scope="module")
def http(worker: Worker) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=worker.http, timeout=20, trust_env=False) as client:
        yield client


def classify(http: httpx.Client, content: Any, **headers: Any) -> httpx.Response:
    return http.post("/v1/classify", content=content, headers={**PNG, **headers})


def test_a_picture_on_its_side_is_the_upright_one(http: httpx.Client) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(np.rot90(smear(4)), exif=exif)
    assert classify(http, turned).json()["pixelsSha256"] == classify(http, png(4)).json()["pixelsSha256"]


def test_a_picture_in_print_colours_is_refused(http: httpx.Client) -> None:
    buffer = io.BytesIO()
    Image.fromarray(smear()).convert("CMYK").save(buffer, "JPEG")
    answer = http.post("/v1/classify", content=buffer.getvalue(), headers={"content-type": "image/jpeg"})
    assert "CMYK" in problem(answer, 400, "BadImage")


def problem(response: httpx.Response, status: int, code: str) -> str:
    assert response.status_code == status, response.text
    found = response.json()
    assert found.keys() == {"error"}
    assert found["error"].keys() == {"code", "message"}
    assert found["error"]["code"] == code
    return str(found["error"]["message"])


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (png(1), "image/png"),
        (jpeg(1), "image/jpeg; q=1"),
        (tiff(1), "IMAGE/TIFF"),
        (bmp(1), "image/bmp"),
    ],
)
def test_every_kind_of_image_is_answered(http: httpx.Client, data: bytes, kind: str) -> None:
    found = http.post("/v1/classify", content=data, headers={"content-type": kind}).json()
    assert found["label"] in found["probabilities"]
    assert found["refer"] is True
    assert found["referReasons"] == ["unknown_scale"]


def test_headers_are_the_cells_fields(http: httpx.Client, worker: Worker) -> None:
    response = http.post(
        "/v1/classify",
        content=png(2),
        headers=[
            (b"content-type", b"image/png"),
            (b"Blastwatch-Request-Id", b"r2"),
            (b"Blastwatch-Patient-Id", b"patient 2"),
            (b"Blastwatch-Specimen-Id", b"specimen"),
            (b"Blastwatch-Site", "Universitätsklinik".encode()),
            (b"Blastwatch-Stain", b"wright"),
            (b"Blastwatch-Scanner", b"scanner"),
            (b"Blastwatch-Pixel-Size-Um", b"0.625"),
            (b"Blastwatch-Test", b"true"),
        ],
    )
    assert response.status_code == 200, response.text
    record = worker.engine.core()._recent.by_record(response.json()["recordId"])
    assert record is not None
    assert (record.request_id, record.specimen_id, record.site) == ("r2", "specimen", "Universitätsklinik")
    assert (record.stain, record.scanner, record.pixel_size_um, record.test) == ("wright", "scanner", 0.625, True)
    assert record.patient
    assert record.transport == "http"
    assert response.json()["refer"] is False


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"Blastwatch-Patent-Id": "canary"}, "unknown Blastwatch-"),
        ({"Blastwatch-Image": "canary"}, "unknown Blastwatch-"),
        ({"Blastwatch-Pixel-Size-Um": "canary"}, "number of micrometres"),
        ({"Blastwatch-Pixel-Size-Um": "nan"}, "finite"),
        ({"Blastwatch-Pixel-Size-Um": "-1"}, "finite|µm|0 when"),
        ({"Blastwatch-Test": "canary"}, "true or false"),
        ({"Blastwatch-Patient-Id": "canary" * 99}, "patient_id has 594"),
        ({"Blastwatch-Patient-Id": b"\xff\xfe canary"}, "not UTF-8"),
        ({"content-type": "text/html; canary"}, "Content-Type"),
        ({"content-type": "application/x-www-form-urlencoded"}, "Content-Type"),
        ({"content-type": ""}, "Content-Type"),
    ],
)
def test_headers_that_make_no_sense_are_refused_and_not_repeated(
    http: httpx.Client, headers: dict[str, Any], says: str
) -> None:
    response = classify(http, png(1), **headers)
    message = problem(response, 400, "InvalidRequest")
    assert re.search(says, message)
    assert "canary" not in response.text


def test_a_header_that_comes_twice_is_refused(http: httpx.Client) -> None:
    twice = [("content-type", "image/png"), ("Blastwatch-Site", "a"), ("Blastwatch-Site", "b")]
    assert "twice" in problem(http.post("/v1/classify", content=png(1), headers=twice), 400, "InvalidRequest")


def test_nothing_is_taken_from_the_address(http: httpx.Client) -> None:
    response = http.post("/v1/classify?patient_id=canary", content=png(1), headers=PNG)
    assert "headers" in problem(response, 400, "InvalidRequest")
    assert "canary" not in response.text


def test_no_image_is_refused(http: httpx.Client) -> None:
    assert "empty" in problem(classify(http, b""), 400, "InvalidRequest")
    assert "PNG" in problem(classify(http, b"nonsense"), 400, "BadImage")


def test_another_image_under_the_same_request_is_a_conflict(http: httpx.Client) -> None:
    headers = {"Blastwatch-Request-Id": "conflict"}
    assert classify(http, png(1), **headers).json() == classify(http, png(1), **headers).json()
    problem(classify(http, png(2), **headers), 409, "Conflict")


def test_a_body_that_says_it_is_too_large_is_not_read(http: httpx.Client) -> None:
    response = classify(http, bytes(2**20 + 1))
    problem(response, 413, "TooLarge")
    assert response.headers["connection"] == "close"


def test_a_body_that_turns_out_too_large_is_refused_while_it_comes(worker: Worker) -> None:
    """Sent by hand: the answer must be there while the body still has no end."""
    with socket.create_connection(("127.0.0.1", worker.settings.http_port), timeout=20) as raw:
        raw.sendall(
            b"POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        chunk = b"40000\r\n" + bytes(0x40000) + b"\r\n"
        for _ in range(5):  # 1.25 MiB, and no last chunk
            raw.sendall(chunk)
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


def test_a_body_that_does_not_come_is_given_up(live: Site) -> None:
    with (
        working(live.settings(timeout_s=0.2)) as worker,
        socket.create_connection(("127.0.0.1", worker.settings.http_port), timeout=20) as raw,
    ):
        raw.sendall(
            b"POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 100\r\n\r\nabc"
        )
        assert raw.recv(100).startswith(b"HTTP/1.1 504")


def test_a_review_is_taken(http: httpx.Client) -> None:
    record = classify(http, png(3)).json()["recordId"]
    body = {"recordId": record, "label": "L3", "role": "haematologist", "sampled": True}
    found = http.post("/v1/reviews", json=body).json()
    assert found["recordId"] == record
    assert found["countsForTraining"] is False
    assert "not kept" in found["note"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "InvalidRequest"),
        (b"[]", 400, "InvalidRequest"),
        (b'{"recordId": "x", "patient": "canary"}', 400, "InvalidRequest"),
        (b'{"recordId": "x", "label": "L1"}', 400, "InvalidRequest"),
        (b'{"recordId": "x", "label": "L1", "role": "h"}', 404, "NotFound"),
        (b'{"recordId": "' + b"x" * 70_000 + b'"}', 413, "TooLarge"),
    ],
)
def test_a_review_that_makes_no_sense_is_refused(http: httpx.Client, body: bytes, status: int, code: str) -> None:
    response = http.post("/v1/reviews", content=body, headers={"content-type": "application/json"})
    problem(response, status, code)
    assert "canary" not in response.text


def test_a_review_is_json(http: httpx.Client) -> None:
    response = http.post("/v1/reviews", content=b"{}", headers={"content-type": "text/plain"})
    assert "application/json" in problem(response, 400, "InvalidRequest")


def test_the_model_is_described(http: httpx.Client) -> None:
    found = http.get("/v1/model").json()
    assert found["labels"] == ["healthy", "L1", "L2", "L3"]
    assert found["thresholds"].keys() == {"abstain", "ood"}


def test_without_a_model_it_says_so_and_when_to_come_back(site: Site) -> None:
    with working(site.settings()) as worker, httpx.Client(base_url=worker.http, trust_env=False, timeout=20) as http:
        response = classify(http, png(1))
        assert "dvc repro" in problem(response, 503, "NotReady")
        assert response.headers["retry-after"] == "1"
        problem(http.get("/v1/model"), 503, "NotReady")
        assert http.get("/metrics").status_code == 200


def test_a_fault_of_ours_is_a_constant_text_and_a_traceback_in_the_log(
    worker: Worker, http: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr(worker.engine.core(), "classify", broken)
    response = classify(http, png(1))
    assert problem(response, 500, "Internal") == INTERNAL_TEXT
    assert "a secret of ours" not in response.text
    assert "a secret of ours" in caplog.text


def test_overload_says_when_to_come_back(worker: Worker, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def busy(*_: object, **__: object) -> None:
        raise Overloaded(retry_after_s=2.5)

    monkeypatch.setattr(worker.engine.core(), "classify", busy)
    response = classify(http, png(1))
    problem(response, 503, "Overloaded")
    assert response.headers["retry-after"] == "3"


def test_a_full_journal_refuses_on_both_transports(live: Site) -> None:
    with (
        working(live.settings(journal_max_bytes=2**16)) as worker,
        httpx.Client(base_url=worker.http, timeout=20, trust_env=False) as http,
        grpc.insecure_channel(worker.grpc) as channel,
    ):
        live.take_store_away()
        answered = 0
        while (response := classify(http, png(answered))).status_code == 200:
            answered += 1
            assert answered < 1000
        problem(response, 503, "Overloaded")
        assert int(response.headers["retry-after"]) >= 1
        with pytest.raises(grpc.RpcError) as caught:
            BlastClassifierStub(channel).Classify(pb.Cell(image=png(1)), timeout=20)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        live.bring_store_back()
    assert live.store.count() == answered > 10


def test_another_method_is_not_allowed(http: httpx.Client) -> None:
    problem(http.get("/v1/classify"), 405, "MethodNotAllowed")


def test_metrics_are_prometheus_text(http: httpx.Client) -> None:
    classify(http, png(1), **{"Blastwatch-Site": "made up by a caller"})
    response = http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'blastwatch_requests_total{code="200",method="Classify",transport="http"}' in response.text
    assert "made up by a caller" not in response.text
