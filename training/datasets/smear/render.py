"""Morphology → concentration of each dye at each pixel of a canvas."""

import numpy as np

from training.datasets.smear.dice import Dice, Floats
from training.datasets.smear.morphology import Morphology
from training.datasets.smear.scanner import CANVAS
from training.datasets.smear.shapes import inside, outline, ramp, stamp
from training.datasets.smear.stain import DYES, Smear
from training.datasets.smear.texture import Image32, Spectrum, band

PIXEL_UM = 20.0 / 128
_AXIS = (np.arange(CANVAS, dtype=np.float32) - np.float32((CANVAS - 1) / 2)) * np.float32(PIXEL_UM)
_REACH = CANVAS * PIXEL_UM / 2 + 3.5  # µm from the middle, to the red cells that still show at the border
RED_CELLS = 14
_TRIES = 44
PLATELETS = 3


def draw_concentrations(cells: Morphology, smear: Smear, dice: Dice, coarse: Spectrum, fine: Spectrum) -> Image32:
    """Cells [n] on their smears [n] → dye concentrations, float32 [n, len(DYES), CANVAS, CANVAS].

    `coarse` and `fine` are white spectra [n, …] for texture; positions of everything around the cell come from `dice`.
    """
    n = len(cells.diameter)
    dyes = np.zeros((n, len(DYES), CANVAS, CANVAS), dtype=np.float32)
    centre = dice.normal(0.0, 0.5, 2)
    mottle = band(coarse, np.full(n, 4.0 / PIXEL_UM), 0.8)
    cell = _white_cell(dyes, cells, centre, coarse, fine, mottle)
    _red_cells(dyes, cells, smear, centre, cell, mottle, dice)
    _platelets(dyes, cells, smear, centre, dice)
    residue = (smear.residue[:, None, None] * (1 + 0.5 * mottle)).astype(np.float32)
    dyes[:, 0] += np.clip(residue, 0, None) * 0.25
    dyes[:, 2] += np.clip(residue, 0, None) * 0.6
    return dyes


def _column(values: Floats) -> Image32:
    return values.astype(np.float32)[:, None, None]


def _offsets(centre: Floats) -> tuple[Image32, Image32]:
    n = len(centre)
    dx = np.broadcast_to((_AXIS - centre.astype(np.float32)[:, :1])[:, None, :], (n, CANVAS, CANVAS))
    dy = np.broadcast_to((_AXIS - centre.astype(np.float32)[:, 1:])[:, :, None], (n, CANVAS, CANVAS))
    return dx, dy


def _pixels(centre: Floats, spots: Floats) -> tuple[Floats, Floats]:
    middle = (CANVAS - 1) / 2
    return (centre[:, :1] + spots[:, :, 0]) / PIXEL_UM + middle, (centre[:, 1:] + spots[:, :, 1]) / PIXEL_UM + middle


def _white_cell(
    dyes: Image32, cells: Morphology, centre: Floats, coarse: Spectrum, fine: Spectrum, mottle: Image32
) -> Image32:
    """Draws the cell in the middle; returns its mask."""
    dx, dy = _offsets(centre)
    body = inside(dx, dy, outline(cells.diameter / 2, cells.cell_waves, None, None, None))
    ndx, ndy = _offsets(centre + cells.nucleus_offset)
    radius = cells.nucleus_diameter / 2
    core = inside(
        ndx, ndy, outline(radius, cells.nucleus_waves, cells.notch_angle, cells.notch_depth, cells.notch_width)
    )
    # However the outlines are bent, a film of cytoplasm covers the nucleus.
    body = np.maximum(body, core + np.float32(0.2))
    cell, nucleus = ramp(body, 0.35), ramp(core, 0.35)

    relative = core / _column(radius)  # 0 at the membrane, 1 in the middle
    clumps = np.tanh(1.6 * band(coarse, cells.clump_um / PIXEL_UM, 0.45))
    stipples = band(fine, cells.stipple_um / PIXEL_UM, 0.4)
    chromatin = 1 + _column(cells.clump) * clumps + _column(cells.stipple) * stipples
    chromatin += 0.12 * np.exp(-((core / 0.35) ** 2)) - 0.10 * (1 - np.clip(relative, 0, 1)) + 0.05
    chromatin += _fold(cells, ndx, ndy)

    nucleoli = np.zeros_like(core)
    _spots(nucleoli, cells.nucleoli, centre, 28, lambda d, r: np.clip((r - d) / 0.3 + 0.5, 0, 1))
    rims = np.zeros_like(core)
    _spots(rims, cells.nucleoli, centre, 28, lambda d, r: np.exp(-(((d - r - 0.15) / 0.22) ** 2)))
    contrast = _column(cells.nucleolus_contrast)
    chromatin *= 1 - contrast * nucleoli
    chromatin += 0.30 * contrast * rims * (1 - nucleoli)

    holes = np.zeros_like(core)
    _spots(holes, cells.vacuoles, centre, 20, lambda d, r: np.clip((r - d) / 0.2 + 0.5, 0, 1))
    granules = np.zeros_like(core)
    _spots(granules, cells.granules, centre, 12, lambda d, r: np.exp(-((d / r) ** 2)))

    # Cytoplasm: denser at its edge, paler beside the nucleus, none over it to speak of.
    depth = body - np.maximum(core, 0)
    cytoplasm = 1 + 0.18 * mottle + 0.10 * stipples + 0.25 * np.exp(-((body / 0.6) ** 2))
    cytoplasm -= _column(cells.halo) * np.exp(-((core / 0.9) ** 2)) * (depth > 0)
    amount = _column(cells.basophilia) * np.clip(cytoplasm, 0.15, None) * cell
    dyes[:, 0] = _column(cells.chromatin) * np.clip(chromatin, 0.1, None) * nucleus * (1 - 0.55 * holes)
    dyes[:, 1] = amount * (1 - 0.75 * nucleus) * (1 - 0.92 * holes) + 0.5 * nucleus * nucleoli * contrast
    dyes[:, 2] = 0.10 * cell * (1 - holes)
    dyes[:, 3] = 0.9 * granules * cell
    return cell


def _fold(cells: Morphology, dx: Image32, dy: Image32) -> Image32:
    """Chromatin lies double along a fold: a bent dark line with a pale flank."""
    strength, angle, offset, bend = (_column(column) for column in cells.fold.T)
    along = dx * np.cos(angle) + dy * np.sin(angle)
    across = dy * np.cos(angle) - dx * np.sin(angle) - offset - bend * along * along
    return strength * (np.exp(-((across / 0.30) ** 2)) - 0.6 * np.exp(-(((across - 0.75) / 0.45) ** 2)))


def _spots(onto: Image32, spots: Floats, centre: Floats, patch: int, profile: object) -> None:
    x, y = _pixels(centre, spots)
    present = spots[:, :, 2] > 0
    rows, _ = np.nonzero(present)
    radius = _column(spots[:, :, 2][present])

    def draw(px: Image32, py: Image32) -> Image32:
        return profile(np.sqrt(px * px + py * py) * np.float32(PIXEL_UM), radius).astype(np.float32)  # type: ignore[operator]

    stamp(onto, rows, x[present], y[present], patch, draw, np.maximum)


def _red_cells(
    dyes: Image32, cells: Morphology, smear: Smear, centre: Floats, cell: Image32, mottle: Image32, dice: Dice
) -> None:
    n = len(cells.diameter)
    candidates = dice.uniform(-_REACH, _REACH, 2 * _TRIES).reshape(n, _TRIES, 2)
    wanted = np.clip(smear.crowding * np.exp(dice.normal(0.0, 0.35)), 0.5, RED_CELLS) * (2 * _REACH / 20) ** 2 * 0.75
    touching = dice.uniform(0.62, 1.02)
    placed = np.full((n, RED_CELLS, 2), 1e3)
    count = np.zeros(n, dtype=np.int64)
    size = smear.red_cell_um
    for k in range(_TRIES):
        spot = candidates[:, k]
        clear = np.hypot(*(spot - centre).T) > cells.diameter / 2 + size * 0.40
        gap = np.hypot(placed[:, :, 0] - spot[:, :1], placed[:, :, 1] - spot[:, 1:]).min(axis=1)
        fits = clear & (gap > size * touching) & (count < np.minimum(wanted, RED_CELLS))
        rows = np.flatnonzero(fits)
        placed[rows, count[rows]] = spot[rows]
        count[rows] += 1
    diameter = size[:, None] * dice.normal(1.0, 0.05, RED_CELLS)
    waves = dice.normal(0.0, 1.0, 4 * RED_CELLS).reshape(n, RED_CELLS, 4) * smear.red_shape[:, None, None]
    pallor = smear.pallor[:, None] * np.exp(dice.normal(0.0, 0.15, RED_CELLS))
    present = np.arange(RED_CELLS) < count[:, None]
    rows, _ = np.nonzero(present)
    middle = (CANVAS - 1) / 2
    bend = waves[present].astype(np.float32)[:, :, None, None]
    half = _column(diameter[present] / 2 / PIXEL_UM)
    pale = _column(pallor[present])

    def disc(dx: Image32, dy: Image32) -> Image32:
        """Evans and Fung's biconcave disc (1972): thickness over the radius, bent by second and third harmonics."""
        distance = np.sqrt(dx * dx + dy * dy) + np.float32(1e-3)
        u, v = dx / distance, dy / distance
        edge = 1 + bend[:, 0] * (u * u - v * v) + bend[:, 1] * 2 * u * v
        edge += 0.6 * (bend[:, 2] * u * (4 * u * u - 3) + bend[:, 3] * v * (3 - 4 * v * v))
        r2 = (distance / (half * edge)) ** 2
        rim = np.sqrt(np.clip(1 - r2, 0, 1))
        # Normalised to 1 at the thickest ring; `pale` is how much of the dimple shows.
        full = rim * (0.81 + 7.83 * r2 - 4.39 * r2 * r2) / 2.55
        flat = np.clip((1 - r2) * 3.5, 0, 1)
        return np.asarray(pale * full + (1 - pale) * flat * 0.9, dtype=np.float32)

    red = np.zeros_like(cell)
    stamp(red, rows, placed[present][:, 0] / PIXEL_UM + middle, placed[present][:, 1] / PIXEL_UM + middle, 64, disc)
    red = np.clip(red, 0, 1.7)
    dyes[:, 2] += red * (1 + 0.05 * mottle) * (1 - 0.85 * cell)


def _platelets(dyes: Image32, cells: Morphology, smear: Smear, centre: Floats, dice: Dice) -> None:
    n = len(cells.diameter)
    spots = dice.uniform(-10.5, 10.5, 2 * PLATELETS).reshape(n, PLATELETS, 2)
    radius = dice.uniform(0.9, 1.5, PLATELETS)
    clear = (
        np.hypot(spots[:, :, 0] - centre[:, :1], spots[:, :, 1] - centre[:, 1:])
        > (cells.diameter / 2)[:, None] + radius
    )
    present = clear & dice.happens((smear.platelets / PLATELETS)[:, None], PLATELETS)
    rows, _ = np.nonzero(present)
    middle = (CANVAS - 1) / 2
    size = _column(radius[present] / PIXEL_UM)
    tilt = dice.normal(0.0, 0.25, PLATELETS)[present].astype(np.float32)[:, None, None]

    def fuzzy(dx: Image32, dy: Image32) -> Image32:
        r2 = (dx * dx * (1 + tilt) + dy * dy * (1 - tilt)) / (size * size)
        return np.asarray(np.exp(-r2 * r2 * 1.2) * (1 + 0.25 * np.sin(dx * 1.7) * np.sin(dy * 1.9)), dtype=np.float32)

    dots = np.zeros((n, CANVAS, CANVAS), dtype=np.float32)
    stamp(
        dots,
        rows,
        spots[present][:, 0] / PIXEL_UM + middle,
        spots[present][:, 1] / PIXEL_UM + middle,
        28,
        fuzzy,
        np.maximum,
    )
    dyes[:, 0] += 0.22 * dots
    dyes[:, 3] += 0.25 * dots
