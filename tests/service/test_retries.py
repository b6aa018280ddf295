"""The retry policy: which errors, how long between attempts, and never beyond the deadline."""

import math
from collections.abc import Callable

import grpc
import httpx
import pytest

from service.client_errors import from_response, from_status
from service.contract import errors
from service.contract.errors import BlastwatchError, ConfigError, DeadlineExceeded, NotReady, Overloaded
from service.retries import AGAIN, BACKOFF_S, LONGEST_BACKOFF_S, Attempts, Policy, Refused

EVERY = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BlastwatchError)]


class Clock:
    """A time that passes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def begun(attempts: int = 5, timeout_s: float = 1e6, *, repeatable: bool = True) -> tuple[Attempts, Clock]:
    clock = Clock()
    return Policy(attempts, timeout_s).begin(repeatable=repeatable, clock=clock), clock


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_only_what_may_pass_is_tried_again(kind: type[BlastwatchError]) -> None:
    attempts, _ = begun()
    passing = {"Overloaded", "RateLimited", "NotReady", "StoreUnavailable", "DeadlineExceeded"}
    assert (attempts.wait_s(Refused(kind("x"))) is not None) == (kind.__name__ in passing)


def test_there_are_no_more_attempts_than_allowed() -> None:
    attempts, _ = begun(3)
    waits = [attempts.wait_s(Refused(NotReady("x"))) for _ in range(3)]
    assert [wait is None for wait in waits] == [False, False, True]


def test_waits_are_spread_evenly_below_a_bound_that_doubles() -> None:
    drawn: list[list[float]] = [[] for _ in range(9)]
    for _ in range(2000):
        attempts, _ = begun(10)
        for waits in drawn:
            wait = attempts.wait_s(Refused(NotReady("x")))
            assert wait is not None
            waits.append(wait)
    for number, waits in enumerate(drawn):
        bound = min(LONGEST_BACKOFF_S, BACKOFF_S * 2**number)
        assert 0 <= min(waits) < 0.02 * bound
        assert 0.98 * bound < max(waits) <= bound
        assert sum(waits) / len(waits) == pytest.approx(bound / 2, rel=0.1)


def test_what_the_service_asks_for_is_waited_at_least() -> None:
    attempts, _ = begun()
    wait = attempts.wait_s(Refused(Overloaded(), asked_s=7.0))
    assert wait is not None
    assert 7.0 <= wait <= 7.0 + BACKOFF_S


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    attempts, clock = begun(timeout_s=10.0)
    assert attempts.wait_s(Refused(Overloaded(), asked_s=11.0)) is None
    attempts, clock = begun(timeout_s=10.0)
    clock.now += 4.0
    assert attempts.left_s() == 6.0
    assert attempts.wait_s(Refused(DeadlineExceeded("x"))) is not None
    clock.now += 6.0
    assert attempts.wait_s(Refused(DeadlineExceeded("x"))) is None
    assert 0 < attempts.left_s() < 0.01


@pytest.mark.parametrize(
    ("refused", "again"),
    [
        (Refused(NotReady("x")), False),
        (Refused(NotReady("x"), told=True), True),
        (Refused(Overloaded(), told=True), True),
        (Refused(DeadlineExceeded("x"), told=True), False),
    ],
)
def test_what_must_not_happen_twice_is_repeated_only_if_it_did_not_happen(refused: Refused, again: bool) -> None:
    attempts, _ = begun(repeatable=False)
    assert (attempts.wait_s(refused) is not None) == again


@pytest.mark.parametrize(
    "make", [lambda: Policy(0, 1.0), lambda: Policy(1, 0.0), lambda: Policy(1, math.nan), lambda: Policy(1, math.inf)]
)
def test_numbers_that_leave_no_attempt_are_refused(make: Callable[[], Policy]) -> None:
    with pytest.raises(ConfigError):
        make()


def test_the_errors_that_pass_are_in_the_tree() -> None:
    assert set(AGAIN) < set(EVERY)


class Status(grpc.RpcError):
    """A call that ended with a status, as gRPC has it."""

    def __init__(self, code: grpc.StatusCode, **trailer: str) -> None:
        self._code, self._trailer = code, tuple((key.replace("_", "-"), value) for key, value in trailer.items())

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "text"

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._trailer


@pytest.mark.parametrize(
    ("pushback", "asked_s"), [("250", 0.25), ("0", 0.0), ("-1", math.inf), ("soon", 0.0), ("", 0.0)]
)
def test_a_pushback_is_read(pushback: str, asked_s: float) -> None:
    refused = from_status(Status(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc_retry_pushback_ms=pushback), "here")
    assert isinstance(refused.error, Overloaded)
    assert (refused.asked_s, refused.told) == (asked_s, False)


@pytest.mark.parametrize(("header", "asked_s"), [("3", 3.0), ("-3", 0.0), ("Wed, 21 Oct 2026", 0.0), ("", 0.0)])
def test_a_retry_after_is_read(header: str, asked_s: float) -> None:
    body = {"error": {"code": "NotReady", "message": "no model"}}
    refused = from_response(httpx.Response(503, json=body, headers={"retry-after": header}), "here")
    assert type(refused.error) is NotReady
    assert (refused.asked_s, refused.told) == (asked_s, True)
