"""Romanowsky stains: the dyes' colours, and how much of each a patient's smear took up.

Dyes follow Beer–Lambert: a dye's absorbance in red, green and blue times its concentration adds up over everything that
the light passes (optical density, natural logarithm, linear light).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.datasets.smear.dice import Dice, Floats

DYES = ("chromatin", "basophilic", "haemoglobin", "azurophilic")
# Absorbance per unit concentration in R, G, B: azure B on DNA (purple), azure B on RNA (blue), eosin on haemoglobin
# (salmon), azurophilic granules (magenta).
ABSORBANCE = np.array(
    [
        [1.75, 2.75, 0.85],
        [1.15, 0.80, 0.22],
        [0.17, 0.78, 0.80],
        [0.80, 2.00, 0.70],
    ]
)


@dataclass(frozen=True)
class Stain:
    """A laboratory's staining: means, and how much patients vary around them (SDs of logarithms)."""

    name: str
    strength: float = 1.0
    """All dyes."""
    azure: float = 1.0
    """Purple and blue against pink: the buffer's pH."""
    strength_sd: float = 0.28
    balance_sd: float = 0.16
    """Purple and blue up, pink down, or the other way round."""
    dye_sd: float = 0.15
    """Each dye by itself."""
    hue_sd: float = 0.15
    """Each dye's absorbance in each channel."""
    cell_sd: float = 0.14
    """All dyes, from cell to cell: the smear's thickness."""


@dataclass(frozen=True)
class Smear:
    """How n patients' smears were stained and spread."""

    absorbance: Floats  # [n, dyes, 3], concentrations included
    cell_sd: Floats
    crowding: Floats  # [n]: how many red cells there are per field, on average
    red_cell_um: Floats
    pallor: Floats
    red_shape: Floats
    residue: Floats  # [n]: stain left between cells
    platelets: Floats
    leukocytes: Floats  # [n]: other white cells in a picture, on average


def draw_smear(stain: Stain, dice: Dice, patients: int) -> Smear:
    """Random effects of the laboratory and the patient on the smear."""
    strength = np.exp(dice.normal(np.log(stain.strength), stain.strength_sd))
    balance = np.exp(dice.normal(np.log(stain.azure), stain.balance_sd))
    own = np.exp(dice.normal(0.0, stain.dye_sd, len(DYES)))
    hue = np.exp(dice.normal(0.0, stain.hue_sd, len(DYES) * 3)).reshape(patients, len(DYES), 3)
    tilt = np.stack([balance, balance, 1 / balance, balance], axis=1)
    return Smear(
        absorbance=ABSORBANCE * hue * (strength[:, None] * tilt * own)[:, :, None],
        cell_sd=np.full(patients, stain.cell_sd),
        crowding=np.exp(dice.uniform(np.log(2.5), np.log(18.0))),
        red_cell_um=dice.normal(7.2, 0.2),
        pallor=dice.uniform(0.5, 1.2),
        red_shape=dice.uniform(0.015, 0.065),
        residue=dice.uniform(0.0, 0.10),
        platelets=dice.uniform(0.0, 1.6),
        leukocytes=dice.uniform(0.0, 1.2),
    )


def optical_density(dyes: npt.NDArray[np.float32], absorbance: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[n, dyes, H, W] concentrations × [n, dyes, 3] → [n, 3, H, W]."""
    density = np.zeros((len(dyes), 3, *dyes.shape[2:]), dtype=np.float32)
    for dye in range(dyes.shape[1]):
        for channel in range(3):
            density[:, channel] += dyes[:, dye] * absorbance[:, dye, channel, None, None]
    return density
