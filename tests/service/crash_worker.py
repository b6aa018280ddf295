"""Lives of a worker, each ended by SIGKILL at a named point, forked from a process that is warm.

Reads one JSON object a line from stdin (a `Life`), writes one back (a `Death`). The clients' ears are on the other side
of a pipe, as real ones are: what went through it was answered.
"""

import asyncio
import gc
import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from service.contract.store import Store
from service.disk import RealFiles
from service.frames import Entry, decode, split
from service.journal import Journal
from service.shipper import Shipper
from tests.support.disks import ForgetfulFiles
from tests.support.entries import prediction, review

POINTS = ("enqueue", "write", "fsync", "reply", "ship", "truncate")
CLIENTS = 3
MOST_APPENDS = 3000  # by then every point was passed often enough; a life that sees the end of it was not killed
SECONDS = 60


@dataclass(frozen=True)
class Life:
    """One life: where it works, and at which passing of which point it ends. `mutant` names a fault that is planted."""

    root: str
    store: str
    name: str
    seed: int
    point: str
    passing: int
    mutant: str = ""


@dataclass(frozen=True)
class Death:
    """What came of it: [client, number] of each answer that left, and whether SIGKILL was the end."""

    answered: list[tuple[str, int]]
    killed: bool


class NeverSyncs(Journal):
    """The fsync is left out."""

    def _sync(self, handle: int) -> None:
        pass


class NeverSyncsNames(Journal):
    """The fsync of the folder is left out."""

    def _sync_names(self) -> None:
        pass


class AnswersFirst(Journal):
    """The answer leaves while the record is still on its way."""

    async def append(self, entries: Sequence[Entry]) -> None:
        self._late = getattr(self, "_late", [])
        self._late.append(asyncio.ensure_future(super().append(entries)))
        # Long enough that the disk is written to between answers, else all of them share the first few writes.
        await asyncio.sleep(0.001)


class RemovesFirst(Shipper):
    """The file goes before the store has it."""

    def _move(self, path: Path, length: int | None, *, torn_end: bool) -> None:
        found = split(self._files.read(path)[:length])
        self._files.unlink(path)
        self._files.sync_folder(path.parent)
        self._at("truncate")
        self._insert([decode(payload).record for payload in found.payloads])
        self._at("ship")


JOURNALS: dict[str, type[Journal]] = {
    "never syncs": NeverSyncs,
    "never syncs names": NeverSyncsNames,
    "answers first": AnswersFirst,
}
SHIPPERS: dict[str, type[Shipper]] = {"removes first": RemovesFirst}


def killer(life: Life, files: ForgetfulFiles) -> Callable[[str], None]:
    """A hook that ends the process at the n-th passing of the point."""
    lock = threading.Lock()
    left = life.passing

    def at(point: str) -> None:
        nonlocal left
        if point != life.point:
            return
        with lock:
            left -= 1
            if left == 0:
                files.crash()
                os.kill(os.getpid(), signal.SIGKILL)

    return at


async def live(life: Life, wire: int) -> None:
    """Answer clients until the end."""
    files = ForgetfulFiles(random.Random(life.seed))
    at = killer(life, files)
    root = Path(life.root)
    journal_type = JOURNALS.get(life.mutant, Journal)
    journal = journal_type(root, max_bytes=2**30, files=files, at=at, segment_bytes=4000)
    shipper_type = SHIPPERS.get(life.mutant, Shipper)
    shipper = shipper_type(root, journal, Store(life.store), period_s=0.001, files=files, at=at)
    await shipper.start()
    await asyncio.gather(*(client(journal, f"{life.name}-{number}", wire) for number in range(CLIENTS)))
    await shipper.stop()
    await journal.close()


async def client(journal: Journal, name: str, wire: int) -> None:
    """Every third answer is reviewed at once, in the same append."""
    for number in range(MOST_APPENDS // CLIENTS):
        group = [Entry.prediction(prediction(number, name))]
        if number % 3 == 0:
            group.append(Entry.review(review(number, name)))
        await journal.append(group)
        os.write(wire, f"{name} {number}\n".encode())


def fork(life: Life) -> Death:
    """Live it in a child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(SECONDS)  # a life that hangs ends too, and not by SIGKILL
        try:
            asyncio.run(live(life, writing))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as wire:
        lines = wire.read().decode().split("\n")
    _, status = os.waitpid(child, 0)
    # A line is whole or was never an answer.
    answered = [(name, int(number)) for name, number in (line.split() for line in lines[:-1])]
    return Death(answered, os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)


def recover(root: Path, store: Store) -> bool:
    """A last worker, on a disk that works, ships what the dead left; whether it shipped all of it."""

    async def last() -> bool:
        journal = Journal(root, max_bytes=2**30, files=RealFiles())
        shipper = Shipper(root, journal, store)
        await shipper.stop()
        await journal.close()
        return shipper.ship()

    return asyncio.run(last())


def warm_up() -> None:
    """Ship one record, so that the lives to come need not compile the same statements."""
    with TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/store.db")

        async def once() -> None:
            journal = Journal(Path(folder, "journal"), max_bytes=2**20)
            await journal.append([Entry.prediction(prediction(0)), Entry.review(review(0))])
            await Shipper(Path(folder, "journal"), journal, store).stop()
            await journal.close()

        asyncio.run(once())
        store.close()
    gc.freeze()


def main() -> None:
    """One life a line."""
    warm_up()
    for line in sys.stdin:
        death = fork(Life(**json.loads(line)))
        print(json.dumps(asdict(death)), flush=True)


if __name__ == "__main__":
    main()
