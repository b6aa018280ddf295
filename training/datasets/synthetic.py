"""The default data set: generated smears of made-up patients. No person, no download, the same everywhere.

What a picture shows depends on (seed, site, patient's name, index of the cell) alone, never on how many cells or
workers there are. Colour is no use for telling the label: stains vary more from patient to patient than the labels
differ. Labels are morphology (FAB), not diagnoses.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.contract.errors import ConfigError
from training.datasets import FAB_BLASTS, SourceCell
from training.datasets.smear.canvas import PIXEL_UM
from training.datasets.smear.generator import Site, Spec, draw_cells, generator_of
from training.datasets.smear.scanner import Scanner, stored
from training.datasets.smear.stain import Stain

LABELS = ("healthy", *FAB_BLASTS)
HEALTHY_SHARE = 0.12
"""Of a leukemic patient's cells: lymphocytes that are not blasts."""
SMALL_SHARE = 0.5
"""Of healthy lymphocytes."""
_BATCH = 16

SITES: dict[str, Site] = {
    "site-a": Site("site-a", Scanner("scanner-a"), Stain("wright-giemsa")),
    # The new site of the demo: above all another scanner.
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


class SyntheticConfig(BaseModel):
    """Options of kind `synthetic` in params.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(ge=0)
    """Another seed is other patients."""
    site: str = "site-a"
    """A name of SITES."""
    patients: dict[str, int]
    """How many patients have each diagnosis, `healthy` or a subtype."""
    cells_per_patient: int | dict[str, int]
    """One number, or one by diagnosis. A leukemic patient's are blasts and about an eighth healthy lymphocytes."""
    prefix: str = ""
    """Keeps the names of these patients apart from others of the same site."""

    @model_validator(mode="after")
    def _known(self) -> "SyntheticConfig":
        if self.site not in SITES:
            raise ValueError(f"site is {self.site!r}, known are {', '.join(SITES)}")
        sizes = self.cells_per_patient if isinstance(self.cells_per_patient, dict) else {}
        if unknown := (set(self.patients) | set(sizes)) - set(LABELS):
            raise ValueError(f"{', '.join(sorted(unknown))} is no diagnosis, known are {', '.join(LABELS)}")
        if min([0, *self.patients.values()]) < 0 or min(self.sizes().values(), default=1) < 1:
            raise ValueError("patients must be 0 or more, and cells_per_patient at least 1 for every diagnosis")
        return self

    def sizes(self) -> dict[str, int]:
        """Cells per patient of each diagnosis that has patients."""
        each = self.cells_per_patient
        return {name: each.get(name, 0) if isinstance(each, dict) else each for name, n in self.patients.items() if n}


class Synthetic:
    """The data set of a SyntheticConfig."""

    scale_known = True
    labels = LABELS
    malignant = FAB_BLASTS

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config
        self.name = f"synthetic:{config.site}"
        self.notes = ["generated pictures of made-up patients; labels are FAB morphology, not diagnoses"]

    def cells(self) -> Iterator[SourceCell]:
        """Every cell, patients in order."""
        return draw_stored(SITES[self.config.site], self.config.seed, plan(self.config))


def open_dataset(options: Mapping[str, object]) -> Synthetic:
    """From the options in params.yaml. Raises ConfigError for an unknown or malformed one."""
    return Synthetic(_config(options))


def stream(
    site: str, *, seed: int, patients: Mapping[str, int], cells_per_patient: int | Mapping[str, int], prefix: str
) -> list[SourceCell]:
    """Cells as a hospital would send them: patients in random order, each one's cells together.

    `prefix` keeps these patients apart from those of other streams. Raises ConfigError for an unknown site or
    diagnosis.
    """
    each = cells_per_patient if isinstance(cells_per_patient, int) else dict(cells_per_patient)
    config = _config(
        {"site": site, "seed": seed, "patients": dict(patients), "cells_per_patient": each, "prefix": prefix}
    )
    specs = plan(config)
    names = sorted({spec.patient for spec in specs})
    order = generator_of(seed, f"{site}:{prefix}:order").permutation(len(names)).tolist()
    turn = dict(zip(names, order, strict=True))
    specs.sort(key=lambda spec: (turn[spec.patient], spec.index))
    return list(draw_stored(SITES[site], seed, specs))


def plan(config: SyntheticConfig) -> list[Spec]:
    """Who has which cells."""
    specs: list[Spec] = []
    prefix = f"{config.prefix}:" if config.prefix else ""
    for diagnosis, size in sorted(config.sizes().items(), key=lambda item: LABELS.index(item[0])):
        for number in range(config.patients[diagnosis]):
            name = f"synthetic:{config.site}:{prefix}{diagnosis}-{number:03d}"
            specs += _cells_of(name, diagnosis, size, generator_of(config.seed, f"{name}:plan"))
    return specs


def draw_stored(site: Site, seed: int, specs: Sequence[Spec]) -> Iterator[SourceCell]:
    """Draw each cell as its scanner stores it, a batch at a time."""
    for start in range(0, len(specs), _BATCH):
        part = specs[start : start + _BATCH]
        pictures, _ = draw_cells(site, seed, part)
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


def _cells_of(patient: str, diagnosis: str, size: int, generator: np.random.Generator) -> list[Spec]:
    healthy = size if diagnosis == "healthy" else int(size * HEALTHY_SHARE + generator.random())
    small = generator.random(healthy) < SMALL_SHARE
    kinds = ["small lymphocyte" if is_small else "large lymphocyte" for is_small in small]
    kinds += [diagnosis] * (size - healthy)
    return [Spec(patient, index, kinds[k]) for index, k in enumerate(generator.permutation(size).tolist())]


def _config(options: Mapping[str, object]) -> SyntheticConfig:
    try:
        return SyntheticConfig.model_validate(dict(options))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" if item["loc"] else item["msg"]
            for item in error.errors(include_url=False)
        )
        raise ConfigError(f"data.sources, synthetic: {wrong.replace('Value error, ', '')}") from None
