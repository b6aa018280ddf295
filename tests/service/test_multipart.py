"""Forms: what `curl -F` and browsers send is answered, anything else is refused with one line and nothing on disk."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.contract.errors import InvalidRequest
from service.domain import Cell
from service.fields import FIELDS
from service.http_api import FORM_BYTES
from service.multipart import cell_from_form
from tests.service.running import Site, Worker, working
from tests.support.images import png

LIMIT = 2**16
BOUNDARY = "xyz"
KIND = f"multipart/form-data; boundary={BOUNDARY}"


def part(name: str, data: bytes, *headers: str) -> bytes:
    lines = [f'Content-Disposition: form-data; name="{name}"', *headers]
    return f"--{BOUNDARY}\r\n".encode() + "\r\n".join(lines).encode() + b"\r\n\r\n" + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    site = Site(tmp_path_factory.mktemp("multipart"))
    site.promote(site.add().version)
    with working(site.settings(max_message_bytes=LIMIT)) as found:
        yield found


@pytest.fixture(scope="module")
def http(worker: Worker) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=worker.http, timeout=20, trust_env=False) as client:
        yield client


def test_a_form_is_answered_as_the_same_cell_is_elsewhere(http: httpx.Client, worker: Worker) -> None:
    fields = {"request_id": "form-1", "patient_id": "Ünal, Zoë", "site": "a", "pixel_size_um": "0.5", "test": "true"}
    answer = http.post("/v1/classify", files={"image": ("Zoë.png", png(1), "image/png")}, data=fields)
    assert answer.status_code == 200, answer.text
    plain = http.post(
        "/v1/classify", content=png(1), headers={"content-type": "image/png", "blastwatch-pixel-size-um": "0.5"}
    )
    assert answer.json()["pixelsSha256"] == plain.json()["pixelsSha256"]
    assert answer.json()["requestId"] == "form-1"


def test_every_field_of_a_cell_can_be_a_part() -> None:
    values = {name: f"{name}?" for name in FIELDS} | {"pixel_size_um": "0.25", "test": "TRUE"}
    parts = [part(name, value.encode()) for name, value in values.items()]
    found = cell_from_form(form(part("image", b"\r\n--xy\x00\xff"), *parts), KIND)
    wanted = {**values, "pixel_size_um": 0.25, "test": True}
    assert found == Cell(image=b"\r\n--xy\x00\xff", **wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (form(part("image", b"x")), "multipart/form-data", "no boundary"),
        (form(part("image", b"x")), f"multipart/form-data; boundary={'b' * 71}", "no boundary"),
        (form(part("image", b"x")), "multipart/form-data; boundary=other", "not the form"),
        (b"", KIND, "cut short"),
        (form(part("image", b"x"))[:-9], KIND, "cut short"),
        (part("image", b"x" * 100), KIND, "cut short"),
        (form(), KIND, "no part image"),
        (form(part("site", b"a")), KIND, "no part image"),
        (form(part("patent_id", b"canary")), KIND, "none of image, request_id"),
        (form(part("canary", b"")), KIND, "none of image, request_id"),
        (form(part("image", b"x"), part("image", b"y")), KIND, "image comes twice"),
        (form(part("image", b"x"), part("site", b"\xff canary")), KIND, "site is not UTF-8"),
        (form(part("image", b"x"), part("test", b"canary")), KIND, "test must be"),
        (form(part("image", b"x"), part("pixel_size_um", b"canary")), KIND, "pixel_size_um must be"),
        (form(part("image", b"eHg=", "Content-Transfer-Encoding: base64")), KIND, "is encoded"),
        (form(part("image", b"x", *(f"H{i}: v" for i in range(20)))), KIND, "not the form"),
        (form(part("image", b"x", "H: " + "v" * 5000)), KIND, "not the form"),
        (f"--{BOUNDARY}\r\n\r\ncanary\r\n--{BOUNDARY}--\r\n".encode(), KIND, "none of image"),
        (form(*[part(f"f{i}", b"") for i in range(10_000)]), KIND, "none of image"),
    ],
)
def test_any_other_form_is_refused_with_a_line_that_repeats_nothing(body: bytes, kind: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        cell_from_form(body, kind)
    assert "canary" not in str(caught.value)


def test_fields_are_in_one_place(http: httpx.Client) -> None:
    answer = http.post("/v1/classify", files={"image": png(1)}, headers={"blastwatch-site": "a"})
    assert answer.status_code == 400
    assert "parts" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 400), (LIMIT + 1, 413), (LIMIT + 2 * FORM_BYTES, 413)])
def test_the_images_bound_is_that_of_other_calls(http: httpx.Client, size: int, status: int) -> None:
    """At the bound it is looked at (and is no picture); above it is refused for its size."""
    answer = http.post("/v1/classify", files={"image": b"x" * size})
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == ("BadImage" if status == 400 else "TooLarge")


def test_nothing_is_put_on_disk(http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker runs in this process: a spooled part would be a file below its temporary folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("tempfile.SpooledTemporaryFile", None)
    monkeypatch.setattr("tempfile.TemporaryFile", None)
    large = png(1, 120)
    assert len(large) > 2**14
    assert http.post("/v1/classify", files={"image": large}).status_code == 200
    assert not list(tmp_path.iterdir())
