"""Who is let in, and whose turn it is: a bounded queue that is fair between clients, in front of everything that costs.

A message is let in or refused when it comes. Its cells then wait for their turns, which go round the clients one cell
each (fair queueing: Nagle, RFC 970), so that a client with a thousand cells delays one with a single cell by one cell.
Belongs to one event loop.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from service.contract.errors import DeadlineExceeded, Overloaded

SAMPLE = 32
"""Cells that the pace is measured over: two batches of the default size."""
LEAST_RETRY_S, MOST_RETRY_S = 0.05, 5.0
GAVE_WAY = "too much work is waiting, and other clients have less of it: try again later"
LATE = "the deadline passed before it was the image's turn: allow more time"


@dataclass(eq=False)
class _Waiting:
    future: "asyncio.Future[None]"
    deadline: float


class Pace:
    """How long a cell in hand takes to make room for the next one, measured while others wait."""

    def __init__(self) -> None:
        self.interval_s: float | None = None
        """Seconds a cell; None until it was measured."""
        self._since: float | None = None
        self._count = 0

    def left(self, now: float, *, contended: bool) -> None:
        """A cell has left; `contended`: another one waited for its place."""
        if not contended:
            self._since = None
        elif self._since is None:
            self._since, self._count = now, 0
        else:
            self._count += 1
            if self._count >= SAMPLE:
                found = (now - self._since) / self._count
                self.interval_s = found if self.interval_s is None else (self.interval_s + found) / 2
                self._since, self._count = now, 0


class Turn:
    """A cell's turn, as a context: entered when it comes, left when the cell is out of hand.

    waited_s: how long it took to come. Entering raises DeadlineExceeded, and Overloaded when it had to give way.
    """

    def __init__(self, turns: "Turns", client: str, deadline: float) -> None:
        self.waited_s = 0.0
        self._turns = turns
        self._client = client
        self._deadline = deadline
        self._coming = False

    async def __aenter__(self) -> Self:
        self.waited_s = await self._turns.begin(self._client, self._deadline)
        self._turns.coming += 1
        self._coming = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.at_model()
        self._turns.end()

    def at_model(self) -> None:
        """The cell waits for a model from now on, or not at all: no batch need wait for it. May be said twice."""
        if self._coming:
            self._coming = False
            self._turns.coming -= 1


class Turns:
    """At most `max_queue` cells in work, and `at_once` of them in hand: decoded, computed, put on record.

    With `always` cells or more in work, a message is refused when its client's next turn is expected to come later than
    `max_queue_s` from now. With `max_queue` in work, the newest waiting cell of the client that has most of them gives
    way to one of a client that has fewer.
    """

    def __init__(
        self,
        *,
        max_queue: int,
        at_once: int,
        always: int,
        max_queue_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_queue = max_queue
        self._at_once = at_once
        self._always = always
        self._max_queue_s = max_queue_s
        self._clock = clock
        self._pace = Pace()
        self._in_hand = 0
        self._waiting: OrderedDict[str, deque[_Waiting]] = OrderedDict()
        """By client, the one whose turn is next first; none with an empty queue."""
        self._leaving = 0
        self.in_work = 0
        """Cells that were let in and have not left."""
        self.coming = 0
        """Cells in hand that are not with a model yet: what a batch may wait for."""

    @property
    def waiting(self) -> int:
        """Cells that wait for their turn."""
        return sum(map(len, self._waiting.values()))

    def let_in(self, client: str, cells: int = 1) -> None:
        """Counts a message's cells as in work, until `let_out`. Raises Overloaded, and counts none then."""
        if self.in_work >= self._always:
            delay = self._delay_s(client)
            if delay is not None and delay > self._max_queue_s:
                raise Overloaded(retry_after_s=_retry_s(delay - self._max_queue_s))
        while self.in_work - self._leaving + cells > self._max_queue:
            # Nobody gives way to a message of many cells, which might be refused all the same.
            if cells > 1 or not self._make_way(client):
                raise Overloaded(retry_after_s=_retry_s(self._delay_s(client)))
        self.in_work += cells

    def let_out(self, cells: int = 1) -> None:
        """The message is answered, or given up."""
        self.in_work -= cells

    def turn(self, client: str, deadline: float) -> Turn:
        """The turn of a cell that was let in; `deadline` is a moment of the clock."""
        return Turn(self, client, deadline)

    async def begin(self, client: str, deadline: float) -> float:
        """See Turn: gives the seconds waited, and wants an `end`."""
        if self._in_hand < self._at_once and not self._waiting:
            self._in_hand += 1
            return 0.0
        asked = self._clock()
        waiting = _Waiting(asyncio.get_running_loop().create_future(), deadline)
        self._waiting.setdefault(client, deque()).append(waiting)
        try:
            await waiting.future
        except asyncio.CancelledError:
            if waiting.future.cancelled():
                self._drop(client, waiting)
            elif waiting.future.exception() is None:
                self.end()  # it was its turn just now
            elif isinstance(waiting.future.exception(), Overloaded):
                self._leaving -= 1
            raise
        except Overloaded:
            self._leaving -= 1
            raise
        return self._clock() - asked

    def end(self) -> None:
        """A cell is out of hand: the next one's turn."""
        self._in_hand -= 1
        now = self._clock()
        self._pace.left(now, contended=bool(self._waiting))
        while self._waiting and self._in_hand < self._at_once:
            client, queue = next(iter(self._waiting.items()))
            waiting = queue.popleft()
            if queue:
                self._waiting.move_to_end(client)
            else:
                del self._waiting[client]
            if waiting.future.done():
                continue
            if waiting.deadline <= now:
                waiting.future.set_exception(DeadlineExceeded(LATE))
            else:
                self._in_hand += 1
                waiting.future.set_result(None)

    def _delay_s(self, client: str) -> float | None:
        """When this client's next cell is expected to get its turn: after what is in hand and a round of the rest."""
        if self._pace.interval_s is None:
            return None
        own = len(self._waiting.get(client, ()))
        others = sum(min(len(queue), own + 1) for name, queue in self._waiting.items() if name != client)
        return self._pace.interval_s * (self._in_hand + own + others)

    def _make_way(self, client: str) -> bool:
        """Sends the newest waiting cell of whoever has most of them away; not where `client` would have as many."""
        if not self._waiting:
            return False
        name, queue = max(self._waiting.items(), key=lambda item: len(item[1]))
        if name == client or len(queue) <= len(self._waiting.get(client, ())) + 1:
            return False
        waiting = queue.pop()
        if not waiting.future.done():
            waiting.future.set_exception(Overloaded(GAVE_WAY, retry_after_s=_retry_s(self._delay_s(name))))
            self._leaving += 1
        return True

    def _drop(self, client: str, waiting: _Waiting) -> None:
        queue = self._waiting.get(client)
        if queue is not None and waiting in queue:
            queue.remove(waiting)
            if not queue:
                del self._waiting[client]


def _retry_s(delay: float | None) -> float:
    """When asking again may help; 1 second where the pace is not known."""
    return 1.0 if delay is None else min(MOST_RETRY_S, max(LEAST_RETRY_S, delay))
