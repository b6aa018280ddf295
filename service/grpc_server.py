"""gRPC: decode, one call into the core, encode. With health and reflection, and a health-only server."""

import asyncio
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service import converters, open_inference
from service.contract import errors
from service.door import client_now
from service.engine import Engine
from service.grpc_access import AccessInterceptor, server_credentials
from service.identity import IdentityError, OutputsError
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["BlastClassifier"]
LIVENESS = "liveness"
"""A health service name that says only that the process answers; readiness is "" and the classifier's full name."""
ERROR_KEY = "blastwatch-error"
"""Trailing metadata: the name of the error in the tree of `contract.errors`, finer than a status code."""
PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""Trailing metadata that gRPC clients with a retry policy obey."""
INTERNAL_TEXT = "internal error: the service's log has the details"
ENVELOPE_BYTES = 64 * 2**10
DRAINED_GRACE_S = 0.5
HEALTH_PERIOD_S = 0.1

STATUS: dict[type[errors.BlastwatchError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Conflict: grpc.StatusCode.ALREADY_EXISTS,
    errors.TooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.NotReady: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.ArtifactError: grpc.StatusCode.INTERNAL,
    errors.LedgerError: grpc.StatusCode.INTERNAL,
    errors.ConfigError: grpc.StatusCode.INTERNAL,
    IdentityError: grpc.StatusCode.INTERNAL,
    OutputsError: grpc.StatusCode.INTERNAL,
}

Handler = Callable[[Any, "grpc.aio.ServicerContext"], Awaitable[Message]]


def status_of(error: BaseException) -> grpc.StatusCode | None:
    """The status of the nearest ancestor that has one; None for an error outside the tree."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), None)


class Servicer:
    """The methods of BlastClassifier over an engine, with one place where errors become statuses."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.active = 0

    async def classify(self, message: pb.Cell, context: "grpc.aio.ServicerContext") -> pb.Prediction:
        """One cell in, its answer out."""
        answer = await self._engine.core().classify(
            converters.cell_from_message(message), transport="grpc", client=client_now(), deadline=_deadline(context)
        )
        return converters.answer_to_message(answer)

    async def review(self, message: pb.ReviewRequest, _: "grpc.aio.ServicerContext") -> pb.ReviewReply:
        """A reader's label for an answered cell."""
        answer = await self._engine.core().review(converters.review_from_message(message), client=client_now())
        return converters.review_answer_to_message(answer)

    async def get_model(self, _message: pb.GetModelRequest, _: "grpc.aio.ServicerContext") -> pb.Model:
        """The model that answers now."""
        return converters.model_to_message(self._engine.core().model())

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """The method handlers; messages are parsed here, for gRPC would answer bytes it cannot parse with INTERNAL."""
        methods: dict[str, Handler] = {"Classify": self.classify, "Review": self.review, "GetModel": self.get_model}
        return (
            self._handlers(SERVICE, methods),
            self._handlers(open_inference.SERVICE, open_inference.OpenInference(self._engine).methods()),
        )

    def _handlers(self, service: ServiceDescriptor, methods: Mapping[str, Handler]) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            service.full_name,
            {
                method.name: grpc.unary_unary_rpc_method_handler(
                    self._guarded(method, methods[method.name]),
                    response_serializer=lambda reply: reply.SerializeToString(),
                )
                for method in service.methods
                if method.name in methods
            },
        )

    def _guarded(
        self, method: MethodDescriptor, handler: Handler
    ) -> Callable[[bytes, "grpc.aio.ServicerContext"], Awaitable[Message]]:
        request_type = GetMessageClass(method.input_type)

        async def call(data: bytes, context: "grpc.aio.ServicerContext") -> Message:
            status = grpc.StatusCode.OK
            self.active += 1
            try:
                try:
                    return await handler(_parsed(request_type, data), context)
                except asyncio.CancelledError:
                    status = grpc.StatusCode.CANCELLED
                    raise
                except Exception as error:
                    status, text = _explain(error, method.name)
                    context.set_trailing_metadata(_trailer(error))
                # Outside the handler, so that the caller's error is not the cause of the one that aborts the call.
                await context.abort(status, text)
                raise AssertionError("unreachable: abort raises")
            finally:
                self.active -= 1
                self._engine.metrics.requests.labels("grpc", method.name, status.name).inc()

        return call


class Servers:
    """The gRPC server and the health-only server of one worker."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._settings = engine.settings
        self._servicer = Servicer(engine)
        self._health = health.aio.HealthServicer()
        self._main: grpc.aio.Server | None = None
        self._probe: grpc.aio.Server | None = None
        self._follow: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Opens both ports. Raises ConfigError when one is taken."""
        settings = self._settings
        limit = settings.max_message_bytes + ENVELOPE_BYTES
        # Workers of one service share the ports; the launcher makes sure that no other service does.
        options = [("grpc.so_reuseport", 1), ("grpc.max_receive_message_length", limit)]
        await self._report()
        self._main = grpc.aio.server(options=options, interceptors=(AccessInterceptor(self._engine, refusal),))
        self._main.add_generic_rpc_handlers(self._servicer.handlers())
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._main)
        names = (SERVICE.full_name, open_inference.SERVICE.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._main, pool=_described(names))
        credentials = server_credentials(self._engine)
        _listen(self._main, settings.grpc_host, settings.grpc_port, "BLASTWATCH_GRPC_PORT", credentials)
        self._probe = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._probe)
        _listen(self._probe, settings.health_host, settings.health_port, "BLASTWATCH_HEALTH_PORT")
        await self._main.start()
        await self._probe.start()
        self._follow = asyncio.create_task(self._follow_readiness(), name="health")

    async def stop(self) -> None:
        """Refuses new calls, lets those under way finish within `drain_s`, then closes both ports."""
        if self._follow is not None:
            self._follow.cancel()
            await asyncio.gather(self._follow, return_exceptions=True)
        await self._health.enter_graceful_shutdown()
        if self._main is not None:
            stopping = asyncio.create_task(self._main.stop(self._settings.drain_s))
            # Health watchers and reflection streams stay open for as long as callers like: they are not waited for.
            while self._servicer.active and not stopping.done():
                await asyncio.sleep(0.02)
            await self._main.stop(DRAINED_GRACE_S)
            await stopping
        if self._probe is not None:
            await self._probe.stop(DRAINED_GRACE_S)

    async def _follow_readiness(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_PERIOD_S)
            await self._report()

    async def _report(self) -> None:
        serving = health_pb2.HealthCheckResponse.SERVING
        ready = serving if self._engine.ready() else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set("", ready)
        await self._health.set(SERVICE.full_name, ready)
        await self._health.set(open_inference.SERVICE.full_name, ready)
        await self._health.set(LIVENESS, serving)


def _listen(
    server: "grpc.aio.Server", host: str, port: int, setting: str, credentials: grpc.ServerCredentials | None = None
) -> None:
    address = f"[{host}]:{port}" if ipaddress.ip_address(host).version == 6 else f"{host}:{port}"
    try:
        if credentials is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise errors.ConfigError(f"cannot listen on {address}: free it or set {setting} to another port") from error


def _described(names: Iterable[str]) -> DescriptorPool:
    """The files of these services in one pool: those of the Open Inference Protocol are in one of their own."""
    pool = DescriptorPool()

    def add(file: FileDescriptor) -> None:
        for dependency in file.dependencies:
            add(dependency)
        pool.AddSerializedFile(file.serialized_pb)

    for name in names:
        own = name == open_inference.SERVICE.full_name
        add(open_inference.SERVICE.file if own else Default().FindFileContainingSymbol(name))
    return pool


def _parsed(request_type: type[Message], data: bytes) -> Message:
    try:
        return request_type.FromString(data)
    except DecodeError:
        name = request_type.DESCRIPTOR.full_name
        raise errors.InvalidRequest(
            f"the bytes are not a {name} message: generate stubs from the .proto file"
        ) from None


def _deadline(context: "grpc.aio.ServicerContext") -> float | None:
    """When the caller stops waiting, on time.monotonic(); None when it set no deadline."""
    remaining: float | None = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def _explain(error: Exception, method: str) -> tuple[grpc.StatusCode, str]:
    status = status_of(error)
    if status is None or status is grpc.StatusCode.INTERNAL:
        log.error("%s failed", method, exc_info=error)
        return grpc.StatusCode.INTERNAL, INTERNAL_TEXT
    return status, str(error)


def refusal(error: Exception, method: str) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """What a caller is told of an error: status, text and trailing metadata."""
    return *_explain(error, method), _trailer(error)


def _trailer(error: Exception) -> tuple[tuple[str, str], ...]:
    status = status_of(error)
    if status is None or status is grpc.StatusCode.INTERNAL:
        return ()
    name = ((ERROR_KEY, type(error).__name__),)
    if isinstance(error, errors.Overloaded):
        return (*name, (PUSHBACK_KEY, str(round(error.retry_after_s * 1000))))
    return name
