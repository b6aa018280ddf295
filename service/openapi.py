"""The OpenAPI description of the HTTP API, at /openapi.json: what a client generator or a tester asks for.

The messages' schemas come from the protobuf descriptors, so that they cannot fall behind the .proto file.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service import open_inference_model as oip
from service.domain import MAX_TEXT, TEXTS
from service.engine import Engine
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb

Schema = dict[str, Any]

PATH = "/openapi.json"
VERSION = "3.1.0"
IMAGE_TYPES = ("image/png", "image/jpeg", "image/tiff", "image/bmp")
JSON = "application/json"
FORM = "multipart/form-data"
MARKDOWN = "text/markdown"
PLAIN_TEXT = "text/plain"
ERRORS: Mapping[int, str] = {
    400: "Something in the request is wrong; the message says what",
    401: "No known token",
    403: "The client's roles do not include this",
    404: "No such record or model",
    409: "The request id was used for another image",
    413: "Larger than the service takes",
    429: "More cells than this client may send: try again after Retry-After seconds",
    503: "Not ready, or at its bound: try again after Retry-After seconds",
    504: "Not done in time",
}
CALL = (400, 401, 403, 503)
"""What any call may end with."""
_INTEGERS = {FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32}
_LONG_INTEGERS = {FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64}
_NUMBERS = {FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT}


async def openapi(_: Request, __: Engine) -> Response:
    """GET /openapi.json."""
    return JSONResponse(description())


@cache
def description() -> Schema:
    """The whole description, as OpenAPI 3.1."""
    messages = (pb.Prediction, pb.ReviewRequest, pb.ReviewReply, pb.Model)
    return {
        "openapi": VERSION,
        "info": {
            "title": oip.SERVER,
            "version": oip.server_version(),
            "description": "Decision support for a haematologist, never a diagnosis on its own. JSON is protobuf's "
            "mapping of the messages of the gRPC API; /v2 is the Open Inference Protocol.",
        },
        "paths": {**_own_paths(), **_open_inference_paths()},
        "components": {
            "schemas": {
                **_message_schemas(message.DESCRIPTOR for message in messages),
                "Error": _object({"error": _object({"code": _text(), "message": _text()})}),
                "InferError": _object({"error": _text()}),
                "InferRequest": _infer_request(),
                "InferReply": _infer_reply(),
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _own_paths() -> Schema:
    answers = (*CALL, 409, 413, 429, 504)
    return {
        "/v1/classify": {
            "post": _operation(
                "Classify",
                "Classifies one white cell; the answer is on record before it is sent",
                {JSON: _reference("Prediction")},
                answers,
                parameters=_cell_headers(),
                body={kind: _file() for kind in IMAGE_TYPES}
                | {FORM: _object({"image": _file(), **_cell_fields()}, ["image"])},
            )
        },
        "/v1/reviews": {
            "post": _operation(
                "Review",
                "Puts a reader's label for an answered cell on record",
                {JSON: _reference("ReviewReply")},
                (*CALL, 404, 409, 413, 504),
                body={JSON: _reference("ReviewRequest")},
            )
        },
        "/v1/model": {"get": _operation("GetModel", "The model that answers now", {JSON: _reference("Model")}, CALL)},
        "/v1/model/card": {"get": _operation("GetModelCard", "Its model card, for people", {MARKDOWN: _text()}, CALL)},
        "/metrics": {"get": _operation("metrics", "All workers' metrics, for Prometheus", {PLAIN_TEXT: _text()}, CALL)},
        PATH: {"get": _operation("openapi", "This description", {JSON: {"type": "object"}}, CALL)},
    }


def _open_inference_paths() -> Schema:
    def call(name: str, summary: str, reply: Schema, codes: Iterable[int] = CALL, **parts: Any) -> Schema:
        return _operation(name, summary, {JSON: reply}, codes, error="InferError", **parts)

    live = _operation("ServerLive", "That the process answers", {JSON: _object({"live": _flag()})}, ())
    live["security"] = []
    ready = _object({"ready": _flag()})
    index = {"type": "array", "items": {"type": "object", "required": ["name"]}}
    wanted = _object({"ready": _flag()}, required=())
    paths: Schema = {
        "/v2": {"get": call("ServerMetadata", "What this server is", {"type": "object", "required": ["name"]})},
        "/v2/health/live": {"get": live},
        "/v2/health/ready": {"get": call("ServerReady", "Whether a cell would be answered now", ready)},
        "/v2/repository/index": {
            "post": call("RepositoryIndex", "The models", index, (*CALL, 413, 504), body={JSON: wanted})
        },
    }
    for version in ("", "/versions/{version}"):
        one = f"/v2/models/{{model}}{version}"
        names = ("model", "version") if version else ("model",)
        suffix = "Version" if version else ""
        kinds = {"model": {"enum": [oip.NAME]}, "version": _text()}
        where = [{"name": name, "in": "path", "required": True, "schema": kinds[name]} for name in names]
        model = {"type": "object", "required": ["name", "inputs", "outputs"]}
        paths[one] = {
            "get": call(f"ModelMetadata{suffix}", "The model's tensors", model, (*CALL, 404), parameters=where)
        }
        paths[f"{one}/ready"] = {
            "get": call(f"ModelReady{suffix}", "Whether this model answers now", ready, (*CALL, 404), parameters=where)
        }
        paths[f"{one}/infer"] = {
            "post": call(
                f"ModelInfer{suffix}",
                "Classifies cells; all of them, or none",
                _reference("InferReply"),
                (*CALL, 404, 409, 413, 429, 504),
                parameters=where,
                body={JSON: _reference("InferRequest")},
            )
        }
    return paths


def _operation(
    name: str,
    summary: str,
    replies: Mapping[str, Schema],
    codes: Iterable[int],
    *,
    parameters: Iterable[Schema] = (),
    body: Mapping[str, Schema] | None = None,
    error: str = "Error",
) -> Schema:
    problem = {JSON: {"schema": _reference(error)}}
    found: Schema = {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {"description": "Done", "content": _content(replies)},
            **{str(code): {"description": ERRORS[code], "content": problem} for code in codes},
        },
    }
    if parameters:
        found["parameters"] = list(parameters)
    if body is not None:
        found["requestBody"] = {"required": True, "content": _content(body)}
    return found


def _content(schemas: Mapping[str, Schema]) -> Schema:
    return {kind: {"schema": schema} for kind, schema in schemas.items()}


def _cell_headers() -> list[Schema]:
    """The fields of a cell beside its image. Text is UTF-8; ASCII is what every HTTP library sends unharmed."""
    return [
        {"name": f"Blastwatch-{name.replace('_', '-').title()}", "in": "header", "required": False, "schema": schema}
        for name, schema in _cell_fields().items()
    ]


def _cell_fields() -> dict[str, Schema]:
    return {
        **{name: {"type": "string", "maxLength": MAX_TEXT} for name in TEXTS},
        "pixel_size_um": {"type": "number", "minimum": 0, "description": "Micrometres a pixel; 0: not known"},
        "test": _flag(),
    }


def _infer_request() -> Schema:
    tensor = _object(
        {
            "name": {"const": oip.INPUTS[0][0]},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": 4},
            "datatype": {"enum": ["BYTES", "UINT8"]},
            "parameters": {"type": "object"},
            "data": {"type": "array", "items": {"anyOf": [{"type": "string", "format": "byte"}, _byte()]}},
        },
        required=("name", "shape", "datatype", "data"),
    )
    output = _object({"name": _text(), "parameters": {"type": "object"}}, required=("name",))
    return _object(
        {
            "id": _text(),
            "parameters": {"type": "object"},
            "inputs": {"type": "array", "items": tensor, "minItems": 1, "maxItems": 1},
            "outputs": {"type": "array", "items": output},
        },
        required=("inputs",),
    )


def _infer_reply() -> Schema:
    tensor = _object({"name": _text(), "datatype": _text(), "shape": {"type": "array"}, "data": {"type": "array"}})
    return _object(
        {"model_name": _text(), "model_version": _text(), "id": _text(), "outputs": {"type": "array", "items": tensor}}
    )


def _message_schemas(descriptors: Iterable[Descriptor]) -> Schema:
    found: Schema = {}
    for descriptor in descriptors:
        properties = {field.json_name: _field_schema(field) for field in descriptor.fields}
        found[descriptor.name] = {"type": "object", "properties": properties}
        parts = (field.message_type for field in descriptor.fields if field.message_type is not None)
        found.update(_message_schemas(part for part in parts if _is_own(part)))
    return found


def _field_schema(field: FieldDescriptor) -> Schema:
    part = field.message_type
    if part is not None and part.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": _field_schema(part.fields_by_name["value"])}
    schema = _single_schema(field)
    return {"type": "array", "items": schema} if field.is_repeated else schema


def _single_schema(field: FieldDescriptor) -> Schema:
    if field.message_type is not None:
        return _reference(field.message_type.name) if _is_own(field.message_type) else {"type": "object"}
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _flag()
    if field.type in _NUMBERS:
        return {"type": "number"}
    if field.type in _INTEGERS:
        return {"type": "integer"}
    # 64-bit integers are text in protobuf's JSON mapping.
    return {"type": "string", "pattern": "^-?[0-9]+$"} if field.type in _LONG_INTEGERS else _text()


def _is_own(descriptor: Descriptor) -> bool:
    return descriptor.file is pb.DESCRIPTOR and not descriptor.GetOptions().map_entry


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Mapping[str, Schema], required: Iterable[str] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties if required is None else required),
    }


def _file() -> Schema:
    return {"type": "string", "format": "binary", "minLength": 1}


def _text() -> Schema:
    return {"type": "string"}


def _byte() -> Schema:
    return {"type": "integer", "minimum": 0, "maximum": 255}


def _flag() -> Schema:
    return {"type": "boolean"}
