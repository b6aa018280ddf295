"""From the caller's bytes to the pixels that a model sees, off the event loop."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from service.contract.errors import DeadlineExceeded
from service.contract.image import Field, Pixels, image_sha256, load_field, pixels_sha256
from service.contract.statistics import statistics
from service.domain import Cell

THREADS = 2
"""Two pictures of the largest size at once bound the memory; more threads would only wait for the same cores."""


@dataclass(frozen=True)
class Prepared:
    """A decoded cell. pixels: uint8 [H, W, 3] as `field` has it; seconds: how long that took, the wait included."""

    pixels: Pixels
    field: Field
    image_sha256: str
    pixels_sha256: str
    statistics: dict[str, float]
    seconds: float


class Intake:
    """Decodes cells in threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="decode")

    async def prepare(self, cell: Cell, field: Field, deadline: float) -> Prepared:
        """Raises BadImage, InvalidRequest (a scale at which nothing is seen), DeadlineExceeded (time.monotonic())."""
        asked = time.monotonic()

        def work() -> Prepared:
            if time.monotonic() >= deadline:
                raise DeadlineExceeded("the deadline passed before the image was looked at: allow more time")
            pixels = load_field(cell.image, field, cell.pixel_size_um)
            return Prepared(
                pixels=pixels,
                field=field,
                image_sha256=image_sha256(cell.image),
                pixels_sha256=pixels_sha256(pixels),
                statistics=statistics(pixels),
                seconds=time.monotonic() - asked,
            )

        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """Lets the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)
