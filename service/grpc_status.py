"""What of an error, a deadline and a message is the same for every method of the gRPC server."""

import logging
import time
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from service.contract import errors
from service.door import failed
from service.identity import IdentityError, OutputsError

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

ERROR_KEY = "blastwatch-error"
"""Trailing metadata: the name of the error in the tree of `contract.errors`, finer than a status code."""
PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""Trailing metadata that gRPC clients with a retry policy obey."""
INTERNAL_TEXT = "internal error: the service's log has the details"

STATUS: dict[type[errors.BlastwatchError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Conflict: grpc.StatusCode.ALREADY_EXISTS,
    errors.TooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.RateLimited: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.NotReady: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.ArtifactError: grpc.StatusCode.INTERNAL,
    errors.LedgerError: grpc.StatusCode.INTERNAL,
    errors.ConfigError: grpc.StatusCode.INTERNAL,
    IdentityError: grpc.StatusCode.INTERNAL,
    OutputsError: grpc.StatusCode.INTERNAL,
}


def status_of(error: BaseException) -> grpc.StatusCode | None:
    """The status of the nearest ancestor that has one; None for an error outside the tree."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), None)


def parsed(request_type: type[M], data: bytes) -> M:
    """The message in `data`. Raises InvalidRequest."""
    try:
        return request_type.FromString(data)
    except DecodeError:
        name = request_type.DESCRIPTOR.full_name
        raise errors.InvalidRequest(
            f"the bytes are not a {name} message: generate stubs from the .proto file"
        ) from None


def deadline_of(context: "grpc.aio.ServicerContext") -> float | None:
    """When the caller stops waiting, on time.monotonic(); None when it set no deadline."""
    remaining: float | None = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def serialized(message: Message) -> bytes:
    """The message on the wire."""
    return message.SerializeToString()


def explain(error: Exception, method: str) -> tuple[grpc.StatusCode, str]:
    """Status and text for the caller; what is not the caller's business is logged and gets a constant text."""
    failed(error)
    status = status_of(error)
    if status is None or status is grpc.StatusCode.INTERNAL:
        log.error("%s failed", method, exc_info=error)
        return grpc.StatusCode.INTERNAL, INTERNAL_TEXT
    return status, str(error)


def refusal(error: Exception, method: str) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """What a caller is told of an error: status, text and trailing metadata."""
    return *explain(error, method), trailer(error)


def trailer(error: Exception) -> tuple[tuple[str, str], ...]:
    """Trailing metadata: the error's name, and when to come again."""
    status = status_of(error)
    if status is None or status is grpc.StatusCode.INTERNAL:
        return ()
    name = ((ERROR_KEY, type(error).__name__),)
    if isinstance(error, errors.Overloaded):
        return (*name, (PUSHBACK_KEY, str(round(error.retry_after_s * 1000))))
    return name
