"""What lies around the white cell: red cells, platelets, and other white cells that the border cuts."""

from collections.abc import Callable

import numpy as np

from training.datasets.smear.canvas import CANVAS, FIELD_UM, PIXEL_UM, column, to_pixels
from training.datasets.smear.dice import Dice, Floats
from training.datasets.smear.morphology import Morphology
from training.datasets.smear.shapes import ramp, stamp
from training.datasets.smear.stain import Smear
from training.datasets.smear.texture import Image32

RED_CELLS = 18
_TRIES = 60
_REACH = CANVAS * PIXEL_UM / 2 + 3.5
"""µm from the middle to the red cells that still show at the border."""
PLATELETS = 3
NEIGHBOURS = 2


def draw_red_cells(cells: Morphology, smear: Smear, centre: Floats, dice: Dice) -> Image32:
    """Thickness of red cells around each white cell, about 1 at their rims, [n, CANVAS, CANVAS]; overlaps add up."""
    n = len(cells.diameter)
    places, count = _places(cells, smear, centre, dice)
    diameter = smear.red_cell_um[:, None] * dice.normal(1.0, 0.05, RED_CELLS)
    waves = dice.normal(0.0, 1.0, 4 * RED_CELLS).reshape(n, RED_CELLS, 4) * smear.red_shape[:, None, None]
    pallor = smear.pallor[:, None] * np.exp(dice.normal(0.0, 0.15, RED_CELLS))
    present = np.arange(RED_CELLS) < count[:, None]
    rows, _ = np.nonzero(present)
    a, b, c, d = waves[present].astype(np.float32).T[:, :, None, None]
    half, pale = column(diameter[present] / 2 / PIXEL_UM), column(pallor[present])

    def disc(dx: Image32, dy: Image32) -> Image32:
        """Evans and Fung's biconcave disc (Microvasc Res 4 (1972) 335–347), bent by second and third harmonics."""
        distance = np.sqrt(dx * dx + dy * dy) + np.float32(1e-3)
        u, v = dx / distance, dy / distance
        bent = 1 + a * (u * u - v * v) + b * 2 * u * v + 0.6 * (c * u * (4 * u * u - 3) + d * v * (3 - 4 * v * v))
        r2 = (distance / (half * bent)) ** 2
        biconcave = np.sqrt(np.clip(1 - r2, 0, 1)) * (0.81 + 7.83 * r2 - 4.39 * r2 * r2) / 2.55
        # `pale` is how much of the dimple shows: cells dry flat, and thick ones hide it.
        flat = np.clip((1 - r2) * 3.5, 0, 1) * 0.9
        return np.asarray(pale * biconcave + (1 - pale) * flat, dtype=np.float32)

    drawn = np.zeros((n, CANVAS, CANVAS), dtype=np.float32)
    stamp(drawn, rows, to_pixels(places[present][:, 0]), to_pixels(places[present][:, 1]), 64, disc)
    return np.asarray(np.clip(drawn, 0, 1.7), dtype=np.float32)


def _places(
    cells: Morphology, smear: Smear, centre: Floats, dice: Dice
) -> tuple[Floats, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Where red cells lie, µm [n, RED_CELLS, 2], and how many: they shun the white cell and, in part, each other."""
    n, size = len(cells.diameter), smear.red_cell_um
    candidates = dice.uniform(-_REACH, _REACH, 2 * _TRIES).reshape(n, _TRIES, 2)
    area = (2 * _REACH / FIELD_UM) ** 2 * 0.75
    wanted = np.minimum(np.clip(smear.crowding * np.exp(dice.normal(0.0, 0.35)), 0.5, RED_CELLS) * area, RED_CELLS)
    apart = size * dice.uniform(0.62, 1.02)
    places = np.full((n, RED_CELLS, 2), 1e3)
    count = np.zeros(n, dtype=np.int64)
    for k in range(_TRIES):
        spot = candidates[:, k]
        clear = np.hypot(*(spot - centre).T) > cells.diameter / 2 + size * 0.40
        nearest = np.hypot(places[:, :, 0] - spot[:, :1], places[:, :, 1] - spot[:, 1:]).min(axis=1)
        rows = np.flatnonzero(clear & (nearest > apart) & (count < wanted) & (count < RED_CELLS))
        places[rows, count[rows]] = spot[rows]
        count[rows] += 1
    return places, count


def draw_platelets(cells: Morphology, smear: Smear, centre: Floats, dice: Dice) -> Image32:
    """Fuzzy, grainy discs of 2–3 µm away from the white cell, 0…1, [n, CANVAS, CANVAS]."""
    n = len(cells.diameter)
    places = dice.uniform(-FIELD_UM / 2 - 0.5, FIELD_UM / 2 + 0.5, 2 * PLATELETS).reshape(n, PLATELETS, 2)
    radius = dice.uniform(0.9, 1.5, PLATELETS)
    away = np.hypot(places[:, :, 0] - centre[:, :1], places[:, :, 1] - centre[:, 1:])
    present = dice.happens((smear.platelets / PLATELETS)[:, None], PLATELETS) & (
        away > cells.diameter[:, None] / 2 + radius
    )
    rows, _ = np.nonzero(present)
    size = column(radius[present] / PIXEL_UM)
    tilt = column(dice.normal(0.0, 0.25, PLATELETS)[present])

    def fuzzy(dx: Image32, dy: Image32) -> Image32:
        r2 = (dx * dx * (1 + tilt) + dy * dy * (1 - tilt)) / (size * size)
        grain = 1 + 0.25 * np.sin(dx * 1.7) * np.sin(dy * 1.9)
        return np.asarray(np.exp(-1.2 * r2 * r2) * grain, dtype=np.float32)

    drawn = np.zeros((n, CANVAS, CANVAS), dtype=np.float32)
    stamp(drawn, rows, to_pixels(places[present][:, 0]), to_pixels(places[present][:, 1]), 28, fuzzy, np.maximum)
    return drawn


def draw_neighbours(cells: Morphology, smear: Smear, centre: Floats, dice: Dice) -> tuple[Image32, Image32]:
    """Nuclei and bodies, 0…1, [n, CANVAS, CANVAS], of white cells beside the one in the middle, most of them cut off.

    They are of no kind: but for keeping clear of it, nothing about them depends on the cell that the picture is of.
    """
    n = len(cells.diameter)
    radius = dice.uniform(3.8, 6.5, NEIGHBOURS)
    distance = cells.diameter[:, None] / 2 + radius + dice.uniform(0.3, 3.5, NEIGHBOURS)
    angle = dice.uniform(0.0, 2 * np.pi, NEIGHBOURS)
    present = dice.happens((smear.leukocytes / NEIGHBOURS)[:, None], NEIGHBOURS)
    inner = column((radius * dice.uniform(0.72, 0.92, NEIGHBOURS))[present] / PIXEL_UM)
    outer = column(radius[present] / PIXEL_UM)
    tilt = column(dice.normal(0.0, 0.12, NEIGHBOURS)[present])
    rows, _ = np.nonzero(present)
    x = to_pixels((centre[:, :1] + distance * np.cos(angle))[present])
    y = to_pixels((centre[:, 1:] + distance * np.sin(angle))[present])

    def disc(size: Image32) -> Callable[[Image32, Image32], Image32]:
        return lambda dx, dy: ramp(size - np.sqrt(dx * dx * (1 + tilt) + dy * dy * (1 - tilt)), 3.0)

    drawn = []
    for size in (inner, outer):
        layer = np.zeros((n, CANVAS, CANVAS), dtype=np.float32)
        stamp(layer, rows, x, y, 96, disc(size), np.maximum)
        drawn.append(layer)
    return drawn[0], drawn[1]
