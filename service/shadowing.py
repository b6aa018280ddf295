"""A second model that sees a share of the cells after they were answered. Its answers go to the store only.

It has a thread of its own that yields to every other, and a short queue: what does not fit is dropped and counted, so
that it never delays or fails an answer. Its answers are promised to nobody, so they do not pass through the journal
(docs/adr/0008).
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from service.contract.decision import decide
from service.contract.errors import StoreUnavailable
from service.contract.image import row_check
from service.contract.predictor import Predictor
from service.contract.records import PredictionRecord, utc_now
from service.contract.serving import Share
from service.contract.shadows import ShadowAnswer
from service.domain import Cell
from service.identity import IdentityError
from service.intake import Prepared, seen
from service.priority import give_way

log = logging.getLogger(__name__)

MAX_WAITING = 64
MAX_WAITING_BYTES = 64 * 2**20
"""Of images whose pixels have to be prepared again, for a shadow that sees another field."""
MAX_UNWRITTEN = 1024
WRITE_EVERY_S = 1.0
PATIENCE_S = 60.0
"""How long an answer waits for its record to get to the store."""
NICENESS = 10

Write = Callable[[Sequence[ShadowAnswer]], list[ShadowAnswer]]


@dataclass(frozen=True)
class _Work:
    record: PredictionRecord
    cell: Cell
    prepared: Prepared

    @property
    def size(self) -> int:
        return len(self.cell.image) + self.prepared.pixels.nbytes


class Shadowing:
    """The thread behind a shadow.

    `write` keeps answers and gives those back whose record is not in the store yet. `on_answered` is told whether the
    shadow's label is that of the answer, `on_dropped` of each cell or answer that was given up.
    """

    def __init__(
        self,
        write: Write,
        *,
        on_answered: Callable[[bool], None] = lambda agrees: None,
        on_dropped: Callable[[], None] = lambda: None,
    ) -> None:
        self._write = write
        self._on_answered = on_answered
        self._on_dropped = on_dropped
        self._side: tuple[Share, Predictor] | None = None
        self._waiting: queue.Queue[_Work | None] = queue.Queue()
        self._bytes = 0
        self._lock = threading.Lock()
        self._unwritten: list[tuple[float, ShadowAnswer]] = []
        self._away = False
        self._thread: threading.Thread | None = None

    def begin(self, share: Share, predictor: Predictor) -> None:
        """This model sees its share from now on."""
        self._side = share, predictor
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="shadow", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Nothing more is seen; what waits is still looked at."""
        self._side = None

    def stop(self) -> None:
        """Ends the thread; what waits is dropped, what is answered is written if the store can be reached."""
        self.end()
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()

    @property
    def version(self) -> str:
        """The model that sees a share now, or ""."""
        side = self._side
        return side[1].version if side is not None else ""

    def offer(self, record: PredictionRecord, cell: Cell, prepared: Prepared) -> None:
        """A cell that was answered, on record, and as it was sent. Never waits."""
        side = self._side
        if side is None or record.test or record.model_version == side[1].version or not side[0].has(record.record_id):
            return
        work = _Work(record, cell, prepared)
        with self._lock:
            full = self._waiting.qsize() >= MAX_WAITING or self._bytes + work.size > MAX_WAITING_BYTES
            self._bytes += 0 if full else work.size
        if full:
            self._on_dropped()
        else:
            self._waiting.put(work)

    def _loop(self) -> None:
        give_way(NICENESS)
        due = time.monotonic() + WRITE_EVERY_S
        while True:
            with contextlib.suppress(queue.Empty):
                work = self._waiting.get(timeout=max(0.0, due - time.monotonic()))
                if work is None:
                    break
                self._look(work)
            if time.monotonic() >= due:
                self._flush()
                due = time.monotonic() + WRITE_EVERY_S
        self._flush()

    def _look(self, work: _Work) -> None:
        with self._lock:
            self._bytes -= work.size
        side = self._side
        if side is None:
            return
        try:
            answer = _answer(side[1], work)
        except Exception as error:
            # Whatever is wrong with it, the answer has left, and production goes on.
            log.error("shadow %s gives no answer to record %s: %s", side[1].version, work.record.record_id, error)
            self._on_dropped()
            return
        self._on_answered(answer.label == work.record.label)
        self._unwritten.append((time.monotonic(), answer))
        while len(self._unwritten) > MAX_UNWRITTEN:
            self._unwritten.pop(0)
            self._on_dropped()

    def _flush(self) -> None:
        if not self._unwritten:
            return
        try:
            left = {answer.record_id for answer in self._write([answer for _, answer in self._unwritten])}
        except Exception as error:
            if not self._away:
                surprise = None if isinstance(error, StoreUnavailable) else error
                log.warning("the shadow's answers cannot be written: %s", error, exc_info=surprise)
            self._away = True
            return
        self._away = False
        oldest = time.monotonic() - PATIENCE_S
        for since, answer in self._unwritten:
            if answer.record_id in left and since < oldest:
                self._on_dropped()
        self._unwritten = [
            (since, answer) for since, answer in self._unwritten if answer.record_id in left and since >= oldest
        ]


def _answer(predictor: Predictor, work: _Work) -> ShadowAnswer:
    manifest, record = predictor.manifest, work.record
    pixels = work.prepared.pixels if manifest.field == work.prepared.field else seen(work.cell, manifest.field)
    started = time.monotonic()
    batch = pixels[np.newaxis]
    outputs = predictor.predict(batch)
    took = time.monotonic() - started
    if outputs.row_check[0] != row_check(batch)[0]:
        raise IdentityError
    probabilities = [float(p) for p in outputs.probabilities[0]]
    ood_score = float(outputs.ood_score[0])
    decision = decide(manifest, probabilities, ood_score, record.pixel_size_um > 0)
    return ShadowAnswer(
        record_id=record.record_id,
        version=predictor.version,
        time=utc_now(),
        label=decision.label,
        probabilities=dict(zip(manifest.labels, probabilities, strict=True)),
        malignant_probability=decision.malignant_probability,
        refer=decision.refer,
        refer_reasons=decision.reasons,
        ood_score=ood_score,
        compute_ms=round(took * 1000, 3),
    )
