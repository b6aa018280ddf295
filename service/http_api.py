"""HTTP: the same core under Starlette routes. JSON is protobuf's mapping of the gRPC messages."""

import asyncio
import functools
import logging
import math
import time
from collections.abc import Awaitable, Callable

from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service import converters, multipart, open_inference_http, openapi
from service.compression import Unpacker
from service.contract import errors
from service.domain import Cell
from service.door import Visit, client_now, failed
from service.engine import Engine
from service.fields import FIELDS, value_of
from service.http_cancel import Connected
from service.identity import IdentityError, OutputsError
from service.metrics import expose
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb

log = logging.getLogger(__name__)

INTERNAL_TEXT = "internal error: the service's log has the details"
CLIENT_LEFT = 499  # nobody reads it; the metric counts it apart
REVIEW_BYTES = 64 * 2**10
FORM_BYTES = 64 * 2**10
"""What a form may have beside its image: fields, headers, boundaries."""
HEADER_PREFIX = "blastwatch-"
COMPRESS_FROM_BYTES = 1024
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

STATUS: dict[type[errors.BlastwatchError], int] = {
    errors.InvalidRequest: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.TooLarge: 413,
    errors.Overloaded: 503,
    errors.RateLimited: 429,
    errors.NotReady: 503,
    errors.DeadlineExceeded: 504,
    errors.ArtifactError: 500,
    errors.LedgerError: 500,
    errors.ConfigError: 500,
    IdentityError: 500,
    OutputsError: 500,
}


class Seat:
    """Holds a running engine: BentoML wants the routes before there is anything behind them."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    def fill(self, engine: Engine | None) -> None:
        """Puts a started engine behind the routes, or takes it away."""
        self._engine = engine

    def engine(self) -> Engine:
        """Raises NotReady before the start and after the stop."""
        if self._engine is None:
            raise errors.NotReady("the service is starting or stopping: try again")
        return self._engine


Endpoint = Callable[[Request, Engine], Awaitable[Response]]


def create_app(seat: Seat) -> Starlette:
    """The routes of the service, over whatever sits in `seat`."""
    routes = [
        Route("/v1/classify", _guarded(seat, "Classify", classify), methods=["POST"]),
        Route("/v1/reviews", _guarded(seat, "Review", review), methods=["POST"]),
        Route("/v1/model", _guarded(seat, "GetModel", model), methods=["GET"]),
        Route("/v1/model/card", _guarded(seat, "GetModel", model_card), methods=["GET"]),
        Route(openapi.PATH, _guarded(seat, "openapi", openapi.openapi), methods=["GET"]),
        Route("/metrics", _guarded(seat, "metrics", metrics), methods=["GET"]),
        *open_inference_http.routes(functools.partial(_guarded, seat, problem=plain_error_response), _body),
    ]
    # For clients that say Accept-Encoding: gzip; a short answer would only grow.
    packing = Middleware(GZipMiddleware, minimum_size=COMPRESS_FROM_BYTES, compresslevel=1)
    return Starlette(routes=routes, middleware=[packing], exception_handlers={HTTPException: _not_a_route})


async def classify(request: Request, engine: Engine) -> Response:
    """POST /v1/classify: the image as the body and the other fields as Blastwatch-* headers, or a form of both."""
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    fields = _header_fields(request)
    settings = engine.settings
    if kind == multipart.MEDIA_TYPE:
        if fields:
            raise errors.InvalidRequest("a form has the fields in its parts: leave the Blastwatch-* headers out")
        form = await _body(request, settings.max_message_bytes + FORM_BYTES, settings.timeout_s)
        cell = await asyncio.to_thread(multipart.cell_from_form, form, content_type)
    elif kind in openapi.IMAGE_TYPES:
        image = await _body(request, settings.max_message_bytes, settings.timeout_s)
        cell = Cell(image=image, **fields)  # type: ignore[arg-type]
    else:
        kinds = ", ".join((*openapi.IMAGE_TYPES, multipart.MEDIA_TYPE))
        raise errors.InvalidRequest(f"set Content-Type to what the body is: {kinds}")
    deadline = time.monotonic() + settings.timeout_s
    async with Connected(request):
        answer = await engine.core().classify(cell, transport="http", client=client_now(), deadline=deadline)
    return _message(converters.answer_to_message(answer))


async def review(request: Request, engine: Engine) -> Response:
    """POST /v1/reviews: a ReviewRequest in JSON."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise errors.InvalidRequest("set Content-Type to application/json and send a ReviewRequest")
    body = await _body(request, REVIEW_BYTES, engine.settings.timeout_s)
    wanted = converters.review_from_message(converters.from_json(body, pb.ReviewRequest()))
    return _message(converters.review_answer_to_message(await engine.core().review(wanted, client=client_now())))


async def model(_: Request, engine: Engine) -> Response:
    """GET /v1/model."""
    return _message(converters.model_to_message(engine.core().model()))


async def model_card(_: Request, engine: Engine) -> Response:
    """GET /v1/model/card: Markdown, for people."""
    return Response((await engine.core().model_with_card()).card, media_type=openapi.MARKDOWN)


async def metrics(_: Request, engine: Engine) -> Response:
    """GET /metrics: every worker's metrics together."""
    text = await asyncio.to_thread(expose, engine.metrics.registry)
    return Response(text, headers={"Content-Type": METRICS_TYPE})


def status_of(error: BaseException) -> int | None:
    """The status of the nearest ancestor that has one; None for an error outside the tree."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), None)


def error_response(error: Exception) -> JSONResponse:
    """An error as {"error": {"code", "message"}}; what is not the caller's business is a constant text."""
    return _error(*_explained(error))


def plain_error_response(error: Exception) -> JSONResponse:
    """The same as {"error": message}, which is how the Open Inference Protocol has it."""
    status, _, message, headers = _explained(error)
    return JSONResponse({"error": message}, status, headers)


def _explained(error: Exception) -> tuple[int, str, str, dict[str, str]]:
    """Status, code, message and headers of the answer to an error."""
    status = status_of(error)
    if status is None or status == 500:
        return 500, "Internal", INTERNAL_TEXT, {}
    headers: dict[str, str] = {}
    if status in (429, 503):
        headers["Retry-After"] = str(math.ceil(getattr(error, "retry_after_s", 1.0)))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (401, 403):
        headers["Connection"] = "close"  # whatever body comes is not read
    if status == 413:
        headers["Connection"] = "close"  # the rest of the body is not read
    return status, type(error).__name__, str(error), headers


def _guarded(
    seat: Seat, name: str, endpoint: Endpoint, problem: Callable[[Exception], Response] = error_response
) -> Callable[[Request], Awaitable[Response]]:
    @functools.wraps(endpoint)
    async def call(request: Request) -> Response:
        address = request.client.host if request.client else ""
        visit = Visit("http", name, address, route=f"{request.method} {request.scope['route'].path}")
        try:
            engine = seat.engine()
            engine.door.enter(visit, request.headers.getlist("authorization"))
            engine.door.follow(visit, request.headers.raw)
            if request.url.query:
                raise errors.InvalidRequest("no query is taken: addresses end up in logs, send fields as headers")
            response = await endpoint(request, engine)
        except ClientDisconnect:
            response = Response(status_code=CLIENT_LEFT)
        except Exception as error:
            failed(error)
            response = problem(error)
            if response.status_code == 500:
                log.error("%s failed", name, exc_info=error)
        _count(seat, visit, response.status_code)
        if visit.trace is not None:
            response.headers["traceparent"] = visit.trace.traceparent
        return response

    return call


def _count(seat: Seat, visit: Visit, status: int) -> None:
    try:
        engine = seat.engine()
    except errors.NotReady:
        log.debug("%s before the start or after the stop", visit.method)
        return
    engine.metrics.requests.of("http", visit.method, str(status)).inc()
    engine.door.leave(visit, str(status))


async def _body(request: Request, limit: int, timeout_s: float) -> bytes:
    """The request's body, unpacked; refused as soon as it is known to be above `limit` bytes, or too slow."""
    too_large = errors.TooLarge(f"the body is above {limit} bytes: send a smaller one")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise too_large
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    unpacker = None if encoding == "identity" else Unpacker(encoding, limit)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise too_large
                # In a thread: a small chunk may hold a lot.
                chunks.append(await asyncio.to_thread(unpacker.feed, chunk) if unpacker and chunk else chunk)
    except TimeoutError:
        raise errors.DeadlineExceeded(f"the body did not arrive within {timeout_s:g} s") from None
    if unpacker:
        unpacker.finish()
    return b"".join(chunks)


def _header_fields(request: Request) -> dict[str, str | float | bool]:
    """The Blastwatch-* headers as fields of a cell; names are checked, for a typo would lose the patient."""
    names = {name.replace("_", "-"): name for name in FIELDS}
    found: dict[str, str | float | bool] = {}
    for raw_name, raw_value in request.headers.raw:
        header = raw_name.decode("latin-1").lower()
        if not header.startswith(HEADER_PREFIX):
            continue
        name = names.get(header.removeprefix(HEADER_PREFIX))
        if name is None:
            known = ", ".join(f"Blastwatch-{known.title()}" for known in names)
            raise errors.InvalidRequest(f"an unknown Blastwatch-* header: the known ones are {known}")
        if name in found:
            raise errors.InvalidRequest(f"the header for {name} comes twice")
        found[name] = value_of(name, raw_value)
    return found


def _message(message: Message) -> JSONResponse:
    return JSONResponse(converters.to_json(message))


def _error(status: int, code: str, message: str, headers: dict[str, str]) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


async def _not_a_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  (how it is registered)
    return _error(error.status_code, "MethodNotAllowed", "this address takes another method", dict(error.headers or {}))
