"""When a client asks again, and how long it waits before that: one policy for every client. It never sleeps itself."""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.contract.errors import BlastwatchError, ConfigError, DeadlineExceeded, NotReady, Overloaded

BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 10.0
AGAIN = (Overloaded, NotReady, DeadlineExceeded)
"""What may be otherwise in a while; everything else would be refused again."""


class Refused(Exception):
    """One attempt failed with `error`.

    asked_s: how long the service asks to wait before the next; infinite when it asks for none. told: the service itself
    said so, and so has put nothing on record; False for a connection that broke, where nobody knows.
    """

    def __init__(self, error: BlastwatchError, *, asked_s: float = 0.0, told: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.asked_s = asked_s
        self.told = told


@dataclass(frozen=True)
class Policy:
    """What a client is willing to do for one call: `attempts` at most, within `timeout_s` with all waits between them.

    Raises ConfigError for numbers that leave no attempt.
    """

    attempts: int
    timeout_s: float

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigError(f"attempts is {self.attempts}: a call needs at least 1")
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise ConfigError(f"timeout_s is {self.timeout_s:g}: give a number of seconds above 0")

    def begin(self, *, repeatable: bool = True, clock: Callable[[], float] = time.monotonic) -> "Attempts":
        """The attempts of a call that starts now. repeatable: doing it twice is the same as doing it once."""
        return Attempts(self, repeatable, clock)


class Attempts:
    """Counts the attempts of one call and the time that is left for it."""

    def __init__(self, policy: Policy, repeatable: bool, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._repeatable = repeatable
        self._clock = clock
        self._until = clock() + policy.timeout_s
        self._made = 0

    def left_s(self) -> float:
        """How long the call may still take; never 0, which some libraries read as for ever."""
        return max(0.001, self._until - self._clock())

    def wait_s(self, refused: Refused) -> float | None:
        """Seconds until asking again makes sense; None when it does not.

        The longest wait doubles each time and the real one is drawn evenly from below it (full jitter), so that clients
        that failed together do not come back together; it is added to what the service asked for. A wait that would
        leave no time for another attempt is not begun.
        """
        self._made += 1
        if not isinstance(refused.error, AGAIN) or self._made >= self._policy.attempts:
            return None
        if not self._repeatable and (not refused.told or isinstance(refused.error, DeadlineExceeded)):
            return None
        longest = min(LONGEST_BACKOFF_S, BACKOFF_S * 2.0 ** (self._made - 1))
        wait = refused.asked_s + random.uniform(0.0, longest)
        return wait if self._clock() + wait < self._until else None
