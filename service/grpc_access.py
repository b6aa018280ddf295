"""The door in front of every gRPC method, and the credentials that the server shows."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import grpc

from service import tls
from service.contract.errors import InvalidRequest, Overloaded
from service.door import Visit
from service.engine import Engine
from service.watched import PATIENCE_S, Watched

CLASSIFY = "/blastwatch.v1.BlastClassifier/Classify"
FLOOD, FLOOD_S = 8, 0.5
"""So many refusals of one client within so many seconds are a flood: it does not wait when it is asked to."""
AWAY_S = 0.05
"""So short that nobody waits for it: a few batches."""
MAX_TOLD = 1024
HEALTH = "/grpc.health.v1.Health/"
"""Open to all: it says nothing but whether the service is well."""

Metadata = Iterable[tuple[str, str | bytes]]
Refusal = Callable[[Exception, str], tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]]


class AccessInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets a call pass the engine's door before its message is looked at, and puts its outcome on record."""

    def __init__(self, engine: Engine, refusal: Refusal) -> None:
        self._engine = engine
        self._refusal = refusal
        self._behind: dict[str, grpc.RpcMethodHandler] = {}
        self._turned_away = TurnedAway(engine, refusal)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """The method's handler, behind the door; made once for each method that there is."""
        method = handler_call_details.method
        if method == CLASSIFY:
            away = self._turned_away.handler(handler_call_details.invocation_metadata)
            if away is not None:
                return away
        behind = self._behind.get(method)
        if behind is None:
            handler = await continuation(handler_call_details)
            if handler is None or method.startswith(HEALTH):
                return handler
            behind = self._behind[method] = self._put_behind(handler, method.removeprefix("/"))
        return behind

    def _put_behind(self, handler: grpc.RpcMethodHandler, route: str) -> grpc.RpcMethodHandler:
        # The bytes become a message only behind the door.
        parse = handler.request_deserializer or bytes
        make, call = {
            (False, False): (grpc.unary_unary_rpc_method_handler, self._one(handler.unary_unary, route, parse)),
            (True, False): (grpc.stream_unary_rpc_method_handler, self._one(handler.stream_unary, route, None)),
            (False, True): (grpc.unary_stream_rpc_method_handler, self._many(handler.unary_stream, route, parse)),
            (True, True): (grpc.stream_stream_rpc_method_handler, self._many(handler.stream_stream, route, None)),
        }[handler.request_streaming, handler.response_streaming]
        return make(
            call,
            request_deserializer=handler.request_deserializer if handler.request_streaming else None,
            response_serializer=handler.response_serializer,
        )

    def _one(self, inner: Callable[..., Any], route: str, parse: Callable[[bytes], Any] | None) -> Callable[..., Any]:
        async def call(request: Any, context: "grpc.aio.ServicerContext") -> Any:
            async with _Passage(self, context, route) as watched:
                return await inner(await self._parsed(request, parse, watched, _method(route)), watched)

        return call

    def _many(self, inner: Callable[..., Any], route: str, parse: Callable[[bytes], Any] | None) -> Callable[..., Any]:
        async def call(request: Any, context: "grpc.aio.ServicerContext") -> AsyncIterator[Any]:
            async with _Passage(self, context, route) as watched:
                async for reply in inner(await self._parsed(request, parse, watched, _method(route)), watched):
                    yield reply

        return call

    async def _parsed(
        self, request: Any, parse: Callable[[bytes], Any] | None, context: "grpc.aio.ServicerContext", method: str
    ) -> Any:
        if parse is None:
            return request  # a stream of messages
        try:
            return parse(request)
        except Exception:
            told = self._refusal(InvalidRequest(f"the bytes are not a message of {method}: generate stubs"), method)
        return await self._refuse(context, method, *told)

    async def _refuse(
        self,
        context: "grpc.aio.ServicerContext",
        method: str,
        status: grpc.StatusCode,
        text: str,
        trailer: tuple[tuple[str, str], ...],
    ) -> None:
        self._engine.metrics.requests.of("grpc", method, status.name).inc()
        context.set_trailing_metadata(trailer)
        await context.abort(status, text)

    async def enter(self, visit: Visit, context: "_Watched") -> None:
        """Through the door, or the call ends here."""
        try:
            metadata = context.invocation_metadata() or ()
            self._engine.door.enter(visit, _authorization(metadata), _certificate_names(context))
            self._engine.door.follow(visit, metadata)
        except Exception as error:
            status, text, trailer = self._refusal(error, visit.method)
        else:
            if visit.trace is not None:
                context.always(("traceparent", visit.trace.traceparent))
            return
        await self._refuse(context, visit.method, status, text, trailer)

    def leave(self, visit: Visit, status: grpc.StatusCode, context: "_Watched") -> None:
        """On record with its outcome."""
        self._engine.door.leave(visit, status.name)
        if context.overloaded is not None and visit.method == "Classify":
            self._turned_away.remember(context.invocation_metadata() or (), visit, context.overloaded)


@dataclass
class _Told:
    """How often a client was told that there is no room, since when, and until when it is told so without a look."""

    since: float
    times: int = 0
    until: float = 0.0
    handler: grpc.RpcMethodHandler | None = None


class TurnedAway:
    """Clients that are told again and again that there is no room: for a moment they are told so without a look.

    A refusal that costs as much as the rest of an answer would leave a flooded service no time to answer.
    """

    def __init__(self, engine: Engine, refusal: Refusal, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._refusal = refusal
        self._clock = clock
        self._told: dict[str, _Told] = {}

    def handler(self, metadata: Metadata) -> grpc.RpcMethodHandler | None:
        """What answers a call of such a client; None for everybody else."""
        if not self._told:
            return None
        told = self._told.get(_key(metadata))
        return told.handler if told is not None and self._clock() < told.until else None

    def remember(self, metadata: Metadata, visit: Visit, error: Overloaded) -> None:
        """The client of this call was told to come again later."""
        key = _key(metadata)
        if not key and self._engine.door.asks:
            return  # known by a certificate, which this does not see
        now = self._clock()
        told = self._told.get(key)
        if told is None or now > told.since + FLOOD_S:
            self._told.pop(key, None)
            told = self._told[key] = _Told(now)
        told.times += 1
        if told.times >= FLOOD:
            told.since, told.until = now, now + min(AWAY_S, error.retry_after_s)
            told.handler = self._made(visit.client, visit.method, error)
        while len(self._told) > MAX_TOLD:
            del self._told[next(iter(self._told))]

    def _made(self, client: str, method: str, error: Overloaded) -> grpc.RpcMethodHandler:
        status, text, trailer = self._refusal(error, method)
        door, metrics = self._engine.door, self._engine.metrics

        async def call(_: bytes, context: "grpc.aio.ServicerContext") -> bytes:
            metrics.requests.of("grpc", method, status.name).inc()
            door.turned_away(Visit("grpc", method, _address(context.peer()), client=client), status.name, error)
            # Not by abort: an exception through all layers is what this is to save.
            context.set_trailing_metadata(trailer)
            context.set_details(text)
            context.set_code(status)
            return b""

        return grpc.unary_unary_rpc_method_handler(call)


class _Watched:
    """A call's context that remembers the status which the call ends with, and adds to what the caller is told."""

    def __init__(self, context: "grpc.aio.ServicerContext") -> None:
        self._context = context
        self._always: tuple[tuple[str, str], ...] = ()
        self.status = grpc.StatusCode.OK
        self.overloaded: Overloaded | None = None
        """What the call was refused with, if it was for want of room."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def set_code(self, code: grpc.StatusCode) -> None:
        self.status = code
        self._context.set_code(code)

    def set_trailing_metadata(self, trailer: tuple[tuple[str, str], ...]) -> None:
        self._context.set_trailing_metadata((*trailer, *self._always))

    def always(self, *pairs: tuple[str, str]) -> None:
        """These are in the trailing metadata, whatever else is."""
        self._always = pairs
        self.set_trailing_metadata(())

    async def abort(self, code: grpc.StatusCode, *details: Any, **more: Any) -> None:
        self.status = code
        await self._context.abort(code, *details, **more)


class _Passage:
    """The time that a call spends behind the door."""

    def __init__(self, access: AccessInterceptor, context: "grpc.aio.ServicerContext", route: str) -> None:
        self._access = access
        self._watched = _Watched(context)
        self._visit = Visit("grpc", _method(route), _address(context.peer()), route=route)

    async def __aenter__(self) -> _Watched:
        try:
            await self._access.enter(self._visit, self._watched)
        except BaseException:
            self._access.leave(self._visit, self._watched.status, self._watched)
            raise
        return self._watched

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        status = self._watched.status
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            status = grpc.StatusCode.CANCELLED
        elif error is not None and status is grpc.StatusCode.OK:
            status = grpc.StatusCode.UNKNOWN
        self._access.leave(self._visit, status, self._watched)


def server_credentials(engine: Engine) -> grpc.ServerCredentials | None:
    """Credentials that follow the TLS files: a new connection sees the certificate of now. None without TLS.

    Raises ConfigError.
    """
    settings = engine.settings
    if settings.tls_certificate is None:
        return None
    watched = Watched(
        tls.paths(settings),
        lambda: tls.load(settings),
        lambda: engine.metrics.certificates_refused.inc(),
        patience_s=PATIENCE_S,
    )
    return grpc.dynamic_ssl_server_credentials(
        _configuration(watched.get()),
        lambda: _configuration(watched.get()),
        require_client_authentication=settings.tls_client_ca is not None,
    )


def _configuration(material: tls.Material) -> grpc.ServerCertificateConfiguration:
    pair = (material.key, material.certificate)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=material.client_ca)


def _method(route: str) -> str:
    """The last part of package.Service/Method."""
    return route.rpartition("/")[2]


def _authorization(metadata: Metadata) -> list[str]:
    return [str(value) for key, value in metadata if key == "authorization"]


def _key(metadata: Metadata) -> str:
    """As whom a call presents itself; "" for one that does not, or not clearly."""
    presented = _authorization(metadata)
    return presented[0] if len(presented) == 1 else ""


def _certificate_names(context: "grpc.aio.ServicerContext") -> list[str]:
    """Common and alternative names of the certificate that the handshake has verified."""
    found = context.auth_context()
    names = (*found.get("x509_common_name", ()), *found.get("x509_subject_alternative_name", ()))
    return [name.decode("utf-8", "replace") for name in names]


def _address(peer: str) -> str:
    """The address in gRPC's name for a peer, e.g. 10.0.0.1 in ipv4:10.0.0.1:4711."""
    kind, _, rest = peer.partition(":")
    return unquote(rest.rpartition(":")[0]).strip("[]") if kind in ("ipv4", "ipv6") else peer
