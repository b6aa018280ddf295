"""gRPC: decode, one call into the core, encode. With health and reflection, and a health-only server."""

import asyncio
import ipaddress
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service import converters, open_inference
from service.contract import errors
from service.door import client_now
from service.engine import Engine
from service.grpc_access import AccessInterceptor, server_credentials
from service.grpc_status import deadline_of, explain, parsed, refusal, serialized, trailer
from service.grpc_stream import ClassifyStream
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["BlastClassifier"]
LIVENESS = "liveness"
"""A health service name that says only that the process answers; readiness is "" and the classifier's full name."""
ENVELOPE_BYTES = 64 * 2**10
DRAINED_GRACE_S = 0.5
HEALTH_PERIOD_S = 0.1

Handler = Callable[[Any, "grpc.aio.ServicerContext"], Awaitable[Message]]
StreamHandler = Callable[[AsyncIterator[bytes], "grpc.aio.ServicerContext"], AsyncGenerator[Message, None]]


class Servicer:
    """The methods of BlastClassifier over an engine, with one place where errors become statuses."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stream = ClassifyStream(engine)
        self.active = 0

    def stop_reading(self) -> None:
        """Streams take no further cell, answer those that they have, and end."""
        self._stream.stopping.set()

    def ended(self, name: str, status: grpc.StatusCode) -> None:
        """Counts a call that is over."""
        self.active -= 1
        self._engine.metrics.requests.of("grpc", name, status.name).inc()

    async def classify(self, message: pb.Cell, context: "grpc.aio.ServicerContext") -> pb.Prediction:
        """One cell in, its answer out."""
        answer = await self._engine.core().classify(
            converters.cell_from_message(message), transport="grpc", client=client_now(), deadline=deadline_of(context)
        )
        return converters.answer_to_message(answer)

    async def review(self, message: pb.ReviewRequest, _: "grpc.aio.ServicerContext") -> pb.ReviewReply:
        """A reader's label for an answered cell."""
        answer = await self._engine.core().review(converters.review_from_message(message), client=client_now())
        return converters.review_answer_to_message(answer)

    async def get_model(self, message: pb.GetModelRequest, _: "grpc.aio.ServicerContext") -> pb.Model:
        """The model that answers now, with its card if it was asked for."""
        core = self._engine.core()
        return converters.model_to_message(await core.model_with_card() if message.card else core.model())

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """The method handlers; messages are parsed here, for gRPC would answer bytes it cannot parse with INTERNAL."""
        methods: dict[str, Handler] = {"Classify": self.classify, "Review": self.review, "GetModel": self.get_model}
        return (
            self._handlers(SERVICE, methods),
            self._handlers(open_inference.SERVICE, open_inference.OpenInference(self._engine).methods()),
        )

    def _handlers(self, service: ServiceDescriptor, methods: Mapping[str, Handler]) -> grpc.GenericRpcHandler:
        handlers = {
            method.name: grpc.unary_unary_rpc_method_handler(
                self._guarded(method, methods[method.name]), response_serializer=serialized
            )
            for method in service.methods
            if not method.client_streaming
        }
        if service is SERVICE:
            stream = self._guarded_stream("ClassifyStream", self._stream)
            handlers["ClassifyStream"] = grpc.stream_stream_rpc_method_handler(stream, response_serializer=serialized)
        return grpc.method_handlers_generic_handler(service.full_name, handlers)

    def _guarded(
        self, method: MethodDescriptor, handler: Handler
    ) -> Callable[[bytes, "grpc.aio.ServicerContext"], Awaitable[Message]]:
        request_type, name = GetMessageClass(method.input_type), method.name

        async def call(data: bytes, context: "grpc.aio.ServicerContext") -> Message:
            async with _Counted(self, name, context):
                return await handler(parsed(request_type, data), context)
            raise AssertionError("unreachable: abort raises")

        return call

    def _guarded_stream(
        self, name: str, handler: StreamHandler
    ) -> Callable[[AsyncIterator[bytes], "grpc.aio.ServicerContext"], AsyncIterator[Message]]:
        async def call(requests: AsyncIterator[bytes], context: "grpc.aio.ServicerContext") -> AsyncIterator[Message]:
            async with _Counted(self, name, context), aclosing(handler(requests, context)) as replies:
                async for reply in replies:
                    yield reply

        return call


class _Counted:
    """A call under way: its errors become a status, and the status is counted. A class, as it is around every call."""

    def __init__(self, servicer: Servicer, name: str, context: "grpc.aio.ServicerContext") -> None:
        self._servicer = servicer
        self._name = name
        self._context = context

    async def __aenter__(self) -> None:
        self._servicer.active += 1

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        status = grpc.StatusCode.OK
        try:
            if isinstance(error, Exception):
                status, text = explain(error, self._name)
                if isinstance(error, errors.Overloaded):
                    self._context.overloaded = error
                self._context.set_trailing_metadata(trailer(error))
                # The caller's error is not the cause of the one that aborts the call.
                await self._context.abort(status, text)
            elif error is not None:
                status = grpc.StatusCode.CANCELLED
        finally:
            self._servicer.ended(self._name, status)


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
        self._servicer.stop_reading()
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
