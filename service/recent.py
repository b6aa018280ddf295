"""What this worker answered lately, and what it is answering now: the first place to look for a retry."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from service.contract.errors import Conflict
from service.contract.records import PredictionRecord

Key = tuple[str, str]
"""(client, request_id): what a client means by "the same request"."""


class Recent:
    """A bounded memory of records, by record id and by request; the longest unused one goes first."""

    def __init__(self, capacity: int = 4096) -> None:
        self._capacity = capacity
        self._records: OrderedDict[str, PredictionRecord] = OrderedDict()
        self._requests: dict[Key, str] = {}

    def add(self, record: PredictionRecord) -> None:
        """Remembers a record; of several under one request the last one counts."""
        self._records[record.record_id] = record
        self._records.move_to_end(record.record_id)
        self._requests[record.key] = record.record_id
        while len(self._records) > self._capacity:
            gone_id, gone = self._records.popitem(last=False)
            if self._requests.get(gone.key) == gone_id:
                del self._requests[gone.key]

    def by_record(self, record_id: str) -> PredictionRecord | None:
        """The record of that id, if it is still remembered."""
        return self._touch(record_id)

    def by_request(self, key: Key) -> PredictionRecord | None:
        """The last record under that request, if it is still remembered."""
        found = self._requests.get(key)
        return None if found is None else self._touch(found)

    def __len__(self) -> int:
        return len(self._records)

    def _touch(self, record_id: str) -> PredictionRecord | None:
        record = self._records.get(record_id)
        if record is not None:
            self._records.move_to_end(record_id)
        return record


@dataclass
class _Flight:
    pixels_sha256: str
    task: asyncio.Task[PredictionRecord]
    waiting: int = 0


class Flights:
    """Requests under way: doubles of one request share one computation, and it stops when nobody waits any more."""

    def __init__(self) -> None:
        self._flights: dict[Key, _Flight] = {}

    def check(self, key: Key, pixels_sha256: str) -> bool:
        """Whether the same request is under way. Raises Conflict when it is with another image."""
        flight = self._flights.get(key)
        if flight is not None and flight.pixels_sha256 != pixels_sha256:
            raise Conflict("another image is being classified under this request_id: use a new one for a new image")
        return flight is not None

    async def share(
        self, key: Key, pixels_sha256: str, work: Callable[[], Coroutine[Any, Any, PredictionRecord]]
    ) -> PredictionRecord:
        """The record of the request under `key`: joins the work under way, else starts `work`."""
        if not self.check(key, pixels_sha256):
            task = asyncio.create_task(work())
            self._flights[key] = _Flight(pixels_sha256, task)
            task.add_done_callback(lambda done: self._landed(key, done))
        flight = self._flights[key]
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._forget(key, flight.task)
                flight.task.cancel()

    def _landed(self, key: Key, task: asyncio.Task[PredictionRecord]) -> None:
        self._forget(key, task)
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may have

    def _forget(self, key: Key, task: asyncio.Task[PredictionRecord]) -> None:
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]
