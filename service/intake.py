"""From the caller's bytes to the pixels that a model sees, off the event loop."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from service.contract.errors import BadImage, DeadlineExceeded
from service.contract.image import (
    MAX_PIXELS,
    MIN_SIDE,
    Field,
    Pixels,
    image_sha256,
    load_field,
    pixels_sha256,
    to_field,
)
from service.contract.statistics import statistics
from service.domain import Cell, PixelCell

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
            pixels = seen(cell, field)
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
