"""Morphology → concentration of each dye at each pixel of a canvas."""

import numpy as np

from training.datasets.smear.canvas import CANVAS, PIXEL_UM, column
from training.datasets.smear.dice import Dice
from training.datasets.smear.morphology import Morphology
from training.datasets.smear.stain import DYES, Smear
from training.datasets.smear.surroundings import draw_neighbours, draw_platelets, draw_red_cells
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
    nucleus, body = draw_neighbours(cells, smear, centre, dice)
    body *= 1 - cell
    dyes[:, 0] += nucleus * body * (0.95 + 0.16 * mottle)
    dyes[:, 1] += 0.45 * body * (1 - 0.75 * nucleus) * (1 + 0.2 * mottle)
    # White cells lie on top of the red cells that they touch, and hide them in part.
    hidden = np.maximum(cell, body)
    dyes[:, 2] += draw_red_cells(cells, smear, centre, dice) * (1 + 0.05 * mottle) * (1 - 0.85 * hidden)
    platelets = draw_platelets(cells, smear, centre, dice) * (1 - body)
    residue = np.clip(column(smear.residue) * (1 + 0.5 * mottle), 0, None)
    dyes[:, 0] += 0.22 * platelets + 0.25 * residue
    dyes[:, 2] += 0.6 * residue
    dyes[:, 3] += 0.25 * platelets
    return dyes
