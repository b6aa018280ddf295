"""Small pictures that look a little like a smear: a pale background, pink discs, one purple disc in the middle."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.contract.image import Pixels


def smear(seed: int = 0, size: int = 32) -> Pixels:
    """uint8 [size, size, 3]; each seed is another picture with other colours."""
    rng = np.random.default_rng(seed)
    grid_y, grid_x = np.mgrid[0:size, 0:size] / size
    picture = np.empty((size, size, 3))
    picture[:] = rng.uniform(215, 245, 3)
    for _ in range(3):
        centre_y, centre_x = rng.uniform(0, 1, 2)
        disc = (grid_y - centre_y) ** 2 + (grid_x - centre_x) ** 2 < 0.18**2
        picture[disc] = rng.uniform((200, 120, 120), (235, 165, 160))
    cell = (grid_y - 0.5) ** 2 + (grid_x - 0.5) ** 2 < rng.uniform(0.2, 0.35) ** 2
    picture[cell] = rng.uniform((80, 40, 120), (160, 110, 190))
    noise: Pixels = np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
    return noise


def encoded(pixels: npt.NDArray[Any], kind: str = "PNG", **options: object) -> bytes:
    """Pixels [h, w, 3] (or [h, w], [h, w, 4]) as a file of that kind, written by Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


def png(seed: int = 0, size: int = 32) -> bytes:
    """A smear as PNG: decoding gives its pixels exactly."""
    return encoded(smear(seed, size))


def jpeg(seed: int = 0, size: int = 32, quality: int = 90) -> bytes:
    """A smear as JPEG."""
    return encoded(smear(seed, size), "JPEG", quality=quality)


def tiff(seed: int = 0, size: int = 32) -> bytes:
    """A smear as uncompressed TIFF."""
    return encoded(smear(seed, size), "TIFF")


def bmp(seed: int = 0, size: int = 32) -> bytes:
    """A smear as BMP."""
    return encoded(smear(seed, size), "BMP")
