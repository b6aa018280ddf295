"""JSON of the Open Inference Protocol, with its binary tensor data, to its values and back.

An element of BYTES in JSON is text: the base64 of the file. With `binary_data_size` among an input's parameters its raw
form follows the JSON instead, input after input. An output is binary where its parameter `binary_data` says so, or for
want of one the request's `binary_data_output`.
"""

import base64
import binascii
import json
from collections.abc import Collection, Mapping
from typing import NamedTuple, TypeVar

import numpy as np

from service.contract.errors import InvalidRequest
from service.open_inference_tensors import InferReply, InferRequest, Input, Output, Parameters, tensor_of

T = TypeVar("T")

BINARY_OUTPUT = "binary_data_output"
KINDS: dict[type, str] = {str: "text", list: "list", dict: "object", bool: "boolean"}


class Asked(NamedTuple):
    """A request, and the outputs that it wants in binary."""

    request: InferRequest
    binary: Collection[str]


def asked_from_body(body: bytes, header_length: int | None, *, model: str, version: str) -> Asked:
    """The request in a body whose first `header_length` bytes (None: all) are JSON. Raises InvalidRequest."""
    length = len(body) if header_length is None else header_length
    if length > len(body):
        raise InvalidRequest("the body is shorter than Inference-Header-Content-Length says: send all of it")
    document = object_from_json(body[:length])
    parameters = dict(_parameters(document))
    binary_output = _get(parameters, BINARY_OUTPUT, bool, False)
    parameters.pop(BINARY_OUTPUT, None)
    position = length
    inputs = []
    for item in _get(document, "inputs", list, []):
        tensor, position = _input(_object(item, "an input"), body, position)
        inputs.append(tensor)
    if position != len(body):
        raise InvalidRequest("the body is longer than its inputs' binary_data_size say: send what belongs to them")
    outputs: dict[str, bool] = {}
    for item in _get(document, "outputs", list, []):
        output = _object(item, "an output")
        name = _get(output, "name", str)
        if name in outputs:
            raise InvalidRequest("an output is asked for twice: name each once")
        outputs[name] = _get(_parameters(output), "binary_data", bool, binary_output)
    request = InferRequest(model, version, _get(document, "id", str, ""), parameters, tuple(inputs), tuple(outputs))
    return Asked(request, _Everything() if binary_output and not outputs else {n for n, b in outputs.items() if b})


def reply_to_body(reply: InferReply, binary: Collection[str]) -> tuple[bytes, int | None]:
    """A reply as a body, and how much of it is JSON: None when all of it is."""
    outputs = []
    raws = []
    for output in reply.outputs:
        item: dict[str, object] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
        parameters: dict[str, object] = dict(output.parameters)
        if output.name in binary:
            raws.append(output.raw())
            parameters["binary_data_size"] = len(raws[-1])
        else:
            item["data"] = _flat(output)
        outputs.append({**item, "parameters": parameters} if parameters else item)
    document = {"model_name": reply.model, "model_version": reply.version, "id": reply.id, "outputs": outputs}
    text = json.dumps(document, ensure_ascii=False).encode()
    return b"".join([text, *raws]), len(text) if raws else None


def object_from_json(text: bytes) -> Mapping[str, object]:
    """Raises InvalidRequest when it is not a JSON object; repeats no value."""
    try:
        return _object(json.loads(text), "the body")
    except (ValueError, RecursionError):
        raise InvalidRequest("the body is not JSON: send an object with inputs") from None


class _Everything(frozenset[str]):
    """Has every name in it."""

    def __contains__(self, _: object) -> bool:
        return True


def _input(item: Mapping[str, object], body: bytes, position: int) -> tuple[Input, int]:
    """An input, and where in the body the next one's binary data begins."""
    name, datatype = _get(item, "name", str), _get(item, "datatype", str)
    sizes = _get(item, "shape", list)
    if any(type(size) is not int for size in sizes):
        raise InvalidRequest("the shape of an input is a list of whole numbers")
    shape = tuple(sizes)
    parameters = _parameters(item)
    if set(parameters) - {"binary_data_size"}:
        raise InvalidRequest("an input has an unknown parameter: the known one is binary_data_size")
    if not parameters:
        return Input(name, datatype, shape, _typed(datatype, _get(item, "data", list))), position
    size = parameters["binary_data_size"]
    if type(size) is not int or size < 0 or position + size > len(body):
        raise InvalidRequest("an input's binary_data_size is more than the body has left, or no whole number")
    if "data" in item:
        raise InvalidRequest("an input has both data and binary_data_size: send one of them")
    return tensor_of(name, datatype, shape, body[position : position + size]), position + size


def _typed(datatype: str, data: list[object]) -> list[bytes] | bytes:
    if datatype != "BYTES":
        return _numbers(data)
    try:
        return [base64.b64decode(str(value), validate=True) for value in data]
    except (binascii.Error, ValueError):
        raise InvalidRequest("an element of BYTES is not base64: send files as base64, or as binary data") from None


def _numbers(data: list[object]) -> bytes:
    """Flat or nested, in row-major order. An empty list has no elements."""
    try:
        found = np.array(data) if data else np.empty(0, dtype=np.int64)
    except (ValueError, OverflowError):
        found = np.empty(0, dtype=object)
    if found.dtype.kind != "i" or (found.size and (found.min() < 0 or found.max() > 255)):
        raise InvalidRequest("the data of an input that is not BYTES are whole numbers from 0 to 255")
    return found.astype(np.uint8).tobytes()


def _flat(output: Output) -> list[object]:
    return list(output.values.ravel().tolist() if isinstance(output.values, np.ndarray) else output.values)


def _parameters(item: Mapping[str, object]) -> Parameters:
    found: Parameters = _get(item, "parameters", dict, {})
    return found


def _object(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{what} is a JSON object")
    return value


def _get(item: Mapping[str, object], name: str, kind: type[T], default: T | None = None) -> T:
    """A member of an object. Raises InvalidRequest when it is of another kind, or missing without a default."""
    value = item.get(name, default)
    if not isinstance(value, kind):
        raise InvalidRequest(f"{name} is missing or no {KINDS[kind]}")
    return value
