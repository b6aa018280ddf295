"""From the caller's bytes to the pixels that a model sees, off the event loop.

Pictures go to the threads a few at a time: a hand-over to a thread and back costs as much as a part of the decoding.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from service.contract.errors import BadImage, DeadlineExceeded, NotReady
from service.contract.image import (
    MAX_PIXELS,
    MIN_SIDE,
    Field,
    Pixels,
    image_sha256,
    load_field,
    pixels_sha256,
    row_check,
    to_field,
)
from service.contract.statistics import statistics
from service.domain import Cell, PixelCell
from service.priority import give_way

THREADS = 2
"""Two pictures of the largest size at once bound the memory; more threads would only wait for the same cores."""
CHUNK = 4
"""Pictures handed to a thread together."""
AT_LATEST_S = 0.005
"""After so long a thread hands back what is done, and what it has not begun: large pictures go one by one."""


@dataclass(frozen=True)
class Prepared:
    """A decoded cell. pixels: uint8 [H, W, 3] as `field` has it; seconds: how long that took, the wait included."""

    pixels: Pixels
    field: Field
    image_sha256: str
    pixels_sha256: str
    row_check: int
    statistics: dict[str, float]
    seconds: float


@dataclass(eq=False)
class _Job:
    cell: Cell
    field: Field
    deadline: float
    asked: float
    future: "asyncio.Future[Prepared]"

    def work(self) -> Prepared:
        if time.monotonic() >= self.deadline:
            raise DeadlineExceeded("the deadline passed before the image was looked at: allow more time")
        pixels = seen(self.cell, self.field)
        return Prepared(
            pixels=pixels,
            field=self.field,
            image_sha256=image_sha256(self.cell.image),
            pixels_sha256=pixels_sha256(pixels),
            row_check=int(row_check(pixels[np.newaxis])[0]),
            statistics=statistics(pixels),
            seconds=time.monotonic() - self.asked,
        )


_Done = list[tuple[_Job, Prepared | Exception]]


class Intake:
    """Decodes cells in threads of its own, or in the one of `threads`. Its methods belong to one event loop."""

    def __init__(self, threads: Executor | None = None) -> None:
        self._threads = threads or ThreadPoolExecutor(THREADS, thread_name_prefix="decode", initializer=give_way)
        self._owned = threads is None
        self._most = THREADS + 1 if threads is None else 1
        self._waiting: deque[_Job] = deque()
        self._chunks = 0
        self._closed = False

    async def prepare(self, cell: Cell, field: Field, deadline: float) -> Prepared:
        """Raises BadImage, InvalidRequest (a scale at which nothing is seen), DeadlineExceeded (time.monotonic()), and
        NotReady once it is closed.
        """
        if self._closed:
            raise NotReady("the service is stopping: try again")
        loop = asyncio.get_running_loop()
        job = _Job(cell, field, deadline, time.monotonic(), loop.create_future())
        self._waiting.append(job)
        self._hand_over(loop)
        return await job.future

    def close(self) -> None:
        """Lets the threads go; what waits for one is told."""
        self._closed = True
        if self._owned:
            self._threads.shutdown(wait=False, cancel_futures=True)
        self._tell()

    def _tell(self) -> None:
        for job in self._waiting:
            if not job.future.done():
                job.future.set_exception(NotReady("the service is stopping: try again"))
        self._waiting.clear()

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        # One chunk more than there are threads of its own, so that none waits for this loop.
        while self._waiting and self._chunks < self._most and not self._closed:
            chunk = [self._waiting.popleft() for _ in range(min(CHUNK, len(self._waiting)))]
            self._chunks += 1
            self._threads.submit(self._work, chunk, loop)

    def _work(self, chunk: Sequence[_Job], loop: asyncio.AbstractEventLoop) -> None:
        """In a thread."""
        done: _Done = []
        until = time.monotonic() + AT_LATEST_S
        left = deque(chunk)
        while left and (not done or time.monotonic() < until):
            job = left.popleft()
            if job.future.cancelled():
                continue
            try:
                done.append((job, job.work()))
            except Exception as error:
                done.append((job, error))
        loop.call_soon_threadsafe(self._end, done, left, loop)

    def _end(self, done: _Done, left: deque[_Job], loop: asyncio.AbstractEventLoop) -> None:
        self._chunks -= 1
        self._waiting.extendleft(reversed(left))
        self._hand_over(loop)
        for job, found in done:
            if job.future.done():
                continue
            if isinstance(found, Exception):
                job.future.set_exception(found)
            else:
                job.future.set_result(found)
        if self._closed:
            self._tell()


def seen(cell: Cell, field: Field) -> Pixels:
    """What the model sees of a cell. Raises BadImage, InvalidRequest."""
    if not isinstance(cell, PixelCell):
        return load_field(cell.image, field, cell.pixel_size_um)
    # The bounds of a decoded file.
    if min(cell.height, cell.width) < MIN_SIDE or cell.height * cell.width > MAX_PIXELS:
        raise BadImage(
            f"{cell.width}×{cell.height} pixels: each side must have at least {MIN_SIDE}, and all together at most "
            f"{MAX_PIXELS}"
        )
    if len(cell.image) != cell.height * cell.width * 3:
        raise BadImage(f"{len(cell.image)} bytes are not {cell.width}×{cell.height} RGB pixels")
    rgb = np.frombuffer(cell.image, dtype=np.uint8).reshape(cell.height, cell.width, 3)
    return to_field(rgb, field, cell.pixel_size_um)
