"""Specs of cells → pictures: who they belong to, what they show, at which site they were stained and scanned."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from training.datasets.smear.canvas import CANVAS, SIDE
from training.datasets.smear.dice import Dice, Floats
from training.datasets.smear.kinds import KIND_NAMES, KINDS
from training.datasets.smear.morphology import Individual, Morphology, draw_individual, draw_morphology
from training.datasets.smear.render import draw_concentrations
from training.datasets.smear.scanner import Scanner, draw_exposure, expose
from training.datasets.smear.stain import Smear, Stain, draw_smear, optical_density
from training.datasets.smear.texture import white

_PATIENT_DICE, _CELL_DICE = 64, 512  # more than a patient or a cell uses; Dice complains when it is not


@dataclass(frozen=True)
class Site:
    """A hospital: its scanner and its laboratory."""

    name: str
    scanner: Scanner
    stain: Stain


@dataclass(frozen=True)
class Spec:
    """One cell to draw: whose it is, which of theirs, and what it shows (a name of KINDS)."""

    patient: str
    index: int
    kind: str

    @property
    def label(self) -> str:
        """`healthy`, or the subtype."""
        return KINDS[self.kind].label


@dataclass(frozen=True)
class Patients:
    """Random effects of n patients at one site."""

    individual: Individual
    smear: Smear
    balance: Floats  # [n, 3]: white balance of the slide, logarithms of light

    def of(self, index: npt.NDArray[np.int64]) -> "Patients":
        """The patients of cells: rows by index."""
        return Patients(_rows(self.individual, index), _rows(self.smear, index), self.balance[index])


Effects = TypeVar("Effects", Individual, Smear)


def draw_patients(site: Site, seed: int, names: Sequence[str]) -> Patients:
    """The patients' random effects; each depends on (seed, name) alone."""
    dice = Dice([generator_of(seed, name) for name in names], _PATIENT_DICE)
    individual = draw_individual(dice)
    smear = draw_smear(site.stain, dice, len(names))
    return Patients(individual, smear, dice.normal(0.0, site.scanner.balance_sd * site.scanner.gamma, 3))


def draw_cells(site: Site, seed: int, specs: Sequence[Spec]) -> tuple[npt.NDArray[np.uint8], Morphology]:
    """Pictures uint8 [n, 128, 128, 3] of cells, before the scanner stores them, and what was drawn.

    A cell's picture depends on the site, the seed and its spec alone. Memory is about 5 MB a cell: draw in batches.
    """
    names = sorted({spec.patient for spec in specs})
    row = {name: k for k, name in enumerate(names)}
    whose = draw_patients(site, seed, names).of(np.array([row[spec.patient] for spec in specs]))
    generators = [generator_of(seed, spec.patient, spec.index) for spec in specs]
    dice = Dice(generators, _CELL_DICE)
    coarse = np.stack([white(generator, CANVAS) for generator in generators])
    fine = np.stack([white(generator, CANVAS) for generator in generators])
    noise = np.stack([generator.standard_normal((3, SIDE, SIDE), dtype=np.float32) for generator in generators])

    cells = draw_morphology(np.array([KIND_NAMES.index(spec.kind) for spec in specs]), whose.individual, dice)
    thickness = np.exp(dice.normal(0.0, whose.smear.cell_sd))
    exposure = draw_exposure(site.scanner, whose.balance, dice)
    dyes = draw_concentrations(cells, whose.smear, dice, coarse, fine)
    absorbance = (whose.smear.absorbance * thickness[:, None, None]).astype(np.float32)
    return expose(optical_density(dyes, absorbance), site.scanner, exposure, noise), cells


def generator_of(seed: int, name: str, *cell: int) -> np.random.Generator:
    """The random numbers of a patient, or of one of their cells."""
    words = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype="<u4").tolist()
    return np.random.default_rng(np.random.SeedSequence([seed, *words], spawn_key=cell))


def _rows(effects: Effects, index: npt.NDArray[np.int64]) -> Effects:
    return replace(effects, **{name: value[index] for name, value in vars(effects).items()})
