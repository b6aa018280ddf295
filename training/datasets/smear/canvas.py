"""The picture's geometry: 128 × 128 pixels that show 20 µm, and the wider canvas that is rendered and then cut."""

import numpy as np

from training.datasets.smear.dice import Floats
from training.datasets.smear.texture import Image32

SIDE = 128
FIELD_UM = 20.0
PIXEL_UM = FIELD_UM / SIDE
MARGIN = 8
"""Pixels rendered around the picture and cut off, so that blur does not wrap around its edges."""
CANVAS = SIDE + 2 * MARGIN
MIDDLE = (CANVAS - 1) / 2
_AXIS = (np.arange(CANVAS, dtype=np.float32) - np.float32(MIDDLE)) * np.float32(PIXEL_UM)


def column(values: Floats) -> Image32:
    """[n] → float32 [n, 1, 1], to meet pictures [n, H, W]."""
    return np.asarray(values, dtype=np.float32)[:, None, None]


def offsets(centre: Floats) -> tuple[Image32, Image32]:
    """µm from each centre [n, 2] (from the canvas's middle) to each pixel: x and y, [n, CANVAS, CANVAS]."""
    shape = (len(centre), CANVAS, CANVAS)
    x, y = np.asarray(centre, dtype=np.float32).T
    dx = np.broadcast_to((_AXIS - x[:, None])[:, None, :], shape)
    dy = np.broadcast_to((_AXIS - y[:, None])[:, :, None], shape)
    return dx, dy


def to_pixels(um: Floats) -> Floats:
    """A coordinate in µm from the canvas's middle → in pixels of the canvas."""
    return um / PIXEL_UM + MIDDLE
