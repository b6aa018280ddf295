"""gzip on both transports: what is packed is answered like what is not, and a bomb is refused before it is unpacked."""

import gzip
import zlib
from collections.abc import Callable, Iterator

import grpc
import httpx
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc
import tritonclient.http

from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from tests.service.running import Site, Worker, working
from tests.support.images import encoded, png, smear

LIMIT = 64 * 2**10


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    site = Site(tmp_path_factory.mktemp("site"))
    site.promote(site.add().version)
    with working(site.settings(max_message_bytes=LIMIT)) as running:
        yield running


def post(worker: Worker, body: bytes, encoding: str = "") -> httpx.Response:
    headers = {"content-type": "image/png"} | ({"content-encoding": encoding} if encoding else {})
    return httpx.post(f"{worker.http}/v1/classify", content=body, headers=headers, trust_env=False)


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("GZIP", gzip.compress)]
)
def test_a_packed_body_is_answered_like_the_plain_one(
    worker: Worker, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    plain, packed = post(worker, png(1)), post(worker, pack(png(1)), encoding)
    assert plain.status_code == packed.status_code == 200
    assert packed.json()["imageSha256"] == plain.json()["imageSha256"]


@pytest.mark.parametrize(
    ("body", "encoding", "status", "says"),
    [
        (png(1), "gzip", 400, "the body is not gzip"),
        (gzip.compress(png(1))[:-9], "gzip", 400, "cut short"),
        (gzip.compress(png(1)) + b"more", "gzip", 400, "something follows"),
        (gzip.compress(bytes(LIMIT + 1)), "gzip", 413, "the unpacked body is above"),
        (gzip.compress(bytes(2**30), 9)[:LIMIT], "gzip", 413, "the unpacked body is above"),
        (b"", "gzip", 400, "cut short"),
        (png(1), "br", 400, "Content-Encoding must be one of gzip, deflate"),
        (gzip.compress(gzip.compress(png(1))), "gzip, gzip", 400, "Content-Encoding must be one of"),
    ],
    ids=["not packed", "cut", "more", "one byte too large", "bomb", "empty", "brotli", "twice"],
)
def test_what_cannot_be_unpacked_is_one_line(
    worker: Worker, body: bytes, encoding: str, status: int, says: str
) -> None:
    response = post(worker, body, encoding)
    assert response.status_code == status
    assert says in response.json()["error"]["message"]


def test_a_file_of_exactly_the_limit_passes_and_one_byte_more_does_not(worker: Worker) -> None:
    picture = encoded(smear(2), "BMP")
    # What follows a BMP's pixels is not looked at.
    fits, not_quite = picture.ljust(LIMIT, b"\0"), picture.ljust(LIMIT + 1, b"\0")
    url = f"{worker.http}/v1/classify"
    for body, pack, status in ((fits, False, 200), (fits, True, 200), (not_quite, False, 413), (not_quite, True, 413)):
        headers = {"content-type": "image/bmp"} | ({"content-encoding": "gzip"} if pack else {})
        sent = gzip.compress(body) if pack else body
        assert httpx.post(url, content=sent, headers=headers, trust_env=False).status_code == status
    with grpc.insecure_channel(worker.grpc) as channel:
        call = channel.unary_unary(
            "/blastwatch.v1.BlastClassifier/Classify", response_deserializer=pb.Prediction.FromString
        )
        for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            assert call(pb.Cell(image=fits).SerializeToString(), timeout=20, compression=compression).record_id
            with pytest.raises(grpc.RpcError) as caught:
                call(pb.Cell(image=not_quite).SerializeToString(), timeout=20, compression=compression)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        # Far beyond it the transport itself refuses, packed or not.
        with pytest.raises(grpc.RpcError) as caught:
            call(pb.Cell(image=bytes(2**26)).SerializeToString(), timeout=20, compression=grpc.Compression.Gzip)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_long_answers_are_packed_for_those_who_ask(worker: Worker) -> None:
    for asked, packed in (("gzip", True), ("identity", False)):
        response = httpx.get(f"{worker.http}/metrics", headers={"accept-encoding": asked}, trust_env=False)
        assert (response.headers.get("content-encoding") == "gzip") == packed
        assert "blastwatch_answers_total" in response.text


def test_tritons_clients_pack_too(worker: Worker) -> None:
    over_grpc = tritonclient.grpc.InferenceServerClient(worker.grpc)
    tensor = tritonclient.grpc.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(_texts(png(3)))
    assert over_grpc.infer("blast-classifier", [tensor], compression_algorithm="gzip").as_numpy("label").shape == (1,)
    over_grpc.close()
    over_http = tritonclient.http.InferenceServerClient(worker.http.removeprefix("http://"))
    tensor = tritonclient.http.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(_texts(png(3)))
    found = over_http.infer(
        "blast-classifier", [tensor], request_compression_algorithm="gzip", response_compression_algorithm="gzip"
    )
    assert found.as_numpy("label").shape == (1,)
    over_http.close()


def _texts(*values: bytes) -> npt.NDArray[np.object_]:
    return np.array(values, dtype=np.object_)
