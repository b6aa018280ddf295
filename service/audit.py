"""Who called what, when and with which outcome: rows in files of their own, written beside the answers.

A row is on disk within a fraction of a second, and an answer does not wait for it: the record of an answered cell,
which names the client too, is in the journal before the answer leaves. Each worker writes its own files; a file ends
with the day or when it is large, and is deleted when it is old.
"""

import asyncio
import json
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from service.periodic import Periodic

PERIOD_S = 0.2
MAX_WAITING = 65_536
MAX_FILE_BYTES = 64 * 2**20
DAY_S = 86_400.0


@dataclass(frozen=True)
class AuditRow:
    """One access. `request_id` is the caller's name for the request; a patient is nowhere."""

    time: str
    client: str
    address: str
    transport: str
    method: str
    code: str
    request_id: str


class Audit:
    """The audit files of one worker in `folder` (mode 0600).

    While the disk fails, rows wait; beyond 65536 of them each new one is given up and told to `on_loss`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        retention_days: int,
        on_loss: Callable[[], None],
        max_file_bytes: int = MAX_FILE_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._retention_days = retention_days
        self._on_loss = on_loss
        self._max_file_bytes = max_file_bytes
        self._clock = clock
        self._waiting: deque[AuditRow] = deque()
        self._file: int | None = None
        self._size = 0
        self._day = ""
        self._periodic = Periodic("audit", self._work)

    def start(self) -> None:
        """Begins to write, in a thread."""
        self._periodic.start()

    def add(self, row: AuditRow) -> None:
        """Takes a row; never waits."""
        if len(self._waiting) >= MAX_WAITING:
            self._on_loss()
            return
        self._waiting.append(row)

    async def stop(self) -> None:
        """Writes what is left. Raises OSError when it cannot."""
        await self._periodic.stop()
        try:
            await asyncio.to_thread(self.flush)
        finally:
            self._close()

    def flush(self) -> None:
        """Writes and syncs every row that waits; one call at a time. Raises OSError, and the rows wait on then."""
        rows = list(self._waiting)
        if not rows:
            return
        data = "".join(json.dumps(vars(row)) + "\n" for row in rows).encode()
        file = self._current()
        try:
            written = 0
            while written < len(data):
                written += os.write(file, data[written:])
            os.fsync(file)
        except OSError:
            os.ftruncate(file, self._size)  # no half row stays
            raise
        self._size += len(data)
        for _ in rows:
            self._waiting.popleft()

    def _work(self) -> float:
        self.flush()
        return PERIOD_S

    def _current(self) -> int:
        """The file to write to: a new one each day, and after a large one."""
        day = time.strftime("%Y%m%d", time.gmtime(self._clock()))
        if self._file is None or day != self._day or self._size >= self._max_file_bytes:
            self._close()
            self._folder.mkdir(parents=True, exist_ok=True)
            self._purge()
            path = self._folder / f"audit-{day}-{uuid4().hex[:12]}.jsonl"
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            self._size, self._day = 0, day
        return self._file

    def _purge(self) -> None:
        oldest = self._clock() - self._retention_days * DAY_S
        for path in self._folder.glob("audit-*.jsonl"):
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
