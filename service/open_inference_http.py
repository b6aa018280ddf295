"""HTTP: /v2 of the Open Inference Protocol, with binary tensor data, over the same core."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service import open_inference_model as model
from service.contract.errors import InvalidRequest, NotReady
from service.door import client_now
from service.engine import Engine
from service.http_cancel import Connected
from service.open_inference_json import asked_from_body, object_from_json, reply_to_body

TRANSPORT = "http"
ENVELOPE_BYTES = 64 * 2**10
"""What a body may have beside its tensors: names, shapes, parameters."""
INDEX_BYTES = 2**10
HEADER_LENGTH = "inference-header-content-length"

Endpoint = Callable[[Request, Engine], Awaitable[Response]]
Guard = Callable[[str, Endpoint], Callable[[Request], Awaitable[Response]]]
Body = Callable[[Request, int, float], Awaitable[bytes]]


def routes(guard: Guard, body: Body) -> list[Route]:
    """The routes. guard: counts a call and answers its errors; body: reads at most so many bytes in so many seconds."""

    async def model_infer(request: Request, engine: Engine) -> Response:
        settings = engine.settings
        data = await body(request, settings.max_message_bytes + ENVELOPE_BYTES, settings.timeout_s)
        deadline = time.monotonic() + settings.timeout_s
        header_length = _header_length(request)
        name, version = _named(request)
        # A long list of numbers takes its time to parse.
        asked = await asyncio.to_thread(asked_from_body, data, header_length, model=name, version=version)
        async with Connected(request):
            reply = await model.infer(
                engine.core(),
                asked.request,
                transport=TRANSPORT,
                client=client_now(),
                deadline=deadline,
                max_cells=settings.max_queue,
            )
        content, length = reply_to_body(reply, asked.binary)
        if length is None:
            return Response(content, media_type="application/json")
        headers = {"Inference-Header-Content-Length": str(length)}
        return Response(content, media_type="application/octet-stream", headers=headers)

    async def repository_index(request: Request, engine: Engine) -> Response:
        text = await body(request, INDEX_BYTES, engine.settings.timeout_s)
        only_ready = object_from_json(text).get("ready", False) if text.strip() else False
        if not isinstance(only_ready, bool):
            raise InvalidRequest("ready is true or false")
        return JSONResponse(model.index(engine.core(), ready=engine.ready(), only_ready=only_ready))

    one = "/v2/models/{model}"
    return [
        Route("/v2", guard("ServerMetadata", server_metadata), methods=["GET"]),
        Route("/v2/health/live", server_live, methods=["GET"]),
        Route("/v2/health/ready", guard("ServerReady", server_ready), methods=["GET"]),
        Route("/v2/repository/index", guard("RepositoryIndex", repository_index), methods=["POST"]),
        *(
            route
            for path in (one, one + "/versions/{version}")
            for route in (
                Route(path, guard("ModelMetadata", model_metadata), methods=["GET"]),
                Route(path + "/ready", guard("ModelReady", model_ready), methods=["GET"]),
                Route(path + "/infer", guard("ModelInfer", model_infer), methods=["POST"]),
            )
        ),
    ]


async def server_live(_: Request) -> Response:
    """That it answers is the answer, whatever there is behind it."""
    return JSONResponse({"live": True})


async def server_ready(_: Request, engine: Engine) -> Response:
    """200 when a cell would be answered now."""
    _refuse_unready(engine)
    return JSONResponse({"ready": True})


async def model_ready(request: Request, engine: Engine) -> Response:
    """The same, of a model by name."""
    name, version = _named(request)
    model.check_model(name, version, model.served_version(engine.core()))
    _refuse_unready(engine)
    return JSONResponse({"name": name, "ready": True})


async def server_metadata(_: Request, __: Engine) -> Response:
    """What this server is and which extensions it speaks."""
    return JSONResponse({"name": model.SERVER, "version": model.server_version(), "extensions": list(model.EXTENSIONS)})


async def model_metadata(request: Request, engine: Engine) -> Response:
    """The model's tensors."""
    found = engine.core().model()
    model.check_model(*_named(request), found.version)

    def tensors(rows: tuple[model.TensorShape, ...]) -> list[dict[str, object]]:
        return [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in rows]

    return JSONResponse(
        {
            "name": model.NAME,
            "versions": [found.version],
            "platform": model.PLATFORM,
            "inputs": tensors(model.INPUTS),
            "outputs": tensors(model.outputs_of_model(found)),
        }
    )


def _refuse_unready(engine: Engine) -> None:
    if not engine.ready():
        raise NotReady("no model is loaded, or the service is stopping: try again")


def _named(request: Request) -> tuple[str, str]:
    return str(request.path_params["model"]), str(request.path_params.get("version", ""))


def _header_length(request: Request) -> int | None:
    text = request.headers.get(HEADER_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise InvalidRequest("Inference-Header-Content-Length is not a number of bytes")
    return int(text)
