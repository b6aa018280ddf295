"""Moves the journal to the store: this worker's, and that of any worker that is gone.

A file is removed only after the store has committed its entries. The store knows each entry by its id, so that shipping
a file twice, after a crash or by two shippers, changes nothing.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from sqlalchemy.exc import OperationalError, ProgrammingError

from service.contract.errors import ConfigError, StoreUnavailable
from service.contract.records import PredictionRecord, ReviewRecord
from service.disk import Files, RealFiles, claim, make_folders, release
from service.frames import decode, split
from service.journal import SUFFIX, Journal, nothing
from service.periodic import Periodic

logger = logging.getLogger(__name__)

REJECTED = "rejected"
LONGEST_PAUSE_S = 5.0
# The store is not what this release expects (no such table, no permission): no entry is to blame, so all of them wait.
STORES_FAULT = (StoreUnavailable, ConfigError, ProgrammingError, OperationalError)
WORKER = re.compile(r"[0-9a-f]{32}")

Record = PredictionRecord | ReviewRecord


class RecordStore(Protocol):
    """The part of the store that takes entries in; both methods are idempotent and raise StoreUnavailable."""

    def insert_predictions(self, records: Sequence[PredictionRecord]) -> int:
        """Keep answers by id."""
        ...

    def insert_reviews(self, reviews: Sequence[ReviewRecord]) -> int:
        """Keep reviews by id."""
        ...


class Shipper:
    """Ships every `period_s` seconds in a thread of its own; while the store is away it asks ever more rarely.

    A file with an entry that cannot be read, or that the store refuses, is moved to `root/rejected/` once its other
    entries are shipped: nothing that was answered is deleted unread. `on_store_away` is called for each round in which
    the store cannot be reached; `at` is called at the named points ship (the store has the entries) and truncate (the
    file is removed).
    """

    def __init__(
        self,
        root: Path,
        journal: Journal,
        store: RecordStore,
        *,
        period_s: float = 0.2,
        files: Files | None = None,
        at: Callable[[str], None] = nothing,
        on_store_away: Callable[[], None] = lambda: None,
    ) -> None:
        self._root = Path(root)
        self._journal = journal
        self._store = store
        self._period_s = period_s
        self._files: Files = files or RealFiles()
        self._at = at
        self._on_store_away = on_store_away
        self._failures = 0
        self._shipping = Periodic("shipper", self._work)

    @property
    def pending_bytes(self) -> int:
        """Bytes that the store does not have yet, of this worker and of workers that are gone."""
        return self._journal.pending_bytes

    async def start(self) -> None:
        """Begin; what workers before left behind counts against the journal's bound from here on."""
        await asyncio.to_thread(self._count_orphaned)
        self._shipping.start()

    async def stop(self) -> None:
        """Ship what is there, if the store can be reached, and end. Before or after `Journal.close`."""
        await self._shipping.stop()
        await asyncio.to_thread(self.ship)

    def ship(self) -> bool:
        """One round; whether the store has everything that this process can reach now."""
        try:
            self._ship_sealed()
            # Only when the store takes files: an outage must not leave thousands of small ones.
            self._journal.seal()
            self._ship_sealed()
            self._adopt_orphans()
        except (*STORES_FAULT, OSError) as error:
            self._failures += 1
            if self._failures == 1:
                logger.warning("the journal cannot be shipped, it grows until it can: %s", error)
            if isinstance(error, STORES_FAULT):
                self._on_store_away()
        else:
            if self._failures:
                logger.info("the journal is shipped again")
            self._failures = 0
        self._count_orphaned()
        return self._failures == 0

    def _work(self) -> float:
        self.ship()
        return min(LONGEST_PAUSE_S, self._period_s * 2.0 ** min(self._failures, 10))

    def _ship_sealed(self) -> None:
        sealed = self._journal.sealed()
        for segment in sealed:
            self._move(segment.path, segment.length, torn_end=False)
            self._journal.forget(segment)
        # The folder goes with a journal that closes meanwhile.
        if sealed and self._journal.folder.exists():
            self._files.sync_folder(self._journal.folder)

    def _adopt_orphans(self) -> None:
        trouble: OSError | None = None
        for folder in self._folders():
            try:
                self._adopt(folder)
            except OSError as error:
                # One folder that cannot be read must not keep the others waiting.
                trouble = error
        if trouble is not None:
            raise trouble

    def _adopt(self, folder: Path) -> None:
        """Ship the folder of a worker that is gone, and remove it."""
        lock = claim(folder)
        if lock is None:
            return
        try:
            paths = _segments(folder)
            for path in paths:
                # Only the last file can have been in the middle of a write.
                self._move(path, None, torn_end=path == paths[-1])
            if paths:
                self._files.sync_folder(folder)
        finally:
            release(folder, lock)

    def _move(self, path: Path, length: int | None, *, torn_end: bool) -> None:
        """Entries to the store, then the file off the disk; should that be undone by a crash, it is shipped again."""
        try:
            data = self._files.read(path)[:length]
        except FileNotFoundError:
            # A shipper that was still busy when its journal closed, beside one that adopted the folder at once.
            logger.info("%s is gone: another shipper has moved it", path)
            return
        found = split(data)
        records: list[Record] = []
        whole = not found.damaged
        for payload in found.payloads:
            try:
                records.append(decode(payload).record)
            except ValueError as error:
                logger.error("%s has an entry that this release cannot read: %s", path, error)
                whole = False
        if found.torn and torn_end:
            logger.warning("%s ends in %d bytes of an entry that was never answered: cut", path, found.torn)
        elif found.torn or found.damaged:
            logger.error("%s is damaged: %d bytes are no whole entries", path, found.torn + found.damaged)
            whole = False
        whole = self._insert(records) and whole
        self._at("ship")
        if whole:
            with contextlib.suppress(FileNotFoundError):
                self._files.unlink(path)
        else:
            self._reject(path)
        self._at("truncate")

    def _insert(self, records: Sequence[Record]) -> bool:
        """Everything to the store; whether it took every entry. Raises what is the store's fault."""
        try:
            self._insert_all(records)
        except STORES_FAULT:
            raise
        except Exception:
            logger.exception("the store refuses %d entries together; they are tried one by one", len(records))
            return self._insert_singly(records)
        return True

    def _insert_all(self, records: Sequence[Record]) -> None:
        # Answers first: a review must not be seen before what it reviews.
        if predictions := [record for record in records if isinstance(record, PredictionRecord)]:
            self._store.insert_predictions(predictions)
        if reviews := [record for record in records if isinstance(record, ReviewRecord)]:
            self._store.insert_reviews(reviews)

    def _insert_singly(self, records: Sequence[Record]) -> bool:
        whole = True
        for record in records:
            try:
                self._insert_all([record])
            except STORES_FAULT:
                raise
            except Exception:
                logger.exception("the store refuses the entry of record %s", record.record_id)
                whole = False
        return whole

    def _reject(self, path: Path) -> None:
        target = self._root / REJECTED / f"{path.parent.name}-{path.name}"
        make_folders(self._files, target.parent)
        self._files.rename(path, target)
        self._files.sync_folder(target.parent)
        logger.error("%s holds entries that are not in the store: keep it, and look at it", target)

    def _folders(self) -> list[Path]:
        if not self._root.is_dir():
            return []
        return sorted(path for path in self._root.iterdir() if WORKER.fullmatch(path.name) and path.is_dir())

    def _count_orphaned(self) -> None:
        total = 0
        for folder in self._folders():
            with contextlib.suppress(OSError):
                lock = claim(folder)
                if lock is not None:
                    total += sum(path.stat().st_size for path in _segments(folder))
                    release(folder, lock)
        self._journal.count_orphaned(total)


def _segments(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))
