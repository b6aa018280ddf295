"""What came back instead of an answer, as the error that the service raised: the statuses of both transports."""

import math

import grpc
import httpx

from service.contract import errors
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.retries import Refused

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
BY_PROXY: dict[int, type[errors.BlastwatchError]] = {
    429: errors.Overloaded,
    502: errors.NotReady,
    503: errors.NotReady,
    504: errors.DeadlineExceeded,
}
"""HTTP statuses that something between client and service gives in its own words."""


def from_status(error: grpc.RpcError, target: str) -> Refused:
    """What a gRPC call met."""
    status, text = error.code(), error.details() or ""
    trailer = {key: str(value) for key, value in error.trailing_metadata() or ()}
    asked_s = _pushback_s(trailer.get(PUSHBACK_KEY))
    kind = ERRORS.get(trailer.get(ERROR_KEY, ""))
    if kind is not None:
        return Refused(_made(kind, text, asked_s), asked_s=asked_s, told=True)
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        return Refused(errors.TooLarge("the message is larger than the service takes: send a smaller image or a crop"))
    if status is grpc.StatusCode.UNAVAILABLE:
        return Refused(unreachable(target, text), asked_s=asked_s)
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Refused(errors.DeadlineExceeded(f"{target} did not answer in time"))
    kind = BY_STATUS.get(status, errors.BlastwatchError)
    return Refused(_made(kind, f"{text or 'no details'} ({status.name})", asked_s), asked_s=asked_s)


def from_response(response: httpx.Response, base: str) -> Refused:
    """What an HTTP request met."""
    asked_s = max(0.0, _number(response.headers.get("retry-after")))
    try:
        found = response.json()["error"]
        name, text = str(found["code"]), str(found["message"])
    except (ValueError, KeyError, TypeError):
        kind = BY_PROXY.get(response.status_code, errors.BlastwatchError)
        text = f"{base} answered {response.status_code}: is this the service?"
        return Refused(_made(kind, text, asked_s), asked_s=asked_s)
    return Refused(_made(ERRORS.get(name, errors.BlastwatchError), text, asked_s), asked_s=asked_s, told=True)


def from_failure(failure: pb.Failure) -> errors.BlastwatchError:
    """Why a cell of a stream was not answered."""
    return _made(ERRORS.get(failure.error, errors.BlastwatchError), failure.message, failure.retry_after_s)


def unreachable(where: str, why: str) -> errors.NotReady:
    """No connection, or one that broke."""
    if "CERTIFICATE_VERIFY_FAILED" in why:
        return errors.NotReady(
            f"the certificate of {where} is not trusted: give the authority that signed it (ca, --ca)"
        )
    short = " ".join(why.split())[:160]
    return errors.NotReady(
        f"the service at {where} cannot be reached: start it with `make serve` or give another --target ({short})"
    )


def _made(kind: type[errors.BlastwatchError], text: str, asked_s: float) -> errors.BlastwatchError:
    if issubclass(kind, errors.Overloaded):
        return kind(text, retry_after_s=asked_s)
    return kind(text)


def _pushback_s(milliseconds: str | None) -> float:
    """A pushback in seconds; one below 0 means that the call is not to be repeated at all."""
    asked = _number(milliseconds)
    return math.inf if asked < 0 else asked / 1000


def _number(text: str | None) -> float:
    """What the service asked for; 0 where it asked for nothing, or a proxy says it in words."""
    try:
        return float(text or 0)
    except ValueError:
        return 0.0
