"""Outlines in polar form and small round things stamped onto pictures."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from training.datasets.smear.dice import Floats
from training.datasets.smear.texture import Image32

ANGLES = 512
_THETA = np.arange(ANGLES) * (2 * np.pi / ANGLES)


def outline(radius: Floats, waves: Floats, notches: Floats | None = None) -> Image32:
    """Radius at each of ANGLES directions, [n, ANGLES]: a circle with harmonics and notches.

    `waves` [n, 2, k]: cosine and sine amplitudes of the 2nd and higher harmonics; `notches` [n, m, 3]: direction, depth
    and width, angles in radians; amplitudes and depths relative to the radius.
    """
    order = np.arange(2, 2 + waves.shape[2])[:, None] * _THETA
    bent = 1.0 + np.einsum("nk,ka->na", waves[:, 0], np.cos(order)) + np.einsum("nk,ka->na", waves[:, 1], np.sin(order))
    for notch in () if notches is None else notches.transpose(1, 2, 0):
        direction, depth, width = notch[:, :, None]
        apart = (_THETA - direction + np.pi) % (2 * np.pi) - np.pi
        bent *= 1.0 - depth * np.exp(-0.5 * (apart / width) ** 2)
    return np.asarray(radius[:, None] * bent, dtype=np.float32)


def inside(dx: Image32, dy: Image32, table: Image32) -> Image32:
    """Distance to the outline along the ray from its centre, positive inside: [n, side, side], unit of dx and dy."""
    turns = np.arctan2(dy, dx) * np.float32(ANGLES / (2 * np.pi))
    index = turns.astype(np.int32) & (ANGLES - 1)
    n = len(index)
    at = np.take_along_axis(table, index.reshape(n, -1), axis=1).reshape(index.shape)
    return np.asarray(at - np.sqrt(dx * dx + dy * dy), dtype=np.float32)


def ramp(distance: Image32, width: float) -> Image32:
    """0 outside, 1 inside, linear over `width` around the edge."""
    return np.asarray(np.clip(distance * np.float32(1 / width) + np.float32(0.5), 0.0, 1.0), dtype=np.float32)


def stamp(
    onto: Image32,
    rows: npt.NDArray[np.int64],
    x: Floats,
    y: Floats,
    patch: int,
    profile: Callable[[Image32, Image32], Image32],
    how: np.ufunc = np.add,
) -> None:
    """Draw items into `onto` [n, side, side]: item k into row `rows[k]` at pixel (x[k], y[k]), cut at the border.

    `profile(dx, dy)` gets pixel offsets [m, patch, patch] from each item's centre and gives what to combine by `how`.
    """
    if not len(rows):
        return
    side = onto.shape[1]
    left = np.clip(np.floor(x - patch / 2), 0, side - patch).astype(np.int64)
    top = np.clip(np.floor(y - patch / 2), 0, side - patch).astype(np.int64)
    axis = np.arange(patch, dtype=np.float32)
    dx = np.broadcast_to((axis + (left - x).astype(np.float32)[:, None])[:, None, :], (len(rows), patch, patch))
    dy = np.broadcast_to((axis + (top - y).astype(np.float32)[:, None])[:, :, None], (len(rows), patch, patch))
    values = profile(dx, dy)
    for row, t, f, value in zip(rows.tolist(), top.tolist(), left.tolist(), values, strict=True):
        target = onto[row, t : t + patch, f : f + patch]
        how(target, value, out=target)
