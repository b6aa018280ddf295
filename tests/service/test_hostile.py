"""Hostile input on a real server: refused in one line, and the next cell is answered."""

import io
import socket
import struct
import zlib
from collections.abc import Callable, Iterator

import grpc
import httpx
import pytest
from PIL import Image

from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.proto.blastwatch.v1.blastwatch_pb2_grpc import BlastClassifierStub
from tests.service.running import Site, Worker, working
from tests.support.images import encoded, jpeg, png, smear

PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    site = Site(tmp_path_factory.mktemp("hostile"))
    site.promote(site.add().version)
    with working(site.settings(timeout_s=5)) as found:
        yield found


@pytest.fixture(autouse=True)
def _the_next_cell_is_answered(worker: Worker) -> Iterator[None]:
    yield
    answer = httpx.post(worker.http + "/v1/classify", content=png(1), headers=PNG, trust_env=False, timeout=30)
    assert answer.status_code == 200


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def claimed(width: int, height: int, data: bytes, *chunks: bytes) -> bytes:
    """A PNG of that size by its header, with these compressed bytes in it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(data, 9)), chunk(b"IEND", b"")]
    )


def tiff_that_claims(width: int, height: int) -> bytes:
    """A small TIFF whose directory says that it is huge."""
    buffer = io.BytesIO()
    Image.fromarray(smear()).save(buffer, "TIFF")
    data = bytearray(buffer.getvalue())
    directory = struct.unpack_from("<I", data, 4)[0]
    for entry in range(struct.unpack_from("<H", data, directory)[0]):
        at = directory + 2 + 12 * entry
        tag = struct.unpack_from("<H", data, at)[0]
        if tag in (256, 257):
            struct.pack_into("<HII", data, at + 2, 4, 1, width if tag == 256 else height)
    return bytes(data)


REFUSED: dict[str, Callable[[], bytes]] = {
    "a bomb: 900 million pixels": lambda: claimed(30_000, 30_000, bytes(20_000_000)),
    "a size that overflows": lambda: claimed(2**31 - 1, 2**31 - 1, b""),
    "a TIFF that claims a size": lambda: tiff_that_claims(100_000, 100_000),
    "a compressed colour profile": lambda: claimed(
        32, 32, bytes(97 * 32), chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(50_000_000), 9))
    ),
    "a compressed comment": lambda: claimed(
        32, 32, bytes(97 * 32), chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(50_000_000), 9))
    ),
    "a page that says it is a picture": lambda: b"<html>" + png(1),
    "an archive in front of a picture": lambda: b"PK\x03\x04" + jpeg(1),
    "a script behind the first bytes": lambda: b"\x89PNG\r\n\x1a\n<script>alert(1)</script>IEND",
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", list(REFUSED))
def test_a_picture_made_to_hurt_is_refused_on_both_transports(worker: Worker, name: str) -> None:
    data = REFUSED[name]()
    response = httpx.post(worker.http + "/v1/classify", content=data, headers=PNG, trust_env=False, timeout=30)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["code"] == "BadImage"
    with grpc.insecure_channel(worker.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        BlastClassifierStub(channel).Classify(pb.Cell(image=data), timeout=30)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encoded(smear(1), "JPEG", exif=b"Exif\0\0" + b"\xff" * 200), id="exif-noise"),
        pytest.param(encoded(smear(1), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), id="exif-offset"),
        pytest.param(encoded(smear(1), "JPEG", icc_profile=b"\xff" * 5000), id="icc-noise"),
        pytest.param(encoded(smear(1), "PNG", icc_profile=b"\xff" * 5000), id="icc-noise-png"),
        pytest.param(jpeg(1) + b"PK\x03\x04" + b"<script>" * 100, id="something-behind-it"),
    ],
)
def test_damaged_metadata_is_refused_or_left_aside_and_its_pixels_are_the_answer(worker: Worker, data: bytes) -> None:
    """Metadata decides nothing but the way up: a picture is answered as it would be without, or refused."""
    kind = {"content-type": "image/png" if data.startswith(b"\x89") else "image/jpeg"}
    response = httpx.post(worker.http + "/v1/classify", content=data, headers=kind, trust_env=False, timeout=30)
    if response.status_code == 400:
        assert response.json()["error"]["code"] == "BadImage"
        return
    plain = png(1) if data.startswith(b"\x89") else jpeg(1, quality=75)
    again = httpx.post(worker.http + "/v1/classify", content=plain, headers=kind, trust_env=False, timeout=30)
    assert response.status_code == again.status_code == 200
    if b"<script>" not in data:
        assert response.json()["pixelsSha256"] == again.json()["pixelsSha256"]


def test_a_flood_of_headers_is_refused(worker: Worker) -> None:
    with socket.create_connection(("127.0.0.1", worker.settings.http_port), timeout=20) as raw:
        raw.sendall(b"POST /v1/classify HTTP/1.1\r\nhost: x\r\n")
        try:
            for number in range(20_000):
                raw.sendall(b"x-%d: " % number + b"x" * 100 + b"\r\n")
            raw.sendall(b"\r\n")
            answer = raw.recv(100)
        except OSError:
            answer = b""  # it hung up in the middle of the flood
    assert not answer.startswith(b"HTTP/1.1 2")


def test_a_flood_of_metadata_is_refused(worker: Worker) -> None:
    metadata = [(f"x-{number}", "x" * 100) for number in range(2000)]
    with grpc.insecure_channel(worker.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        BlastClassifierStub(channel).Classify(pb.Cell(image=png(1)), metadata=metadata, timeout=20)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_crowd_of_slow_senders_does_not_keep_others_waiting(worker: Worker) -> None:
    head = b"POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 100\r\n\r\na"
    slow = [socket.create_connection(("127.0.0.1", worker.settings.http_port), timeout=30) for _ in range(100)]
    try:
        for sender in slow:
            sender.sendall(head)
        answer = httpx.post(worker.http + "/v1/classify", content=png(1), headers=PNG, trust_env=False, timeout=30)
        assert answer.status_code == 200
        assert {sender.recv(12) for sender in slow} == {b"HTTP/1.1 504"}
    finally:
        for sender in slow:
            sender.close()
