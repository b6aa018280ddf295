"""Asks the store on the way to an answer without letting the store hold the answer up."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from service.contract.errors import StoreUnavailable
from service.contract.store import StoredPrediction
from service.metrics import Metrics

T = TypeVar("T")

THREADS = 2
AWAY = "the store cannot be reached: try again in a few seconds"


class Records(Protocol):
    """The part of the store that answers and reviews look things up in; both methods raise StoreUnavailable."""

    def get(self, record_id: str) -> StoredPrediction | None:
        """The record of that id."""
        ...

    def by_request(self, client: str, request_id: str) -> list[StoredPrediction]:
        """What is on record for a client's request id."""
        ...


class Lookup:
    """Bounded questions to a database that may be away.

    A question that fails or takes longer than `timeout_s` is StoreUnavailable; for `pause_s` after that every other one
    is so at once, and then one question at a time finds out whether the store is back.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        timeout_s: float = 0.5,
        pause_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._clock = clock
        self._closed_until: float | None = None
        self._probing = False
        # Its own threads: questions that hang must not keep pictures from being decoded.
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="lookup")
        self._turns = asyncio.Semaphore(THREADS)

    async def ask(self, question: Callable[[], T], *, insist: bool = False) -> T:
        """Runs `question` in a thread; `insist` asks even in a pause. Raises StoreUnavailable."""
        self._refuse_in_a_pause(insist)
        async with self._turns:  # so that the patience is for the store, not for the queue in front of it
            self._refuse_in_a_pause(insist)
            return await self._ask(question, probe=self._closed_until is not None and not insist)

    def _refuse_in_a_pause(self, insist: bool) -> None:
        if self._closed_until is None or insist:
            return
        if self._probing or self._clock() < self._closed_until:
            raise StoreUnavailable(AWAY)

    async def _ask(self, question: Callable[[], T], *, probe: bool) -> T:
        self._probing = self._probing or probe
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await asyncio.get_running_loop().run_in_executor(self._threads, question)
        except (StoreUnavailable, TimeoutError):
            self._closed_until = self._clock() + self._pause_s
            self._metrics.store_unreachable.inc()
            # Not the store's own text: it names a file or a host, which is not a caller's business.
            raise StoreUnavailable(AWAY) from None
        finally:
            if probe:
                self._probing = False
        self._closed_until = None
        return found

    def close(self) -> None:
        """Lets the threads go; a question that still hangs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
