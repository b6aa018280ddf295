"""The white cell in the middle: cytoplasm, nucleus, chromatin, nucleoli, vacuoles, granules."""

from collections.abc import Callable

import numpy as np

from training.datasets.smear.canvas import CANVAS, PIXEL_UM, column, offsets, to_pixels
from training.datasets.smear.dice import Floats
from training.datasets.smear.morphology import Morphology
from training.datasets.smear.shapes import inside, outline, ramp, stamp
from training.datasets.smear.texture import Image32, Spectrum, band

Profile = Callable[[Image32, Image32], Image32]
_EDGE_UM = 0.35


def draw_white_cell(
    dyes: Image32, cells: Morphology, centre: Floats, coarse: Spectrum, fine: Spectrum, mottle: Image32
) -> Image32:
    """Draw the cells into `dyes` [n, DYES, CANVAS, CANVAS]; → their masks [n, CANVAS, CANVAS], 0…1.

    `coarse` and `fine` are white spectra for chromatin; `mottle` is a slow texture, SD 1.
    """
    radius = cells.nucleus_diameter / 2
    middle = centre + cells.nucleus_offset
    body = inside(*offsets(centre), outline(cells.diameter / 2, cells.cell_waves))
    core = inside(*offsets(middle), outline(radius, cells.nucleus_waves, cells.notches))
    # However the outlines are bent, a film of cytoplasm covers the nucleus.
    body = np.maximum(body, core + np.float32(0.2))
    cell, nucleus = ramp(body, _EDGE_UM), ramp(core, _EDGE_UM)

    stipples = band(fine, cells.stipple_um / PIXEL_UM, 0.6)
    nucleoli = _spots(cells.nucleoli, centre, 28, lambda d, r: ramp(r - d, 0.6))
    rims = _spots(cells.nucleoli, centre, 28, lambda d, r: np.exp(-(((d - r - 0.15) / 0.22) ** 2)))
    holes = _spots(cells.vacuoles, centre, 20, lambda d, r: ramp(r - d, 0.2))
    granules = _spots(cells.granules, centre, 12, lambda d, r: np.exp(-((d / r) ** 2)))

    chromatin = _chromatin(cells, core, coarse, stipples) + 0.07 * mottle + _fold(cells, *offsets(middle))
    pale = column(cells.nucleolus_contrast)
    chromatin = chromatin * (1 - pale * nucleoli) + 0.30 * pale * rims * (1 - nucleoli)

    # Cytoplasm is denser at its edge and paler beside the nucleus.
    cytoplasm = 1 + 0.18 * mottle + 0.10 * stipples + 0.25 * np.exp(-((body / 0.6) ** 2))
    cytoplasm -= column(cells.halo) * np.exp(-((core / 0.9) ** 2))
    blue = column(cells.basophilia) * np.clip(cytoplasm, 0.15, None) * cell

    dyes[:, 0] = column(cells.chromatin) * np.clip(chromatin, 0.1, None) * nucleus * (1 - 0.35 * holes)
    dyes[:, 1] = blue * (1 - 0.75 * nucleus) * (1 - 0.92 * holes) + 0.5 * nucleus * nucleoli * pale
    dyes[:, 2] = 0.10 * cell * (1 - holes)
    dyes[:, 3] = 0.9 * granules * cell
    return cell


def _chromatin(cells: Morphology, core: Image32, coarse: Spectrum, stipples: Image32) -> Image32:
    """Relative density: blocks, fine grain, a dark membrane, and a nucleus that is thinner towards its edge."""
    blocks = np.tanh(1.3 * band(coarse, cells.clump_um / PIXEL_UM, 0.8))
    depth = np.clip(core / column(cells.nucleus_diameter / 2), 0, 1)
    density = 1 + column(cells.clump) * blocks + column(cells.stipple) * stipples
    density += 0.12 * np.exp(-((core / 0.35) ** 2)) - 0.10 * (1 - depth) + 0.05
    return np.asarray(density, dtype=np.float32)


def _fold(cells: Morphology, dx: Image32, dy: Image32) -> Image32:
    """Chromatin lies double along a fold: a bent dark line with a pale flank."""
    folded = np.flatnonzero(cells.fold[:, 0])
    drawn = np.zeros(dx.shape, dtype=np.float32)
    strength, angle, offset, bend = (column(part) for part in cells.fold[folded].T)
    dx, dy = dx[folded], dy[folded]
    along = dx * np.cos(angle) + dy * np.sin(angle)
    across = dy * np.cos(angle) - dx * np.sin(angle) - offset - bend * along * along
    drawn[folded] = strength * (np.exp(-((across / 0.30) ** 2)) - 0.6 * np.exp(-(((across - 0.75) / 0.45) ** 2)))
    return drawn


def _spots(spots: Floats, centre: Floats, patch: int, profile: Profile) -> Image32:
    """`profile(distance, radius)` (µm) of spots [n, items, 3], the larger where they meet: [n, CANVAS, CANVAS]."""
    drawn = np.zeros((len(spots), CANVAS, CANVAS), dtype=np.float32)
    present = spots[:, :, 2] > 0
    rows, _ = np.nonzero(present)
    x, y = (to_pixels(centre[:, k, None] + spots[:, :, k])[present] for k in (0, 1))
    radius = column(spots[:, :, 2][present])
    stamp(
        drawn,
        rows,
        x,
        y,
        patch,
        lambda dx, dy: profile(np.sqrt(dx * dx + dy * dy) * np.float32(PIXEL_UM), radius),
        np.maximum,
    )
    return drawn
