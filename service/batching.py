"""The micro-batcher: single cells in, batches to the model, each answer back to the cell it belongs to.

A full batch fires at once, and so does a partial one that no other cell is on its way to; else it waits until
`max_wait_s` after its first job came. The model runs in one thread off the
event loop, and the next batch gathers while it does.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic

import numpy as np

from service.contract.errors import DeadlineExceeded, NotReady, Overloaded
from service.contract.image import Pixels, row_check
from service.identity import Computed, IdentityError, ModelT, OutputsError, Vector, check_rows, seal
from service.priority import give_way

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row(Generic[ModelT]):
    """One cell's outputs: probabilities float32 [C], embedding float32 [E], OOD score, row check, and the model asked.

    batch_size: cells computed together. queue_s: waiting for the batch; compute_s: computing it; both in seconds.
    """

    probabilities: Vector
    embedding: Vector
    ood_score: float
    row_check: int
    model: ModelT
    batch_size: int
    queue_s: float
    compute_s: float


@dataclass(eq=False)
class Job(Generic[ModelT]):
    """A cell that waits for its answer; `row_check` is of its own pixels, from before they meet any other."""

    pixels: Pixels
    row_check: int
    arrived: float
    deadline: float | None
    future: asyncio.Future[Row[ModelT]]


@dataclass(frozen=True)
class SealedRow(Generic[ModelT]):
    """A row on its way to its job, with the seal taken when it was computed."""

    row: Row[ModelT]
    seal: bytes


async def wait_for(event: asyncio.Event, timeout_s: float | None) -> None:
    """Return when the event is set, or after `timeout_s` (None: never) at the latest."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()


def compute_thread() -> Executor:
    """A thread to compute in. The event loop, which has little to do and everybody waits for, goes before it."""
    return ThreadPoolExecutor(1, thread_name_prefix="compute", initializer=give_way)


class Batcher(Generic[ModelT]):
    """Gathers jobs into batches for `run`, which may use another model each time but one model a batch.

    `run` takes uint8 [n, H, W, 3] and gives the sealed outputs with the model it used (`Registry.compute`). It runs
    in `executor`, by default a thread of the batcher's own. `coming` is how many cells are on their way here, as far
    as the caller knows: while there are none, nothing is waited for. `clock` counts seconds and never goes back.
    """

    def __init__(
        self,
        run: Callable[[Pixels], Computed[ModelT]],
        *,
        max_batch: int = 16,
        max_wait_s: float = 0.004,
        max_queue: int = 256,
        coming: Callable[[], int] = lambda: 1,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[asyncio.Event, float | None], Awaitable[None]] = wait_for,
        executor: Executor | None = None,
    ) -> None:
        if max_batch < 1 or max_queue < 1 or max_wait_s < 0:
            raise ValueError("max_batch and max_queue must be at least 1, max_wait_s at least 0")
        self._run = run
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._max_queue = max_queue
        self._coming = coming
        self._clock = clock
        self._wait = wait
        self._executor = compute_thread() if executor is None else executor
        self._owns_executor = executor is None
        self._queue: deque[Job[ModelT]] = deque()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def depth(self) -> int:
        """Jobs that wait for a batch."""
        return len(self._queue)

    async def submit(self, pixels: Pixels, *, deadline: float | None = None, check: int | None = None) -> Row[ModelT]:
        """The outputs for one cell, uint8 [H, W, 3]; `deadline` is a moment of `clock`, `check` the pixels' row check.

        Raises NotReady before start and after stop, Overloaded at once when the queue is full, DeadlineExceeded when
        the deadline passes before the cell is computed, IdentityError when the answer cannot be matched to these
        pixels, OutputsError, whatever `run` raises for the batch, and ValueError for another shape or type.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"expected uint8 [H, W, 3], not {pixels.dtype} {list(pixels.shape)}")
        if self._task is None or self._task.done() or self._stopping:
            raise NotReady("the service is starting or stopping: try again")
        now = self._clock()
        if deadline is not None and deadline <= now:
            raise DeadlineExceeded("the deadline passed before the image was computed")
        if len(self._queue) >= self._max_queue:
            raise Overloaded
        future: asyncio.Future[Row[ModelT]] = asyncio.get_running_loop().create_future()
        if check is None:
            check = int(row_check(pixels[np.newaxis])[0])
        job = Job(pixels, check, now, deadline, future)
        self._queue.append(job)
        # The gatherer sleeps through the jobs between the first and the one that fills the batch, or is the last.
        if len(self._queue) in (1, self._max_batch) or not self._coming():
            self._changed.set()
        try:
            return await future
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):
                self._queue.remove(job)
            raise

    async def start(self) -> None:
        """Begin to serve, once."""
        if self._task is not None:
            raise RuntimeError("a batcher starts once")
        self._task = asyncio.create_task(self._serve(), name="batcher")
        self._task.add_done_callback(self._ended)

    async def stop(self, *, timeout_s: float | None = None) -> None:
        """Take no more jobs and compute those that wait; after `timeout_s` seconds the rest gets NotReady."""
        self._stopping = True
        self._changed.set()
        try:
            if self._task is not None:
                await asyncio.wait({self._task}, timeout=timeout_s)
        finally:
            if self._task is not None and not self._task.done():
                self._task.cancel()
                await asyncio.wait({self._task})
            self._fail(self._queue, NotReady("the service is stopping: try again"))
            self._queue.clear()
            if self._owns_executor:
                # Not waited for: a computation may hang, and whoever waited for it has been told.
                self._executor.shutdown(wait=False, cancel_futures=True)

    async def _serve(self) -> None:
        while self._queue or not self._stopping:
            patience = self._patience()
            if patience is None or patience > 0:
                self._changed.clear()
                await self._wait(self._changed, patience)
            elif batch := self._take():
                await self._fire(batch)

    def _patience(self) -> float | None:
        """Seconds until the queue is worth a batch; None: as long as it is empty."""
        if not self._queue:
            return None
        if self._stopping or len(self._queue) >= self._max_batch or not self._coming():
            return 0.0
        return self._queue[0].arrived + self._max_wait_s - self._clock()

    def _take(self) -> list[Job[ModelT]]:
        """The next batch: live jobs of one shape (a new model may see another field), oldest first."""
        batch: list[Job[ModelT]] = []
        now = self._clock()
        while self._queue and len(batch) < self._max_batch:
            job = self._queue[0]
            if batch and job.pixels.shape != batch[0].pixels.shape:
                break
            self._queue.popleft()
            if job.deadline is not None and job.deadline <= now:
                self._fail([job], DeadlineExceeded("the deadline passed before the image was computed"))
            elif not job.future.done():
                batch.append(job)
        return batch

    async def _fire(self, batch: list[Job[ModelT]]) -> None:
        try:
            rows = await asyncio.get_running_loop().run_in_executor(self._executor, self._compute, batch)
            for job, sealed_row in self._pair(batch, rows):
                self._resolve(job, sealed_row)
            self._fail(batch, IdentityError())
        except Exception as error:
            self._fail(batch, error)
        finally:
            self._fail(batch, NotReady("the service is stopping: try again"))

    def _compute(self, batch: list[Job[ModelT]]) -> list[SealedRow[ModelT]]:
        """In the executor: stack, run, split."""
        started = self._clock()
        try:
            computed = self._run(self._stack(batch))
        except StopIteration as error:
            # A future refuses this one kind of exception, and its waiters would wait for ever.
            raise RuntimeError("the model stopped iterating") from error
        check_rows(computed.outputs, len(batch))
        if len(computed.seals) != len(batch):
            raise OutputsError(f"the model gave {len(computed.seals)} seals for {len(batch)} images")
        return self._split(computed, [started - job.arrived for job in batch], self._clock() - started)

    def _stack(self, batch: Sequence[Job[ModelT]]) -> Pixels:
        return np.stack([job.pixels for job in batch])

    def _split(self, computed: Computed[ModelT], queue_s: Sequence[float], compute_s: float) -> list[SealedRow[ModelT]]:
        outputs, seals, model = computed
        return [
            SealedRow(
                Row(
                    probabilities=outputs.probabilities[index],
                    embedding=outputs.embedding[index],
                    ood_score=float(outputs.ood_score[index]),
                    row_check=int(outputs.row_check[index]),
                    model=model,
                    batch_size=len(queue_s),
                    queue_s=waited,
                    compute_s=compute_s,
                ),
                seals[index],
            )
            for index, waited in enumerate(queue_s)
        ]

    def _pair(
        self, batch: Sequence[Job[ModelT]], rows: Sequence[SealedRow[ModelT]]
    ) -> Iterable[tuple[Job[ModelT], SealedRow[ModelT]]]:
        return zip(batch, rows, strict=True)

    def _resolve(self, job: Job[ModelT], sealed_row: SealedRow[ModelT]) -> None:
        """Hand the row out if it is the job's. Last, so that whatever went wrong before is seen here."""
        if job.future.done():
            return
        row = sealed_row.row
        if row.row_check == job.row_check and sealed_row.seal == seal(
            row.row_check, row.probabilities, row.embedding, row.ood_score
        ):
            job.future.set_result(row)
        else:
            logger.error("withheld an answer: it does not belong to the image sent (batch of %d)", row.batch_size)
            job.future.set_exception(IdentityError())

    def _fail(self, jobs: Iterable[Job[ModelT]], error: Exception) -> None:
        for job in jobs:
            if not job.future.done():
                job.future.set_exception(error)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Whatever ended the gatherer, nobody is left waiting."""
        if not task.cancelled() and task.exception() is not None:
            logger.critical("the batcher ended", exc_info=task.exception())
        self._fail(self._queue, NotReady("the service is stopping: try again"))
        self._queue.clear()
