"""What the clients share: a cell with a name, and calling again while that makes sense."""

import uuid
from collections.abc import Callable
from dataclasses import replace
from time import sleep
from typing import Any, TypeVar

from service.domain import Cell
from service.retries import Attempts, Policy, Refused

T = TypeVar("T")

ATTEMPTS = 5
TIMEOUT_S = 30.0


def named_cell(image: bytes, fields: dict[str, Any]) -> Cell:
    """A checked cell with a request id: without one, sending it again could make two records. Raises InvalidRequest."""
    cell = Cell(image=image, **fields)
    cell.check()
    return cell if cell.request_id else replace(cell, request_id=uuid.uuid4().hex)


def patiently(policy: Policy, repeatable: bool, attempt: Callable[[float], T]) -> T:
    """What `attempt` returns once it does not raise Refused; it is given the seconds that are left for it."""
    attempts = policy.begin(repeatable=repeatable)
    while True:
        try:
            return attempt(attempts.left_s())
        except Refused as refused:
            wait_or_raise(attempts, refused)


def wait_or_raise(attempts: Attempts, refused: Refused) -> None:
    """Returns when asking again makes sense; raises the error when it does not."""
    wait_s = attempts.wait_s(refused)
    if wait_s is None:
        raise refused.error from None
    sleep(wait_s)
