"""The Open Inference Protocol with Triton's own clients, as they come, against a real worker."""

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from google.protobuf.descriptor import Descriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tritonclient.grpc import service_pb2 as theirs
from tritonclient.utils import InferenceServerException

from service.contract.image import Field, load_field, pixels_sha256
from service.open_inference import SERVICE
from service.open_inference_model import INPUT, NAME, OUTPUTS
from service.proto.inference import open_inference_pb2 as ours
from tests.service.running import Site, Worker, working
from tests.support.images import encoded, png, smear

LIMIT = 2**18
LABELS = ["healthy", "L1", "L2", "L3"]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    site = Site(tmp_path_factory.mktemp("oip"))
    site.promote(site.add().version)
    with working(site.settings(max_message_bytes=LIMIT, max_queue=32)) as found:
        yield found


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker without a model."""
    with working(Site(tmp_path_factory.mktemp("empty")).settings()) as found:
        yield found


@pytest.fixture(scope="module")
def version(worker: Worker) -> str:
    return worker.engine.core().model().version


class Triton:
    """One of Triton's clients and the classes that go with it."""

    def __init__(self, kind: Any, address: str) -> None:
        self.kind = kind
        self.client = kind.InferenceServerClient(address)

    def image(self, values: np.ndarray[Any, Any], datatype: str, name: str = INPUT) -> Any:
        tensor = self.kind.InferInput(name, list(values.shape), datatype)
        tensor.set_data_from_numpy(values)
        return tensor

    def infer(self, values: np.ndarray[Any, Any], datatype: str = "BYTES", **options: Any) -> Any:
        return self.client.infer(NAME, [self.image(values, datatype)], **options)


def files(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array([png(number) for number in numbers], dtype=np.object_)


@pytest.fixture(scope="module", params=["grpc", "http"])
def triton(request: pytest.FixtureRequest, worker: Worker) -> Iterator[Triton]:
    if request.param == "grpc":
        found = Triton(tritonclient.grpc, worker.grpc)
    else:
        found = Triton(tritonclient.http, worker.http.removeprefix("http://"))
    yield found
    found.client.close()


@pytest.fixture(scope="module")
def http(worker: Worker) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=worker.http, timeout=20, trust_env=False) as client:
        yield client


def test_it_is_live_ready_and_described(triton: Triton, version: str) -> None:
    client = triton.client
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(NAME)
    assert client.is_model_ready(NAME, version)
    as_dict = {} if triton.kind is tritonclient.http else {"as_json": True}
    server = client.get_server_metadata(**as_dict)
    assert server["name"] == "blastwatch"
    assert "binary_tensor_data" in server["extensions"]
    found = client.get_model_metadata(NAME, **as_dict)
    assert (found["name"], found["versions"]) == (NAME, [version])
    # JSON of gRPC messages has 64-bit numbers as texts.
    shapes = {
        row["name"]: (row["datatype"], [int(size) for size in row["shape"]])
        for row in found["inputs"] + found["outputs"]
    }
    expected: dict[str, tuple[str, list[int]]] = {name: (datatype, [-1]) for name, datatype in OUTPUTS.items()}
    assert shapes == {**expected, "image": ("BYTES", [-1]), "probabilities": ("FP32", [-1, 4])}
    index = client.get_model_repository_index(**as_dict)
    (row,) = index if isinstance(index, list) else index["models"]
    assert (row["name"], row["version"], row["state"]) == (NAME, version, "READY")


def test_files_are_answered_in_their_order_and_on_record(triton: Triton, worker: Worker, version: str) -> None:
    parameters = {
        "patient_id": "patient 1",
        "specimen_id": "specimen",
        "site": "site-a",
        "stain": "wright",
        "scanner": "scanner",
        "pixel_size_um": 0.625,
        "test": True,
    }
    name = f"files {triton.kind.__name__}"
    found = triton.infer(files(1, 2, 3), request_id=name, parameters=parameters)
    answered = found.get_response()
    if not isinstance(answered, dict):
        answered = {"id": answered.id, "model_name": answered.model_name, "model_version": answered.model_version}
    assert (answered["id"], answered["model_name"], answered["model_version"]) == (name, NAME, version)
    assert found.as_numpy("probabilities").shape == (3, 4)
    assert found.as_numpy("probabilities").dtype == np.float32
    np.testing.assert_allclose(found.as_numpy("probabilities").sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(
        found.as_numpy("malignant_probability"), found.as_numpy("probabilities")[:, 1:].sum(axis=1), atol=1e-6
    )
    assert found.as_numpy("refer").dtype == np.bool_
    assert found.as_numpy("refer").tolist() == [False] * 3
    assert found.as_numpy("ood_score").shape == (3,)
    records = [
        worker.engine.core()._recent.by_record(identity.decode()) for identity in found.as_numpy("record_id").tolist()
    ]
    for index, record in enumerate(records):
        assert record is not None
        assert record.request_id == f"{name}:{index}"
        assert record.label.encode() == found.as_numpy("label")[index]
        assert record.label == LABELS[int(found.as_numpy("probabilities")[index].argmax())]
        assert record.pixels_sha256.encode() == found.as_numpy("pixels_sha256")[index]
        assert record.pixels_sha256 == pixels_sha256(load_field(png(index + 1), Field(32, 32), 0.625))
        assert (record.site, record.stain, record.scanner) == ("site-a", "wright", "scanner")
        assert (record.specimen_id, record.pixel_size_um, record.test) == ("specimen", 0.625, True)
        assert record.patient


def test_the_id_of_one_cell_is_its_request_id(triton: Triton, worker: Worker) -> None:
    name = f"one {triton.kind.__name__}"
    first, again = (triton.infer(files(1), request_id=name).as_numpy("record_id").tolist() for _ in range(2))
    assert first == again
    record = worker.engine.core()._recent.by_record(first[0].decode())
    assert record is not None
    assert record.request_id == name
    with pytest.raises(InferenceServerException, match="another image"):
        triton.infer(files(2), request_id=name)


@pytest.mark.parametrize("pixel_size_um", [0.0, 0.5])
def test_pixels_are_what_the_file_of_them_is(triton: Triton, pixel_size_um: float) -> None:
    pixels = np.stack([smear(4, 40), smear(5, 40)])[:, :36]
    parameters = {"pixel_size_um": pixel_size_um}
    as_pixels = triton.infer(pixels, "UINT8", parameters=parameters)
    as_files = triton.infer(np.array([encoded(one) for one in pixels], dtype=np.object_), parameters=parameters)
    assert as_pixels.as_numpy("pixels_sha256").tolist() == as_files.as_numpy("pixels_sha256").tolist()
    np.testing.assert_allclose(as_pixels.as_numpy("probabilities"), as_files.as_numpy("probabilities"), atol=1e-6)


def test_only_the_outputs_that_are_asked_for(triton: Triton) -> None:
    wanted = [triton.kind.InferRequestedOutput(name) for name in ("refer", "label")]
    found = triton.infer(files(1), outputs=wanted)
    assert found.as_numpy("refer").tolist() == [True]
    assert found.as_numpy("label").shape == (1,)
    assert found.as_numpy("probabilities") is None
    assert "labels" in str(triton.infer(files(1)).get_output("probabilities"))


def test_a_file_of_the_largest_size_passes_and_one_byte_more_does_not(triton: Triton) -> None:
    whole = png(9) + bytes(LIMIT - len(png(9)))  # what comes after the picture's end is not looked at
    assert triton.infer(np.array([whole], dtype=np.object_)).as_numpy("label").shape == (1,)
    with pytest.raises(InferenceServerException, match=f"above {LIMIT} bytes"):
        triton.infer(np.array([whole + b"x"], dtype=np.object_))


def test_many_cells_are_computed_together(triton: Triton, worker: Worker) -> None:
    found = triton.infer(files(*range(16)))
    records = [worker.engine.core()._recent.by_record(name.decode()) for name in found.as_numpy("record_id").tolist()]
    assert max(record.batch_size for record in records if record is not None) > 1


@pytest.mark.parametrize(
    ("call", "status", "says"),
    [
        (lambda t: t.client.infer("other", [t.image(files(1), "BYTES")]), "NOT_FOUND 404", "blast-classifier"),
        (lambda t: t.infer(files(1), model_version="other"), "NOT_FOUND 404", "no such version"),
        (lambda t: t.client.infer(NAME, [t.image(files(1), "BYTES", "picture")]), "INVALID_ARGUMENT 400", "image"),
        (lambda t: t.client.infer(NAME, [t.image(files(1), "BYTES")] * 2), "INVALID_ARGUMENT 400", "once"),
        (lambda t: t.infer(np.zeros((1, 32, 32, 3), np.float32), "FP32"), "INVALID_ARGUMENT 400", "UINT8"),
        (lambda t: t.infer(np.zeros((32, 32, 3), np.uint8), "UINT8"), "INVALID_ARGUMENT 400", "[n, H, W, 3]"),
        (lambda t: t.infer(np.zeros((1, 32, 32, 4), np.uint8), "UINT8"), "INVALID_ARGUMENT 400", "[n, H, W, 3]"),
        (lambda t: t.infer(np.zeros((1, 8, 32, 3), np.uint8), "UINT8"), "INVALID_ARGUMENT 400", "at least 16"),
        (lambda t: t.infer(files(1).reshape(1, 1)), "INVALID_ARGUMENT 400", "[n]"),
        (lambda t: t.infer(files(*[1] * 33)), "INVALID_ARGUMENT 400", "1 to 32"),
        (lambda t: t.infer(np.array([png(1), b"nonsense"], dtype=np.object_)), "INVALID_ARGUMENT 400", "PNG"),
        (lambda t: t.infer(files(1), parameters={"patient": "canary"}), "INVALID_ARGUMENT 400", "patient_id"),
        (lambda t: t.infer(files(1), parameters={"site": 5}), "INVALID_ARGUMENT 400", "text"),
        (lambda t: t.infer(files(1), parameters={"test": "yes"}), "INVALID_ARGUMENT 400", "boolean"),
        (lambda t: t.infer(files(1), parameters={"pixel_size_um": "canary"}), "INVALID_ARGUMENT 400", "micrometres"),
        (lambda t: t.infer(files(1), parameters={"pixel_size_um": -1}), "INVALID_ARGUMENT 400", "finite"),
        (lambda t: t.infer(files(1), timeout=1), "DEADLINE_EXCEEDED 504", "deadline"),
        (lambda t: t.infer(files(1), sequence_id=5), "INVALID_ARGUMENT 400", "unknown parameter"),
        (
            lambda t: t.infer(files(1), outputs=[t.kind.InferRequestedOutput("canary")]),
            "INVALID_ARGUMENT 400",
            "probabilities",
        ),
        (lambda t: t.client.get_model_metadata("other"), "NOT_FOUND 404", "blast-classifier"),
        (lambda t: t.client.get_model_metadata(NAME, "other"), "NOT_FOUND 404", "no such version"),
    ],
)
def test_what_makes_no_sense_is_one_line_with_its_status(
    triton: Triton, call: Callable[[Triton], Any], status: str, says: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        call(triton)
    assert caught.value.status().removeprefix("StatusCode.") in status.split()
    assert says in caught.value.message()
    assert "\n" not in caught.value.message()
    assert "canary" not in str(caught.value)


def test_a_model_by_another_name_is_not_ready(triton: Triton) -> None:
    for name, version in (("other", ""), (NAME, "other")):
        try:
            assert not triton.client.is_model_ready(name, version)
        except InferenceServerException as error:
            assert error.status() == "StatusCode.NOT_FOUND"


def test_without_a_model_it_is_live_and_not_ready(empty: Worker) -> None:
    for kind, address in ((tritonclient.grpc, empty.grpc), (tritonclient.http, empty.http.removeprefix("http://"))):
        triton = Triton(kind, address)
        assert triton.client.is_server_live()
        assert not triton.client.is_server_ready()
        assert not triton.client.is_model_ready(NAME)
        index = triton.client.get_model_repository_index()
        (row,) = index if isinstance(index, list) else index.models
        assert (row["state"] if isinstance(row, dict) else row.state) == "UNAVAILABLE"
        with pytest.raises(InferenceServerException, match="dvc repro"):
            triton.infer(files(1))
        triton.client.close()


def test_typed_contents_get_typed_answers(worker: Worker) -> None:
    pixels = smear(6)
    contents = {
        "BYTES": ours.InferTensorContents(bytes_contents=[png(6)]),
        "UINT8": ours.InferTensorContents(uint_contents=pixels.ravel().tolist()),
    }
    shapes = {"BYTES": [1], "UINT8": [1, 32, 32, 3]}
    digests = set()
    with grpc.insecure_channel(worker.grpc) as channel:
        for datatype, content in contents.items():
            tensor = ours.ModelInferRequest.InferInputTensor(
                name=INPUT, datatype=datatype, shape=shapes[datatype], contents=content
            )
            found = infer(channel, ours.ModelInferRequest(model_name=NAME, inputs=[tensor]))
            assert not found.raw_output_contents
            by_name = {output.name: output.contents for output in found.outputs}
            assert len(by_name["probabilities"].fp32_contents) == 4
            assert list(by_name["refer"].bool_contents) == [True]
            digests.add(by_name["pixels_sha256"].bytes_contents[0])
    assert digests == {pixels_sha256(pixels).encode()}


def infer(channel: grpc.Channel, message: ours.ModelInferRequest) -> ours.ModelInferResponse:
    call = channel.unary_unary(
        f"/{SERVICE.full_name}/ModelInfer", response_deserializer=ours.ModelInferResponse.FromString
    )
    reply: ours.ModelInferResponse = call(message.SerializeToString(), timeout=20)
    return reply


@pytest.mark.parametrize(
    ("contents", "raw", "datatype", "says"),
    [
        ({"bytes_contents": [b"x"]}, [b"x"], "BYTES", "raw_input_contents"),
        (None, [b"", b""], "BYTES", "raw_input_contents"),
        ({"uint_contents": [256]}, [], "UINT8", "above 255"),
        ({"int_contents": [1]}, [], "UINT8", "uint_contents"),
        (None, [b"\x05\x00"], "BYTES", "within a length"),
        (None, [b"\x05\x00\x00\x00x"], "BYTES", "shorter"),
        (None, [], "BYTES", "0 elements"),
        (None, [b"x"], "UINT8", "1 bytes"),
    ],
)
def test_contents_that_do_not_add_up_are_refused(
    worker: Worker, contents: dict[str, Any] | None, raw: list[bytes], datatype: str, says: str
) -> None:
    shape = [1] if datatype == "BYTES" else [1, 32, 32, 3]
    tensor = ours.ModelInferRequest.InferInputTensor(name=INPUT, datatype=datatype, shape=shape)
    if contents is not None:
        tensor.contents.CopyFrom(ours.InferTensorContents(**contents))
    message = ours.ModelInferRequest(model_name=NAME, inputs=[tensor], raw_input_contents=raw)
    with grpc.insecure_channel(worker.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        infer(channel, message)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert says in caught.value.details()


def body(**changes: Any) -> dict[str, Any]:
    data = [base64.b64encode(png(7)).decode()]
    return {"inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [1], "data": data, **changes}]}


def test_json_alone_will_do(http: httpx.Client) -> None:
    pixels = {"datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [smear(7).tolist()]}
    found = [
        http.post(f"/v2/models/{NAME}/infer", json={**sent, "id": f"json {index}"}).json()
        for index, sent in enumerate((body(), body(**pixels)))
    ]
    outputs = [{output["name"]: output for output in reply["outputs"]} for reply in found]
    assert [reply["id"] for reply in found] == ["json 0", "json 1"]
    for output in outputs:
        assert output["label"]["data"][0] in LABELS
        assert output["probabilities"]["shape"] == [1, 4]
        assert output["probabilities"]["parameters"] == {"labels": ",".join(LABELS)}
        assert output["refer"] == {"name": "refer", "datatype": "BOOL", "shape": [1], "data": [True]}
        assert output["pixels_sha256"]["data"] == [pixels_sha256(smear(7))]


def test_each_output_is_binary_or_not_as_asked(http: httpx.Client) -> None:
    outputs = [
        {"name": "label"},
        {"name": "probabilities", "parameters": {"binary_data": True}},
        {"name": "record_id", "parameters": {"binary_data": True}},
    ]
    response = http.post(f"/v2/models/{NAME}/infer", json={**body(), "outputs": outputs})
    length = int(response.headers["inference-header-content-length"])
    assert response.headers["content-type"] == "application/octet-stream"
    assert np.frombuffer(response.content, "<f4", 4, length).sum() == pytest.approx(1)
    assert response.content[length + 20 :].decode().isalnum()  # after 4 numbers and a length, one record id
    assert b'"data"' in response.content[:length]


@pytest.mark.parametrize(
    ("sent", "headers", "says"),
    [
        (b"{", {}, "not JSON"),
        (b"[]", {}, "object"),
        (b"[" * 5000, {}, "not JSON"),
        (b'{"inputs": [5]}', {}, "object"),
        (b'{"inputs": 5}', {}, "inputs"),
        (b'{"id": 5}', {}, "id"),
        (b"{}", {}, "one input"),
        (body(name=5), {}, "name"),
        (body(shape=["canary"]), {}, "shape"),
        (body(shape=[True]), {}, "shape"),
        (body(shape=[2]), {}, "1 elements"),
        (body(data=["canary!"]), {}, "base64"),
        (body(data="canary"), {}, "data"),
        (body(datatype="UINT8", shape=[1, 32, 32, 3], data=[[1, 2], [3]]), {}, "whole numbers"),
        (body(datatype="UINT8", shape=[1, 32, 32, 3], data=[256]), {}, "whole numbers"),
        (body(datatype="UINT8", shape=[1, 32, 32, 3], data=[2**80]), {}, "whole numbers"),
        (body(datatype="UINT8", shape=[1, 32, 32, 3], data=[0.5]), {}, "whole numbers"),
        (body(datatype="UINT8", shape=[1, 32, 32, 3], data=[1]), {}, "1 bytes"),
        (body(parameters={"binary_data_size": 10}), {}, "binary_data_size"),
        (body(parameters={"binary_data_size": -1}), {}, "binary_data_size"),
        (body(parameters={"binary_data_size": 0}), {}, "both data"),
        (body(parameters={"shared_memory_region": "canary"}), {}, "unknown parameter"),
        ({**body(), "parameters": {"binary_data_output": 1}}, {}, "binary_data_output"),
        ({**body(), "outputs": [{"name": "label"}, {"name": "label"}]}, {}, "twice"),
        (b"{}", {"inference-header-content-length": "3"}, "shorter"),
        (b"{}x", {"inference-header-content-length": "2"}, "longer"),
        (b"{}", {"inference-header-content-length": "-1"}, "number of bytes"),
    ],
)
def test_a_body_that_makes_no_sense_is_refused_and_not_repeated(
    http: httpx.Client, sent: Any, headers: dict[str, str], says: str
) -> None:
    content = {"content": sent} if isinstance(sent, bytes) else {"json": sent}
    response = http.post(f"/v2/models/{NAME}/infer", headers=headers, **content)
    assert response.status_code == 400, response.text
    assert response.json().keys() == {"error"}
    assert says in response.json()["error"]
    assert "canary" not in response.text


def test_the_index_of_what_is_ready(http: httpx.Client, empty: Worker) -> None:
    assert len(http.post("/v2/repository/index", json={"ready": True}).json()) == 1
    assert http.post("/v2/repository/index", json={"ready": 1}).status_code == 400
    response = httpx.post(f"{empty.http}/v2/repository/index", json={"ready": True}, timeout=20, trust_env=False)
    assert response.json() == []


def test_its_messages_are_the_published_ones() -> None:
    """Field by field against the client's own descriptors."""
    for method in SERVICE.methods:
        other = theirs.DESCRIPTOR.services_by_name[SERVICE.name].methods_by_name[method.name]
        assert described(method.input_type) == described(other.input_type)
        assert described(method.output_type) == described(other.output_type)
    assert SERVICE.full_name == theirs.DESCRIPTOR.services_by_name[SERVICE.name].full_name


def described(message: Descriptor) -> Any:
    """Name and fields of a message, those of the messages in it included."""
    fields = {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.containing_oneof.name if field.containing_oneof else "",
            described(field.message_type) if field.message_type else "",
        )
        for field in message.fields
    }
    return message.full_name, message.GetOptions().map_entry, fields


def test_reflection_and_health_name_it(worker: Worker) -> None:
    with grpc.insecure_channel(worker.grpc) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE.full_name),
        ]
        listed, file = stub.ServerReflectionInfo(iter(requests), timeout=20)
        health = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=SERVICE.full_name), timeout=20
        )
    assert SERVICE.full_name in {service.name for service in listed.list_services_response.service}
    assert file.file_descriptor_response.file_descriptor_proto == [SERVICE.file.serialized_pb]
    assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_the_documented_call_runs(worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "open-inference.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    exec(block.replace("127.0.0.1:50051", worker.grpc), {"image": png(8)})  # noqa: S102  (our own page)
    assert any(label in capsys.readouterr().out for label in LABELS)
