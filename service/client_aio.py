"""The gRPC client for asyncio: what `service.client.Client` does, awaited."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from dataclasses import replace
from os import PathLike
from types import TracebackType
from typing import Any, Self

import grpc

from service import converters
from service.client import CHANNEL_OPTIONS, GRPC_TARGET
from service.client_access import Bearer, Pem, channel_credentials
from service.client_calls import ATTEMPTS, TIMEOUT_S, named_cell
from service.client_errors import from_status
from service.client_stream import Backlog, Place, Sent, StreamResult
from service.contract.errors import BlastwatchError, NotReady
from service.domain import Answer, Cell, ModelInfo, Review, ReviewAnswer
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.proto.blastwatch.v1.blastwatch_pb2_grpc import BlastClassifierStub
from service.retries import Policy, Refused


class AsyncClient:
    """BlastClassifier over grpc.aio, with the arguments, retries and errors of `service.client.Client`.

    To be made and used on one event loop; any number of its tasks may share one. A cancelled call is cancelled at the
    service too.
    """

    def __init__(
        self,
        target: str = GRPC_TARGET,
        *,
        timeout_s: float = TIMEOUT_S,
        attempts: int = ATTEMPTS,
        token: str | PathLike[str] = "",
        ca: Pem | None = None,
        certificate: Pem | None = None,
        key: Pem | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._target = target
        self._policy = Policy(attempts, timeout_s)
        credentials = credentials or channel_credentials(ca, certificate, key)
        self._bearer = Bearer(token, target, secure=credentials is not None)
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(target, credentials, options=CHANNEL_OPTIONS)
        self._stub: Any = BlastClassifierStub(self._channel)

    async def classify(self, image: bytes, **fields: Any) -> Answer:
        """Classifies one cell; `fields` are those of `service.domain.Cell`."""
        message = converters.cell_to_message(named_cell(image, fields))
        return converters.answer_from_message(await self._call(self._stub.Classify, message))

    async def classify_stream(self, cells: Iterable[Cell] | AsyncIterable[Cell]) -> AsyncGenerator[StreamResult, None]:
        """Classifies cells as they come; see `service.client.Client.classify_stream`.

        An iterable that waits for cells should be an asynchronous one: the other kind holds the event loop up.
        """
        feed = _Feed(cells)
        attempts = None
        try:
            while not feed.finished():
                try:
                    async for place, result in self._stream(feed):
                        attempts = None  # it goes on
                        yield await self._once_more(place) if result.may_pass else result
                        for refused_cell in feed.refused():
                            yield refused_cell
                except Refused as refused:
                    attempts = attempts or self._policy.begin()
                    wait_s = attempts.wait_s(refused)
                    if wait_s is None:
                        raise refused.error from None
                    await asyncio.sleep(wait_s)
            for refused_cell in feed.refused():
                yield refused_cell
        finally:
            await feed.stop()
        if feed.failure is not None:
            raise feed.failure

    async def _stream(self, feed: "_Feed") -> AsyncGenerator[tuple[Place, StreamResult], None]:
        """What one connection is told. Raises Refused when it breaks."""
        sent, messages = feed.connect()
        call = self._stub.ClassifyStream(messages, metadata=tuple(self._bearer.header().items()))
        try:
            async for reply in call:
                yield sent.result(reply)
        except grpc.aio.AioRpcError as error:
            raise from_status(error, self._target) from None
        finally:
            call.cancel()
        if not feed.finished():
            raise Refused(NotReady(f"{self._target} ended the stream before its answers"))

    async def _once_more(self, place: Place) -> StreamResult:
        message = converters.cell_to_message(place.cell)
        result = StreamResult(place.position, place.cell.request_id)
        try:
            reply = await self._call(self._stub.Classify, message)
        except BlastwatchError as error:
            return replace(result, error=error)
        return replace(result, answer=converters.answer_from_message(reply))

    async def review(
        self, record_id: str, label: str, role: str = "haematologist", sampled: bool = False
    ) -> ReviewAnswer:
        """Puts a reader's label on record. sampled: the cell was drawn at random for review."""
        message = converters.review_to_message(Review(record_id, label, role, sampled))
        return converters.review_answer_from_message(await self._call(self._stub.Review, message, repeatable=False))

    async def model(self, *, card: bool = False) -> ModelInfo:
        """The model that answers now, with its card (Markdown) if that is wanted."""
        return converters.model_from_message(await self._call(self._stub.GetModel, pb.GetModelRequest(card=card)))

    async def close(self) -> None:
        """Lets the connection go; calls under way are cancelled."""
        await self._channel.close()

    async def _call(self, method: Callable[..., Any], message: object, *, repeatable: bool = True) -> Any:
        metadata = tuple(self._bearer.header().items())
        attempts = self._policy.begin(repeatable=repeatable)
        while True:
            try:
                return await self._attempt(method, message, timeout=attempts.left_s(), metadata=metadata)
            except Refused as refused:
                wait_s = attempts.wait_s(refused)
                if wait_s is None:
                    raise refused.error from None
            await asyncio.sleep(wait_s)

    async def _attempt(self, method: Callable[..., Any], message: object, **options: Any) -> Any:
        try:
            return await method(message, **options)
        except grpc.aio.AioRpcError as error:
            raise from_status(error, self._target) from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _Feed:
    """A backlog filled by a task of its own, so that a connection that breaks cancels nothing of the caller's."""

    def __init__(self, cells: Iterable[Cell] | AsyncIterable[Cell]) -> None:
        self.failure: BaseException | None = None
        """What the iterable raised."""
        self._backlog = Backlog()
        self._places: asyncio.Queue[Place | None] = asyncio.Queue(1)
        self._ended = False
        self._reading = asyncio.create_task(self._read(cells))

    def connect(self) -> tuple[Sent, AsyncIterator[pb.Cell]]:
        """A new connection, and what it sends."""
        sent = self._backlog.connect()
        return sent, self._messages(sent)

    async def stop(self) -> None:
        """Nothing takes another cell."""
        self._ended = True
        self._backlog.connect()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    def refused(self) -> Iterator[StreamResult]:
        """Results of cells that were never sent."""
        while self._backlog.refused:
            yield self._backlog.refused.popleft()

    def finished(self) -> bool:
        """Whether every cell has its answer."""
        return self._ended and self._backlog.finished()

    async def _read(self, cells: Iterable[Cell] | AsyncIterable[Cell]) -> None:
        try:
            if isinstance(cells, AsyncIterable):
                async for cell in cells:
                    await self._take(cell)
            else:
                for cell in cells:
                    await self._take(cell)
        except Exception as error:  # raised again where the results are read
            self.failure = error
        await self._places.put(None)

    async def _take(self, cell: Cell) -> None:
        if (place := self._backlog.place(cell)) is not None:
            await self._places.put(place)

    async def _messages(self, sent: Sent) -> AsyncIterator[pb.Cell]:
        while sent is self._backlog.sent:
            message = self._backlog.message(sent)
            if message is None:
                if self._ended:
                    return
                place = await self._places.get()
                if place is None:
                    self._ended = True
                    continue  # what a connection that broke meanwhile has left is sent first
                message = self._backlog.message(sent, place)
            if message is not None:
                yield message
