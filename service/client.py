"""A typed client for hospital code, over gRPC or HTTP, and a command: `python -m service.client classify FILE…`.

Errors come back as the same tree that the service raises (`service.contract.errors`). A cell that meets a busy or
restarting service is sent again under the same request id, so that it is answered and counted once.
"""

import random
import ssl
import uuid
from collections.abc import Callable
from dataclasses import replace
from time import sleep
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import grpc
import httpx

from service import converters
from service.contract import errors
from service.domain import TEXTS, Answer, Cell, ModelInfo, Review, ReviewAnswer
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.proto.blastwatch.v1.blastwatch_pb2_grpc import BlastClassifierStub

T = TypeVar("T")

GRPC_TARGET = "127.0.0.1:50051"
HTTP_BASE = "http://127.0.0.1:3000"
ATTEMPTS = 5
BACKOFF_S = 0.2
ERROR_KEY = "blastwatch-error"
PUSHBACK_KEY = "grpc-retry-pushback-ms"
ERRORS: dict[str, type[errors.BlastwatchError]] = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.BlastwatchError)
}
BY_STATUS: dict[grpc.StatusCode, type[errors.BlastwatchError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.Forbidden,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.Conflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.UNAVAILABLE: errors.NotReady,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
}
IMAGE_TYPES = ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg"), (b"II*", "image/tiff"), (b"MM", "image/tiff"))


class AnyClient(Protocol):
    """What both clients do."""

    def classify(self, image: bytes, **fields: Any) -> Answer:
        """Classifies one cell; `fields` are those of `service.domain.Cell`."""
        ...

    def review(self, record_id: str, label: str, role: str = "haematologist", sampled: bool = False) -> ReviewAnswer:
        """Puts a reader's label on record."""
        ...

    def model(self) -> ModelInfo:
        """The model that answers now."""
        ...

    def close(self) -> None:
        """Lets the connection go."""
        ...


class Client:
    """BlastClassifier over gRPC.

    `token` is sent as a bearer token; `credentials` (grpc.ssl_channel_credentials) make it TLS, and mTLS with a key and
    certificate of the client in them. `timeout_s` is the deadline of each attempt. Raises what the service raised;
    NotReady when it cannot be reached.
    """

    def __init__(
        self,
        target: str = GRPC_TARGET,
        *,
        timeout_s: float = 30.0,
        attempts: int = ATTEMPTS,
        token: str = "",
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._target = target
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._timeout_s = timeout_s
        self._attempts = attempts
        # A proxy that the environment names must not see patients.
        options = [("grpc.enable_http_proxy", 0)]
        if credentials is None:
            self._channel = grpc.insecure_channel(target, options=options)
        else:
            self._channel = grpc.secure_channel(target, credentials, options=options)
        self._stub = BlastClassifierStub(self._channel)

    def classify(self, image: bytes, **fields: Any) -> Answer:
        """Classifies one cell; `fields` are those of `service.domain.Cell`."""
        message = converters.cell_to_message(_named(image, fields))
        reply = _patiently(self._attempts, lambda: self._call(self._stub.Classify, message))
        return converters.answer_from_message(reply)

    def review(self, record_id: str, label: str, role: str = "haematologist", sampled: bool = False) -> ReviewAnswer:
        """Puts a reader's label on record. sampled: the cell was drawn at random for review."""
        message = converters.review_to_message(Review(record_id, label, role, sampled))
        return converters.review_answer_from_message(self._call(self._stub.Review, message))

    def model(self) -> ModelInfo:
        """The model that answers now."""
        return converters.model_from_message(self._call(self._stub.GetModel, pb.GetModelRequest()))

    def close(self) -> None:
        """Lets the connection go."""
        self._channel.close()

    def _call(self, method: Callable[..., T], message: object) -> T:
        try:
            return method(message, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _from_status(error, self._target) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class HttpClient:
    """The same over HTTP; `verify` is how httpx trusts the service's certificate.

    Raises what the service raised; NotReady when it cannot be reached.
    """

    def __init__(
        self,
        base: str = HTTP_BASE,
        *,
        timeout_s: float = 30.0,
        attempts: int = ATTEMPTS,
        token: str = "",
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self._base = base
        self._attempts = attempts
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=base, timeout=timeout_s, trust_env=False, verify=verify, headers=headers)

    def classify(self, image: bytes, **fields: Any) -> Answer:
        """Classifies one cell; `fields` are those of `service.domain.Cell`."""
        cell = _named(image, fields)
        cell.check()
        values = {name: getattr(cell, name) for name in (*TEXTS, "pixel_size_um")} | {"test": str(cell.test).lower()}
        headers = {
            f"blastwatch-{name.replace('_', '-')}": str(value).encode() for name, value in values.items() if value
        }
        headers["content-type"] = _image_type(image).encode()
        reply = _patiently(self._attempts, lambda: self._call("POST", "/v1/classify", content=image, headers=headers))
        return converters.answer_from_message(converters.from_reply(reply, pb.Prediction()))

    def review(self, record_id: str, label: str, role: str = "haematologist", sampled: bool = False) -> ReviewAnswer:
        """Puts a reader's label on record. sampled: the cell was drawn at random for review."""
        message = converters.review_to_message(Review(record_id, label, role, sampled))
        reply = self._call("POST", "/v1/reviews", json=converters.to_json(message))
        return converters.review_answer_from_message(converters.from_reply(reply, pb.ReviewReply()))

    def model(self) -> ModelInfo:
        """The model that answers now."""
        return converters.model_from_message(converters.from_reply(self._call("GET", "/v1/model"), pb.Model()))

    def close(self) -> None:
        """Lets the connection go."""
        self._http.close()

    def _call(self, method: str, path: str, **options: Any) -> bytes:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TimeoutException:
            raise errors.DeadlineExceeded(f"{self._base} did not answer in time") from None
        except httpx.TransportError as error:
            raise errors.NotReady(_unreachable(self._base, str(error))) from None
        if response.is_success:
            return response.content
        raise _from_response(response, self._base)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _named(image: bytes, fields: dict[str, Any]) -> Cell:
    """The cell with a request id: without one, sending it again could make two records."""
    cell = Cell(image=image, **fields)
    return cell if cell.request_id else replace(cell, request_id=uuid.uuid4().hex)


def _patiently(attempts: int, call: Callable[[], T]) -> T:
    """Calls again while the service is busy or away; the waits double, with jitter so that clients spread."""
    for attempt in range(attempts - 1):
        try:
            return call()
        except (errors.Overloaded, errors.NotReady) as error:
            least = error.retry_after_s if isinstance(error, errors.Overloaded) else 0.0
            sleep(max(least, BACKOFF_S * 2**attempt) * random.uniform(0.8, 1.2))
    return call()


def _from_status(error: grpc.RpcError, target: str) -> errors.BlastwatchError:
    status, text = error.code(), error.details() or ""
    trailer = {key: str(value) for key, value in error.trailing_metadata() or ()}
    kind = ERRORS.get(trailer.get(ERROR_KEY, ""))
    if kind is errors.Overloaded:
        return errors.Overloaded(text, retry_after_s=_seconds(trailer.get(PUSHBACK_KEY), 1000.0) / 1000)
    if kind is not None:
        return kind(text)
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        return errors.TooLarge("the message is larger than the service takes: send a smaller image or a crop")
    if status is grpc.StatusCode.UNAVAILABLE:
        return errors.NotReady(_unreachable(target, text))
    return BY_STATUS.get(status, errors.BlastwatchError)(f"{text or 'no details'} ({status.name})")


def _from_response(response: httpx.Response, base: str) -> errors.BlastwatchError:
    try:
        found = response.json()["error"]
        name, text = str(found["code"]), str(found["message"])
    except (ValueError, KeyError, TypeError):
        return errors.BlastwatchError(f"{base} answered {response.status_code}: is this the service?")
    kind = ERRORS.get(name, errors.BlastwatchError)
    if issubclass(kind, errors.Overloaded):
        return kind(text, retry_after_s=_seconds(response.headers.get("retry-after"), 1.0))
    return kind(text)


def _seconds(text: str | None, default: float) -> float:
    """A wait as the service said it; a proxy in between may say it in words."""
    try:
        return max(0.0, float(text or default))
    except ValueError:
        return default


def _unreachable(where: str, why: str) -> str:
    short = " ".join(why.split())[:160]
    return f"the service at {where} cannot be reached: start it with `make serve` or give another --target ({short})"


def _image_type(image: bytes) -> str:
    return next((kind for magic, kind in IMAGE_TYPES if image.startswith(magic)), "image/bmp")


if __name__ == "__main__":
    from service.client_command import main

    errors.run_command(main)
