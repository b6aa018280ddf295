"""The journal: what is answered is on disk before the answer leaves (docs/adr/0003).

Each worker appends to files in a folder of its own, `root/<worker>/`, which it holds by a lock. Entries that come while
the disk is busy share the next fsync. The shipper (service/shipper.py) moves full files to the store and removes them.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from service.contract.errors import ConfigError, NotReady, Overloaded, StoreUnavailable
from service.disk import Files, RealFiles, claim, make_folders, release
from service.frames import Entry, encode

__all__ = ["Entry", "Journal", "Segment", "nothing"]

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 4 * 2**20
SUFFIX = ".journal"


def nothing(point: str) -> None:
    """The null hook: tests pass another to stop a process at a named point."""


@dataclass(eq=False)
class Segment:
    """A file of the journal, and how many of its bytes are known to be durable."""

    path: Path
    length: int = 0


@dataclass(frozen=True, eq=False)
class _Waiting:
    frames: bytes
    done: asyncio.Future[None]


class Journal:
    """A worker's journal. `append` and `close` belong to the event loop, the rest may be called from any thread.

    `max_bytes` bounds what the store does not have yet: this worker's files and those of workers that are gone. `at` is
    called at the named points enqueue, write, fsync and reply of every append.
    """

    def __init__(
        self,
        root: Path,
        *,
        max_bytes: int,
        files: Files | None = None,
        at: Callable[[str], None] = nothing,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        """Make and claim a folder. Raises ConfigError when that cannot be done."""
        self._files: Files = files or RealFiles()
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._at = at
        try:
            self.folder, self._claim = _claim_new(Path(root), self._files)
        except OSError as error:
            text = f"the journal folder {root} cannot be used ({error.strerror}): set BLASTWATCH_JOURNAL_DIR"
            raise ConfigError(text) from error
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._disk = threading.Lock()  # over the files and the four fields below
        self._active: tuple[Segment, int] | None = None
        self._sealed: list[Segment] = []
        self._made = 0
        self._on_disk = 0
        self._orphaned = 0
        self._reserved = 0
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self._closed = False
        self._failing = False

    @property
    def worker(self) -> str:
        """The worker's id: its folder's name."""
        return self.folder.name

    @property
    def pending_bytes(self) -> int:
        """Bytes that the store does not have yet, of this worker and of workers that are gone."""
        return self._on_disk + self._reserved + self._orphaned

    async def append(self, entries: Sequence[Entry]) -> None:
        """Return once the entries are durable; if it raises, do not answer.

        Raises Overloaded at the bound, StoreUnavailable when the disk fails, NotReady after close, and ValueError for
        an entry that cannot be written.
        """
        frames = b"".join(encode(entry) for entry in entries)
        if self._closed:
            raise NotReady("the service is stopping: try again")
        if self.pending_bytes + len(frames) > self._max_bytes:
            raise Overloaded("the journal is full because the store is away: try again later", retry_after_s=5.0)
        self._at("enqueue")
        waiting = _Waiting(frames, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._reserved += len(frames)
        if self._writer is None or self._writer.done():
            # It writes for every caller: its lines in the log are not about the one who happened to start it.
            self._writer = asyncio.create_task(self._write_groups(), name="journal", context=Context())
        await waiting.done
        self._at("reply")

    def seal(self) -> None:
        """End the file that is being written, so that it can be shipped."""
        with self._disk:
            self._seal()

    def sealed(self) -> list[Segment]:
        """Files that are no longer written to, oldest first."""
        with self._disk:
            return [] if self._closed else list(self._sealed)

    def forget(self, segment: Segment) -> None:
        """The store has a sealed file, and it is gone from the disk."""
        with self._disk:
            if segment in self._sealed:
                self._sealed.remove(segment)
                self._on_disk -= segment.length

    def count_orphaned(self, size: int) -> None:
        """Bytes in folders of workers that are gone; they count against the bound."""
        self._orphaned = size

    async def close(self) -> None:
        """Take no more entries, write those that wait, and let the folder go; what is in it is anybody's to ship."""
        if self._closed:
            return
        self._closed = True
        if self._writer is not None:
            await asyncio.wait({self._writer})
        with self._disk:
            self._seal()
            self._sealed.clear()
            self._on_disk = 0
        self._thread.shutdown(wait=False)
        release(self.folder, self._claim)

    async def _write_groups(self) -> None:
        """One group after another: all that came while the one before was written share a write and an fsync."""
        group: list[_Waiting] = []
        try:
            while self._waiting:
                group, self._waiting = self._waiting, []
                # A caller that left gets no answer, so there is nothing to put on record.
                frames = b"".join(waiting.frames for waiting in group if not waiting.done.done())
                error: StoreUnavailable | None = None
                try:
                    await asyncio.get_running_loop().run_in_executor(self._thread, self._write, frames)
                    self._failing = False
                except Exception as trouble:
                    if not self._failing:  # once an outage, not once an answer
                        logger.error("the journal cannot be written, so nothing is answered", exc_info=trouble)
                    self._failing = True
                    error = StoreUnavailable("the answer cannot be put on record: try again later")
                    error.__cause__ = trouble
                self._settle(group, error)
                group = []
        finally:
            self._settle([*group, *self._waiting], NotReady("the service is stopping: try again"))
            self._waiting.clear()

    def _settle(self, group: Sequence[_Waiting], error: Exception | None) -> None:
        for waiting in group:
            self._reserved -= len(waiting.frames)
            if waiting.done.done():
                continue
            if error is None:
                waiting.done.set_result(None)
            else:
                waiting.done.set_exception(error)

    def _write(self, frames: bytes) -> None:
        """In the journal's thread: write and make durable, or fail and be as before."""
        if not frames:
            return
        with self._disk:
            segment, handle = self._active or self._open()
            try:
                self._files.write(handle, frames)
                self._at("write")
                self._sync(handle)
            except BaseException:
                self._abandon()
                raise
            segment.length += len(frames)
            self._on_disk += len(frames)
            if segment.length >= self._segment_bytes:
                self._seal()
            self._at("fsync")

    def _sync(self, handle: int) -> None:
        self._files.sync(handle)

    def _sync_names(self) -> None:
        self._files.sync_folder(self.folder)

    def _open(self) -> tuple[Segment, int]:
        self._made += 1
        segment = Segment(self.folder / f"{self._made:08d}{SUFFIX}")
        self._active = segment, self._files.create(segment.path)
        try:
            self._sync_names()
        except BaseException:
            self._abandon()
            raise
        return self._active

    def _seal(self) -> None:
        if self._active is None:
            return
        segment, handle = self._active
        self._active = None
        self._sealed.append(segment)
        self._close_handle(handle)

    def _abandon(self) -> None:
        """After a failure: cut the file back to what is durable and never write to it again.

        A second fsync of the same file may report success for bytes that the first one lost, so it proves nothing. If
        the cut fails too, the length that is kept here still ends the file for this worker's shipper; after a crash on
        top of that, entries whose answer did not leave may reach the store.
        """
        assert self._active is not None  # noqa: S101
        segment, handle = self._active
        self._active = None
        with contextlib.suppress(OSError):
            self._files.truncate(handle, segment.length)
            self._files.sync(handle)
        self._close_handle(handle)
        if segment.length:
            self._sealed.append(segment)
        else:
            with contextlib.suppress(OSError):
                self._files.unlink(segment.path)

    def _close_handle(self, handle: int) -> None:
        # What counts was synced before; close can only complain about what does not.
        with contextlib.suppress(OSError):
            self._files.close(handle)


def _claim_new(root: Path, files: Files) -> tuple[Path, int]:
    make_folders(files, root)
    while True:
        folder = root / uuid4().hex
        files.make_folder(folder)
        # A shipper that looks for orphans may take the folder in the instant before it is locked; then try another.
        lock = claim(folder)
        if lock is not None:
            files.sync_folder(root)
            return folder, lock
