"""The OpenAPI description against the service: schemathesis sends what it allows, and what it does not."""

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from starlette.routing import Route

from service.http_api import Seat, create_app
from service.open_inference_model import NAME
from service.openapi import description
from tests.service.running import Site, Worker, working
from tests.support.images import bmp, jpeg, png, tiff

EXAMPLES = 60
IMAGES = {"image/png": png(1), "image/jpeg": jpeg(1), "image/tiff": tiff(1), "image/bmp": bmp(1)}
CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
)
for kind, image in IMAGES.items():
    schemathesis.openapi.media_type(kind, st.one_of(st.just(image), st.binary(min_size=1, max_size=200)))

schemathesis.openapi.format("byte", st.sampled_from([base64.b64encode(image).decode() for image in IMAGES.values()]))

SCHEMA: Any = schemathesis.openapi.from_dict(description())
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations()]
WRONGABLE = [found for found in OPERATIONS if found.body or found.path_parameters or found.headers]
"""Operations that something can be wrong in."""
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    site = Site(tmp_path_factory.mktemp("openapi"))
    site.promote(site.add().version)
    with working(site.settings()) as found:
        yield found


@pytest.fixture(scope="module")
def calls(worker: Worker) -> dict[str, dict[str, Any]]:
    """Operation → the parts of a call that is answered."""
    with httpx.Client(base_url=worker.http, trust_env=False) as http:
        record = http.post("/v1/classify", content=png(7), headers={"content-type": "image/png"}).json()
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(png(2)).decode()]}
    one: dict[str, Any] = {"path_parameters": {"model": NAME}}
    that = {"path_parameters": {"model": NAME, "version": record["modelVersion"]}}
    infer = {"body": {"inputs": [tensor]}, "media_type": "application/json"}
    review = {"recordId": record["recordId"], "label": record["label"], "role": "haematologist"}
    return {
        "Classify": {"body": png(3), "media_type": "image/png", "headers": {"Blastwatch-Site": "a"}},
        "Review": {"body": review, "media_type": "application/json"},
        "RepositoryIndex": {"body": {}, "media_type": "application/json"},
        "ModelMetadata": one,
        "ModelReady": one,
        "ModelInfer": one | infer,
        "ModelMetadataVersion": that,
        "ModelReadyVersion": that,
        "ModelInferVersion": that | infer,
    }


def test_every_route_is_described_and_nothing_else() -> None:
    routes = [route for route in create_app(Seat()).routes if isinstance(route, Route)]
    served = {(route.path, method.lower()) for route in routes for method in (route.methods or set()) - {"HEAD"}}
    assert {(path, method) for path, methods in description()["paths"].items() for method in methods} == served


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: str(operation.label))
def test_an_answer_is_as_described(worker: Worker, calls: dict[str, dict[str, Any]], operation: Any) -> None:
    case = operation.Case(**calls.get(operation.definition.raw["operationId"], {}))
    response = case.call_and_validate(base_url=worker.http, checks=list(CHECKS), timeout=20)
    assert response.status_code == 200


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: str(mode.value))
@pytest.mark.parametrize("operation", WRONGABLE, ids=lambda operation: str(operation.label))
def test_the_service_keeps_to_its_description(worker: Worker, operation: Any, mode: GenerationMode) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    def calls(case: Any) -> None:
        case.call_and_validate(base_url=worker.http, checks=list(CHECKS), timeout=20)

    calls()
