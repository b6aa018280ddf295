"""Cells drawn from the distributions of their kind and the random effects of their patient."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.datasets.smear.dice import Dice, Floats
from training.datasets.smear.kinds import KIND_NAMES, KINDS

HARMONICS = 5  # of an outline, from the 2nd (oval) to the 6th
NOTCHES = 2
NUCLEOLI = 5
VACUOLES = 18
GRANULES = 10


@dataclass(frozen=True)
class Morphology:
    """n drawn cells: arrays of length n, or [n, items]; lengths in µm, positions relative to the cell's centre."""

    kind: npt.NDArray[np.int64]
    diameter: Floats
    nucleus_diameter: Floats
    nucleus_offset: Floats  # [n, 2]
    cell_waves: Floats  # [n, 2, HARMONICS]: cosine and sine amplitudes, relative to the radius
    nucleus_waves: Floats
    notches: (
        Floats  # [n, NOTCHES, 3]: direction, depth relative to the radius (0 where there is none), width in radians
    )
    fold: Floats  # [n, 4]: strength (0 none), angle, offset and curvature
    chromatin: Floats
    clump: Floats
    clump_um: Floats
    stipple: Floats
    stipple_um: Floats
    nucleoli: Floats  # [n, NUCLEOLI, 3]: x, y, radius (0 where there is none)
    nucleolus_contrast: Floats
    basophilia: Floats
    halo: Floats
    vacuoles: Floats  # [n, VACUOLES, 3]
    granules: Floats  # [n, GRANULES, 3]

    @property
    def nucleus_area(self) -> Floats:
        """µm², of the round nucleus before its outline is bent."""
        return np.pi * self.nucleus_diameter**2 / 4


@dataclass(frozen=True)
class Individual:
    """How a patient's cells differ from the textbook: [n] factors, and additions to contrasts."""

    size: Floats
    nucleus: Floats
    basophilia: Floats
    clump: Floats
    stipple: Floats


def draw_individual(dice: Dice) -> Individual:
    """Random effects of patients on morphology."""
    return Individual(
        size=dice.normal(1.0, 0.035),
        nucleus=dice.normal(1.0, 0.012),
        basophilia=np.exp(dice.normal(0.0, 0.18)),
        clump=np.exp(dice.normal(0.0, 0.12)),
        stipple=np.exp(dice.normal(0.0, 0.12)),
    )


def draw_morphology(kind: npt.NDArray[np.int64], patient: Individual, dice: Dice) -> Morphology:
    """Cells of the given kinds (indices into KIND_NAMES), [n], of patients [n]."""
    rows = [KINDS[name] for name in KIND_NAMES]

    def figure(name: str) -> Floats:
        return np.array([getattr(row, name) for row in rows], dtype=np.float64)[kind]

    def drawn(name: str) -> Floats:
        mean, sd = figure(name).T
        return dice.normal(mean, sd)

    n = len(kind)
    low, high = figure("diameter_range").T
    diameter = np.clip(drawn("diameter") * patient.size, low, high)
    ratio = np.clip(drawn("nucleus_ratio") * patient.nucleus, 0.5, 0.95)
    nucleus_diameter = diameter * ratio
    # The nucleus lies anywhere that its cell leaves room for, seldom right at the edge.
    room = (diameter - nucleus_diameter) / 2
    away, direction = room * dice.uniform(0.0, 0.95), dice.uniform(0.0, 2 * np.pi)
    offset = np.stack([away * np.cos(direction), away * np.sin(direction)], axis=1)

    falling = 1.0 / np.arange(1, HARMONICS + 1) ** 0.7
    irregular = figure("irregular")[:, None]
    nucleus_waves = dice.normal(0.0, 1.0, 2 * HARMONICS).reshape(n, 2, HARMONICS) * (irregular * falling)[:, None]
    nucleus_waves[:, :, 0] += dice.normal(0.0, 1.0, 2) * figure("oval")[:, None] * 0.7
    cell_waves = dice.normal(0.0, 1.0, 2 * HARMONICS).reshape(n, 2, HARMONICS) * 0.022 * falling
    # A cell follows its nucleus in part, more so where the cytoplasm is scant.
    cell_waves += nucleus_waves * np.clip(ratio, 0, 1)[:, None, None] ** 3 * 0.6

    notched = dice.happens(figure("indented")[:, None], NOTCHES)
    notches = np.stack(
        [
            dice.uniform(0.0, 2 * np.pi, NOTCHES),
            notched * figure("notch_depth")[:, None] * np.exp(dice.normal(0.0, 0.35, NOTCHES)),
            dice.uniform(0.18, 0.42, NOTCHES),
        ],
        axis=2,
    )
    folds = dice.happens(figure("folded"))
    fold = np.stack(
        [
            folds * dice.uniform(0.25, 0.55),
            dice.uniform(0.0, 2 * np.pi),
            dice.uniform(-0.35, 0.35) * nucleus_diameter / 2,
            dice.normal(0.0, 0.12),
        ],
        axis=1,
    )
    radius = nucleus_diameter / 2
    return Morphology(
        kind=kind,
        diameter=diameter,
        nucleus_diameter=nucleus_diameter,
        nucleus_offset=offset,
        cell_waves=cell_waves,
        nucleus_waves=nucleus_waves,
        notches=notches,
        fold=fold,
        chromatin=drawn("chromatin_density"),
        clump=np.clip(drawn("clump") * patient.clump, 0.0, None),
        clump_um=figure("clump_um") * np.exp(dice.normal(0.0, 0.1)),
        stipple=np.clip(drawn("stipple") * patient.stipple, 0.0, None),
        stipple_um=figure("stipple_um") * np.exp(dice.normal(0.0, 0.1)),
        nucleoli=_spots(dice, NUCLEOLI, figure("nucleoli"), 0.0, 0.62 * radius, drawn("nucleolus_radius"), offset),
        nucleolus_contrast=figure("nucleolus_contrast") * np.exp(dice.normal(0.0, 0.2)),
        basophilia=np.clip(drawn("basophilia") * patient.basophilia, 0.08, None),
        halo=dice.uniform(0.0, 0.5),
        vacuoles=_spots(
            dice, VACUOLES, figure("vacuoles"), 0.55 * diameter / 2, 0.84 * diameter / 2, dice.uniform(0.45, 0.75)
        ),
        granules=_spots(
            dice, GRANULES, figure("granules"), 0.5 * radius, 0.85 * diameter / 2, dice.uniform(0.18, 0.28)
        ),
    )


def _spots(
    dice: Dice,
    slots: int,
    fewest_most: Floats,
    inner: npt.ArrayLike,
    outer: Floats,
    radius: Floats,
    centre: Floats | None = None,
) -> Floats:
    """[n, slots, 3]: x, y, radius of spots strewn evenly over the ring inner…outer; radius 0 beyond a row's count."""
    number = dice.count(*fewest_most.T)
    inner = np.broadcast_to(np.asarray(inner, dtype=np.float64), outer.shape)[:, None]
    distance = np.sqrt(dice.uniform(inner**2, outer[:, None] ** 2, slots))
    angle = dice.uniform(0.0, 2 * np.pi, slots)
    sizes = radius[:, None] * np.exp(dice.normal(0.0, 0.22, slots)) * (np.arange(slots) < number[:, None])
    x, y = distance * np.cos(angle), distance * np.sin(angle)
    if centre is not None:
        x, y = x + centre[:, :1], y + centre[:, 1:]
    return np.stack([x, y, sizes], axis=2)
