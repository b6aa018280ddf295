"""A typed client for hospital code, over gRPC or HTTP, and a command: `blastwatch classify FILE…`.

Errors come back as the same tree that the service raises (`service.contract.errors`). A cell that meets a busy or
restarting service is sent again under the same request id, so that it is answered and counted once. The same for
asyncio is `service.client_aio`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from os import PathLike
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import grpc

from service import converters
from service.client_access import Bearer, Pem, channel_credentials
from service.client_calls import ATTEMPTS, TIMEOUT_S, named_cell, patiently, wait_or_raise
from service.client_errors import from_status
from service.client_http import HttpClient
from service.client_stream import Feed, Place, StreamResult
from service.contract import errors
from service.domain import Answer, Cell, ModelInfo, Review, ReviewAnswer
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.proto.blastwatch.v1.blastwatch_pb2_grpc import BlastClassifierStub
from service.retries import Policy, Refused

__all__ = ["AnyClient", "Client", "HttpClient"]

T = TypeVar("T")

GRPC_TARGET = "127.0.0.1:50051"
CHANNEL_OPTIONS = (
    # A proxy that the environment names must not see patients.
    ("grpc.enable_http_proxy", 0),
    # Each client has a connection of its own: gRPC would share one per target, and so keep all on one worker.
    ("grpc.use_local_subchannel_pool", 1),
    # gRPC's own second between connections would be longer than all of our first waits.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


class AnyClient(Protocol):
    """What both clients do."""

    def classify(self, image: bytes, **fields: Any) -> Answer:
        """Classifies one cell; `fields` are those of `service.domain.Cell`."""
        ...

    def review(self, record_id: str, label: str, role: str = "haematologist", sampled: bool = False) -> ReviewAnswer:
        """Puts a reader's label on record."""
        ...

    def model(self, *, card: bool = False) -> ModelInfo:
        """The model that answers now, with its card (Markdown) if that is wanted."""
        ...

    def close(self) -> None:
        """Lets the connection go."""
        ...


class Client:
    """BlastClassifier over gRPC. Threads may share one.

    timeout_s: how long a call may take in all, its retries and the waits between them included. attempts: how often it
    is tried at most. token: a bearer token, or the path of a file with one. ca, certificate, key: PEM, or paths of
    files; the first makes it TLS, all three mTLS. credentials: channel credentials made elsewhere, instead of these.

    Raises what the service raised, NotReady when it cannot be reached, ConfigError for arguments that cannot work.
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
            self._channel = grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(target, credentials, options=CHANNEL_OPTIONS)
        self._stub = BlastClassifierStub(self._channel)

    def classify(self, image: bytes, **fields: Any) -> Answer:
        """Classifies one cell; `fields` are those of `service.domain.Cell`."""
        message = converters.cell_to_message(named_cell(image, fields))
        return converters.answer_from_message(self._call(self._stub.Classify, message))

    def classify_stream(self, cells: Iterable[Cell]) -> Iterator[StreamResult]:
        """Classifies cells as they come; results come as answers are ready, not in order.

        A cell that cannot be answered is a result with an error and ends nothing; one that a busy service gave up is
        tried once more by itself. When the connection breaks another is opened, and what was not answered is sent again
        under the same request ids. The stream has no deadline: `timeout_s` bounds how long it goes without any answer
        once a connection broke. `cells` is read by another thread, no faster than the service reads; what it raises is
        raised here after the answers to the cells before it. Raises what ends a stream: NotReady, Unauthenticated,
        Forbidden, and TooLarge for a message that the service would not even look at.
        """
        feed = Feed(cells)
        attempts = None
        try:
            while not feed.finished():
                try:
                    for place, result in self._stream(feed):
                        attempts = None  # it goes on
                        yield self._once_more(place) if result.may_pass else result
                        yield from feed.refused()
                except Refused as refused:
                    attempts = attempts or self._policy.begin()
                    wait_or_raise(attempts, refused)
            yield from feed.refused()
        finally:
            feed.stop()
        if feed.failure is not None:
            raise feed.failure

    def _stream(self, feed: Feed) -> Iterator[tuple[Place, StreamResult]]:
        """What one connection is told. Raises Refused when it breaks."""
        sent, messages = feed.connect()
        call = self._stub.ClassifyStream(messages, metadata=tuple(self._bearer.header().items()))
        try:
            for reply in call:
                yield sent.result(reply)
        except grpc.RpcError as error:
            raise from_status(error, self._target) from None
        finally:
            call.cancel()
        if not feed.finished():
            raise Refused(errors.NotReady(f"{self._target} ended the stream before its answers"))

    def _once_more(self, place: Place) -> StreamResult:
        message = converters.cell_to_message(place.cell)
        result = StreamResult(place.position, place.cell.request_id)
        try:
            return replace(result, answer=converters.answer_from_message(self._call(self._stub.Classify, message)))
        except errors.BlastwatchError as error:
            return replace(result, error=error)

    def review(self, record_id: str, label: str, role: str = "haematologist", sampled: bool = False) -> ReviewAnswer:
        """Puts a reader's label on record. sampled: the cell was drawn at random for review."""
        message = converters.review_to_message(Review(record_id, label, role, sampled))
        return converters.review_answer_from_message(self._call(self._stub.Review, message, repeatable=False))

    def model(self, *, card: bool = False) -> ModelInfo:
        """The model that answers now, with its card (Markdown) if that is wanted."""
        return converters.model_from_message(self._call(self._stub.GetModel, pb.GetModelRequest(card=card)))

    def close(self) -> None:
        """Lets the connection go."""
        self._channel.close()

    def _call(self, method: Callable[..., T], message: object, *, repeatable: bool = True) -> T:
        metadata = tuple(self._bearer.header().items())

        def attempt(left_s: float) -> T:
            try:
                return method(message, timeout=left_s, metadata=metadata)
            except grpc.RpcError as error:
                raise from_status(error, self._target) from None

        return patiently(self._policy, repeatable, attempt)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


if __name__ == "__main__":
    from service.client_command import run

    run()
