"""The door in front of every gRPC method, and the credentials that the server shows."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import grpc

from service import tls
from service.contract.errors import InvalidRequest
from service.door import Visit
from service.engine import Engine
from service.watched import Watched

HEALTH = "/grpc.health.v1.Health/"
"""Open to all: it says nothing but whether the service is well."""

Refusal = Callable[[Exception, str], tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]]


class AccessInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets a call pass the engine's door before its message is looked at, and puts its outcome on record."""

    def __init__(self, engine: Engine, refusal: Refusal) -> None:
        self._engine = engine
        self._refusal = refusal

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """The method's handler, behind the door."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(HEALTH):
            return handler
        route = handler_call_details.method.removeprefix("/")
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
        self._engine.metrics.requests.labels("grpc", method, status.name).inc()
        context.set_trailing_metadata(trailer)
        await context.abort(status, text)

    async def enter(self, visit: Visit, context: "_Watched") -> None:
        """Through the door, or the call ends here."""
        try:
            self._engine.door.enter(visit, _authorization(context), _certificate_names(context))
            self._engine.door.follow(visit, context.invocation_metadata() or ())
        except Exception as error:
            status, text, trailer = self._refusal(error, visit.method)
        else:
            if visit.trace is not None:
                context.always(("traceparent", visit.trace.traceparent))
            return
        await self._refuse(context, visit.method, status, text, trailer)

    def leave(self, visit: Visit, status: grpc.StatusCode) -> None:
        """On record with its outcome."""
        self._engine.door.leave(visit, status.name)


class _Watched:
    """A call's context that remembers the status which the call ends with, and adds to what the caller is told."""

    def __init__(self, context: "grpc.aio.ServicerContext") -> None:
        self._context = context
        self._always: tuple[tuple[str, str], ...] = ()
        self.status = grpc.StatusCode.OK

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
            self._access.leave(self._visit, self._watched.status)
            raise
        return self._watched

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        status = self._watched.status
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            status = grpc.StatusCode.CANCELLED
        elif error is not None and status is grpc.StatusCode.OK:
            status = grpc.StatusCode.UNKNOWN
        self._access.leave(self._visit, status)


def server_credentials(engine: Engine) -> grpc.ServerCredentials | None:
    """Credentials that follow the TLS files: a new connection sees the certificate of now. None without TLS.

    Raises ConfigError.
    """
    settings = engine.settings
    if settings.tls_certificate is None:
        return None
    watched = Watched(
        tls.paths(settings), lambda: tls.load(settings), lambda: engine.metrics.certificates_refused.inc()
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


def _authorization(context: "grpc.aio.ServicerContext") -> list[str]:
    return [str(value) for key, value in context.invocation_metadata() or () if key == "authorization"]


def _certificate_names(context: "grpc.aio.ServicerContext") -> list[str]:
    """Common and alternative names of the certificate that the handshake has verified."""
    found = context.auth_context()
    names = (*found.get("x509_common_name", ()), *found.get("x509_subject_alternative_name", ()))
    return [name.decode("utf-8", "replace") for name in names]


def _address(peer: str) -> str:
    """The address in gRPC's name for a peer, e.g. 10.0.0.1 in ipv4:10.0.0.1:4711."""
    kind, _, rest = peer.partition(":")
    return unquote(rest.rpartition(":")[0]).strip("[]") if kind in ("ipv4", "ipv6") else peer
