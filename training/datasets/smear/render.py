"""Morphology → concentration of each dye at each pixel of a canvas."""

import numpy as np

from training.datasets.smear.canvas import CANVAS, PIXEL_UM, column
from training.datasets.smear.dice import Dice
from training.datasets.smear.morphology import Morphology
from training.datasets.smear.stain import DYES, Smear
from training.datasets.smear.surroundings import draw_platelets, draw_red_cells
from training.datasets.smear.texture import Image32, Spectrum, band
from training.datasets.smear.white_cell import draw_white_cell


def draw_concentrations(cells: Morphology, smear: Smear, dice: Dice, coarse: Spectrum, fine: Spectrum) -> Image32:
    """Cells [n] on their smears [n] → dye concentrations, float32 [n, len(DYES), CANVAS, CANVAS].

    `coarse` and `fine` are white spectra [n, CANVAS, CANVAS // 2 + 1]; where things lie comes from `dice`.
    """
    n = len(cells.diameter)
    dyes = np.zeros((n, len(DYES), CANVAS, CANVAS), dtype=np.float32)
    centre = dice.normal(0.0, 0.5, 2)
    mottle = band(coarse, np.full(n, 4.0 / PIXEL_UM), 0.8)
    cell = draw_white_cell(dyes, cells, centre, coarse, fine, mottle)
    # A white cell lies on top of the red cells that it touches, and hides them in part.
    dyes[:, 2] += draw_red_cells(cells, smear, centre, dice) * (1 + 0.05 * mottle) * (1 - 0.85 * cell)
    platelets = draw_platelets(cells, smear, centre, dice)
    residue = np.clip(column(smear.residue) * (1 + 0.5 * mottle), 0, None)
    dyes[:, 0] += 0.22 * platelets + 0.25 * residue
    dyes[:, 2] += 0.6 * residue
    dyes[:, 3] += 0.25 * platelets
    return dyes
