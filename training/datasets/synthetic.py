"""The default data set: generated smears of made-up patients. No person, no download, the same everywhere.

What each picture shows depends on (seed, site, patient's name, index of the cell) alone, never on how many cells or
workers there are. Colour is no use for telling the label: a patient's stain varies more than the labels do.
Labels are morphology (FAB), not diagnoses.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

from service.contract.errors import ConfigError
from training.datasets import FAB_BLASTS, SourceCell
from training.datasets.smear.canvas import CANVAS, PIXEL_UM, SIDE
from training.datasets.smear.dice import Dice, Floats
from training.datasets.smear.morphology import (
    KIND_NAMES,
    KINDS,
    Individual,
    Morphology,
    draw_individual,
    draw_morphology,
)
from training.datasets.smear.render import draw_concentrations
from training.datasets.smear.scanner import Scanner, draw_exposure, expose, stored
from training.datasets.smear.stain import Smear, Stain, draw_smear, optical_density
from training.datasets.smear.texture import white

LABELS = ("healthy", *FAB_BLASTS)
HEALTHY_SHARE = 0.12
"""Of a leukemic patient's cells: lymphocytes that are not blasts."""
SMALL_SHARE = 0.5
"""Of healthy lymphocytes."""
_BATCH = 16
_PATIENT_DICE, _CELL_DICE = 64, 512


@dataclass(frozen=True)
class Site:
    """A hospital: its scanner and its laboratory."""

    name: str
    scanner: Scanner
    stain: Stain


SITES: dict[str, Site] = {
    "site-a": Site("site-a", Scanner("scanner-a"), Stain("wright-giemsa")),
    "site-b": Site(
        "site-b",
        Scanner(
            "scanner-b",
            blur=1.6,
            defocus=0.5,
            sharpen=1.6,
            sharpen_radius=2.2,
            noise=0.035,
            grain=0.5,
            gamma=1.8,
            white=(0.86, 0.90, 0.93),
            saturation=0.8,
            jpeg_quality=70,
            chroma_subsampling=True,
        ),
        Stain("may-gruenwald-giemsa", strength=1.1, azure=1.1),
    ),
}


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
    balance: Floats  # [n, 3]

    def of(self, index: npt.NDArray[np.int64]) -> "Patients":
        """Rows for cells."""
        return Patients(_rows(self.individual, index), _rows(self.smear, index), self.balance[index])


Effects = TypeVar("Effects", Individual, Smear)


def _rows(effects: Effects, index: npt.NDArray[np.int64]) -> Effects:
    return replace(effects, **{name: value[index] for name, value in vars(effects).items()})


def draw_patients(site: Site, seed: int, names: list[str]) -> Patients:
    """The patients' random effects; each depends on (seed, name) alone."""
    dice = Dice([np.random.default_rng(_seed(seed, name)) for name in names], _PATIENT_DICE)
    individual = draw_individual(dice)
    smear = draw_smear(site.stain, dice, len(names))
    return Patients(individual, smear, dice.normal(0.0, site.scanner.balance_sd * site.scanner.gamma, 3))


def draw(site: Site, seed: int, specs: list[Spec]) -> tuple[npt.NDArray[np.uint8], Morphology]:
    """Pictures uint8 [n, 128, 128, 3] of cells, before the scanner stores them, and what was drawn."""
    names = sorted({spec.patient for spec in specs})
    row = {name: k for k, name in enumerate(names)}
    whose = draw_patients(site, seed, names).of(np.array([row[spec.patient] for spec in specs]))
    generators = [np.random.default_rng(_seed(seed, spec.patient, spec.index)) for spec in specs]
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


def plan(site: str, prefix: str, patients: Mapping[str, int], cells: Mapping[str, int], seed: int) -> list[Spec]:
    """Who has which cells: `patients` counts by diagnosis, `cells` per patient by diagnosis.

    A leukemic patient has blasts of the subtype and about HEALTHY_SHARE healthy lymphocytes.
    """
    specs = []
    for diagnosis in LABELS:
        for number in range(patients.get(diagnosis, 0)):
            name = f"synthetic:{site}:{prefix}{diagnosis}-{number:03d}"
            generator = np.random.default_rng(_seed(seed, name + ":plan"))
            size = cells[diagnosis]
            healthy = size if diagnosis == "healthy" else int(size * HEALTHY_SHARE + generator.random())
            small = generator.random(healthy) < SMALL_SHARE
            kinds = ["small lymphocyte" if s else "large lymphocyte" for s in small] + [diagnosis] * (size - healthy)
            specs += [Spec(name, k, kinds[j]) for k, j in enumerate(generator.permutation(size).tolist())]
    return specs


def source_cells(site: Site, seed: int, specs: list[Spec]) -> Iterator[SourceCell]:
    """Draw and store each cell, a batch at a time."""
    for start in range(0, len(specs), _BATCH):
        part = specs[start : start + _BATCH]
        pictures, _ = draw(site, seed, part)
        for spec, pixels in zip(part, pictures, strict=True):
            yield SourceCell(
                image=stored(pixels, site.scanner),
                label=spec.label,
                patient=spec.patient,
                site=site.name,
                stain=site.stain.name,
                scanner=site.scanner.name,
                pixel_size_um=PIXEL_UM,
                source=f"{spec.patient}#{spec.index}",
            )


def stream(
    site: str, *, seed: int, patients: Mapping[str, int], cells_per_patient: int | Mapping[str, int], prefix: str = ""
) -> list[SourceCell]:
    """Cells as a hospital would send them: patients in random order, each one's cells together.

    `prefix` keeps these patients apart from those of other streams. Raises ConfigError for an unknown site or
    diagnosis.
    """
    config = SyntheticConfig(
        seed=seed, site=site, patients=dict(patients), cells_per_patient=cells_per_patient, prefix=prefix
    )
    specs = config.plan()
    names = sorted({spec.patient for spec in specs})
    order = np.random.default_rng(_seed(seed, f"{site}:{prefix}:order")).permutation(len(names))
    turn = {name: int(k) for name, k in zip(names, order, strict=True)}
    specs.sort(key=lambda spec: (turn[spec.patient], spec.index))
    return list(source_cells(SITES[site], seed, specs))


@dataclass(frozen=True)
class SyntheticConfig:
    """Options of kind `synthetic` in params.yaml."""

    seed: int = 0
    site: str = "site-a"
    patients: dict[str, int] = field(default_factory=lambda: {"healthy": 30, "L1": 46, "L2": 20, "L3": 18})
    """Patients by diagnosis."""
    cells_per_patient: int | Mapping[str, int] = 20
    prefix: str = ""

    def __post_init__(self) -> None:
        if self.site not in SITES:
            raise ConfigError(f"synthetic: site is {self.site!r}, known are {', '.join(SITES)}")
        unknown = set(self.patients) - set(LABELS)
        if unknown:
            raise ConfigError(f"synthetic: no diagnosis {sorted(unknown)}, known are {', '.join(LABELS)}")

    def plan(self) -> list[Spec]:
        """Who has which cells."""
        each = self.cells_per_patient
        sizes = dict.fromkeys(LABELS, each) if isinstance(each, int) else dict(each)
        prefix = f"{self.prefix}:" if self.prefix else ""
        return plan(self.site, prefix, self.patients, sizes, self.seed)


class Synthetic:
    """The data set of a SyntheticConfig."""

    scale_known = True
    labels = LABELS
    malignant = FAB_BLASTS

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config
        self.name = f"synthetic:{config.site}"
        self.notes = ["generated pictures of made-up patients: labels are FAB morphology, not diagnoses"]

    def cells(self) -> Iterator[SourceCell]:
        """Every cell, patients in order."""
        return source_cells(SITES[self.config.site], self.config.seed, self.config.plan())


def open_dataset(options: Mapping[str, object]) -> Synthetic:
    """From the options in params.yaml. Raises ConfigError for an unknown or malformed one."""
    try:
        return Synthetic(SyntheticConfig(**cast("dict[str, int]", dict(options))))  # type: ignore[arg-type]
    except TypeError as error:
        raise ConfigError(f"synthetic: {error}") from None


def _seed(seed: int, name: str, *cell: int) -> np.random.SeedSequence:
    words = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype="<u4").tolist()
    return np.random.SeedSequence([seed, *words], spawn_key=tuple(cell))
