"""Cells on their way to the service, and what came back: every answer is kept, so that none can be lost unseen."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from service.client import Client
from service.contract.errors import BlastwatchError
from training.datasets import SourceCell

Sent = tuple[SourceCell, str]  # the cell, the record id of its answer


@dataclass
class Tally:
    """What was asked and what came back, over all senders."""

    requests: int = 0
    failures: list[str] = field(default_factory=list)
    records: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, record_id: str) -> None:
        """Count one answer."""
        with self._lock:
            self.requests += 1
            self.records.add(record_id)

    def failed(self, why: str) -> None:
        """Count one request that got an error."""
        with self._lock:
            self.requests += 1
            self.failures.append(why)


class Sender:
    """Sends cells over gRPC as several hospital systems at once would, keeping each patient's cells in order."""

    def __init__(self, target: str, tally: Tally, channels: int = 4) -> None:
        """`target` is host:port; one client a channel, since one channel stays on one worker."""
        # One attempt a request: a retry would hide the failure that the demo says there is none of.
        self._clients = [Client(target, attempts=1) for _ in range(channels)]
        self._tally = tally

    def __enter__(self) -> "Sender":
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()

    def one(self, cell: SourceCell, channel: int = 0) -> Sent | None:
        """Send one cell; None when the service answered with an error."""
        try:
            answer = self._clients[channel].classify(
                cell.image,
                patient_id=cell.patient,
                site=cell.site,
                stain=cell.stain,
                scanner=cell.scanner,
                pixel_size_um=cell.pixel_size_um,
            )
        except BlastwatchError as error:
            self._tally.failed(f"{type(error).__name__}: {error}")
            return None
        self._tally.answered(answer.record_id)
        return cell, answer.record_id

    def send(self, cells: Sequence[SourceCell], between: Callable[[], object] = lambda: None) -> list[Sent]:
        """Send all, a share a channel; `between` is called now and then by the first channel."""
        shares = [cells[k :: len(self._clients)] for k in range(len(self._clients))]

        def share(channel: int) -> list[Sent]:
            sent = []
            for n, cell in enumerate(shares[channel]):
                if (done := self.one(cell, channel)) is not None:
                    sent.append(done)
                if channel == 0 and n % 10 == 0:
                    between()
            return sent

        with ThreadPoolExecutor(len(self._clients)) as pool:
            return [sent for part in pool.map(share, range(len(self._clients))) for sent in part]


class Trickle:
    """A steady trickle in the background, so that a swap happens under load and a failed request would be seen."""

    def __init__(self, target: str, tally: Tally, cells: Iterable[SourceCell], per_second: float) -> None:
        """Sends `cells` one after the other until stopped or through."""
        self._sender = Sender(target, tally, channels=1)
        self._cells = cells
        self._pause = 1.0 / per_second
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trickle", daemon=True)
        self.sent: list[Sent] = []

    def __enter__(self) -> "Trickle":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sender.__exit__()

    def _run(self) -> None:
        for cell in self._cells:
            started = time.monotonic()
            if (done := self._sender.one(cell)) is not None:
                self.sent.append(done)
            if self._stop.wait(max(0.0, self._pause - (time.monotonic() - started))):
                return
