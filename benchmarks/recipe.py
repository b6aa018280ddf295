"""What the parts of the recipe for a few hundred pictures are worth at a hospital that nothing was trained on.

    python -m benchmarks.recipe --pretrained build/pretrained.npz [--repeats 1] [--write docs/results/recipe.md]

260 synthetic cells, half of them blasts, of 52 patients of a third site, whose stain and scanner are neither of
pretraining's: the size of ALL-IDB2. Five folds, patients whole, of the defaults of params.yaml and of the recipe
(training/recommended.py) without one part at a time. `--pretrained` is what stage pretrain made for the recipe: after
`python -m training.configure tecom_wbc --root DIR`, `dvc repro pretrain`. Trainings that are done are kept in
build/folds. The cells are as simple as the generator draws them: what helps here may not help on real ones, but what
harms here has nothing to say for itself.
"""

import argparse
import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.contract.files import sha256_file, write_atomic
from service.contract.image import Field, load_field
from training import bootstrap
from training.cross_validate import CrossValidateConfig, cross_validate
from training.datasets.smear.generator import Site, Spec
from training.datasets.smear.scanner import Scanner
from training.datasets.smear.stain import Stain
from training.datasets.synthetic import draw_stored
from training.figures import Floats
from training.fold_runs import CACHE, Material, Recipe
from training.io import read_params
from training.recommended import COMMON, FEW

SITE = Site(
    "site-c",
    Scanner("scanner-c", blur=1.2, defocus=0.4, noise=0.02, gamma=1.3, white=(0.95, 0.93, 0.84), jpeg_quality=85),
    Stain("leishman", strength=1.2, azure=0.85),
)
PATIENTS, CELLS, SEED = 26, 5, 21
FIELD = Field(128, 128, 20.0)
DRAWS = 2000
HEALTHY = ("small lymphocyte", "large lymphocyte")
BLASTS = ("L1", "L1", "L2", "L2", "L3")


@dataclass(frozen=True)
class Variant:
    """A recipe: dotted names of params.yaml where they differ, and whether it starts from synthetic cells."""

    name: str
    settings: dict[str, object]
    pretrained: bool = True


def variants() -> list[Variant]:
    """The defaults, the recipe, and the recipe less one part."""
    geometry = {name: COMMON[name] for name in ("train.augment.rotate", "train.augment.zoom", "train.augment.shift")}
    return [
        Variant("the recipe", dict(FEW)),
        Variant("… from random weights", dict(FEW), pretrained=False),
        Variant("… with the default stain augmentation", {**FEW, "train.augment.stain": COMMON["train.augment.stain"]}),
        Variant("… without geometry", {**FEW, **geometry}),
        Variant("… of one view", {**FEW, "model.views": 1}),
        Variant("the defaults", dict(COMMON), pretrained=False),
    ]


def drawn() -> Material:
    """Cells whose scale nobody told: label 0 healthy, 1 blast; units are patients."""
    specs = [
        Spec(f"synthetic:{SITE.name}:{name}-{number:03d}", index, kinds[(number + index) % len(kinds)])
        for name, kinds in (("healthy", HEALTHY), ("blast", BLASTS))
        for number in range(PATIENTS)
        for index in range(CELLS)
    ]
    images = np.stack([load_field(cell.image, FIELD, 0.0) for cell in draw_stored(SITE, SEED, specs)])
    label = np.array([spec.label != "healthy" for spec in specs], dtype=np.int64)
    unit = np.array([spec.patient for spec in specs], dtype=np.str_)
    return Material(images, label, unit, [hashlib.sha256(image.tobytes()).hexdigest() for image in images], 2)


def recipe_of(variant: Variant, pretrained: Path) -> Recipe:
    """Sections `model` and `train` of params.yaml with the variant's settings in them."""
    sections: dict[str, dict[str, Any]] = {"model": read_params("model"), "train": read_params("train")}
    sections["train"]["augment"] = dict(sections["train"]["augment"])
    for name, value in {**COMMON, **variant.settings}.items():
        section, *inner, leaf = name.split(".")
        if section in sections:
            place = sections[section]
            for key in inner:
                place = place[key]
            place[leaf] = value
    sections["train"] |= {"initial": "", "initial_sha256": ""}
    if variant.pretrained:
        sections["train"] |= {"initial": str(pretrained), "initial_sha256": sha256_file(pretrained)}
    return Recipe(sections["model"], sections["train"])


def main() -> None:
    """Train every variant on the same folds; print or write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipe", description=__doc__.split("\n")[0])
    parser.add_argument("--pretrained", type=Path, required=True, help="the recipe's start: build/pretrained.npz")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="folds at once; default: as many as cores")
    parser.add_argument("--write", type=Path, help="a Markdown file")
    arguments = parser.parse_args()
    material = drawn()
    config = CrossValidateConfig(repeats=arguments.repeats, bootstrap=DRAWS)
    right: list[Floats] = []
    for variant in variants():
        recipe = recipe_of(variant, arguments.pretrained)
        answers, _ = cross_validate(material, recipe, config, CACHE, workers=arguments.workers)
        right.append((answers.probabilities.argmax(axis=2) == material.label).mean(axis=0))
    text = table(material, [variant.name for variant in variants()], right, arguments.repeats)
    print(text)
    if arguments.write:
        write_atomic(arguments.write, text.encode())


def table(material: Material, names: list[str], right: list[Floats], repeats: int) -> str:
    """Accuracy of each variant, and its difference to the first with a 95 % interval, patients drawn anew."""
    weight = bootstrap.patient_weights(material.unit, material.label, 2, draws=DRAWS, seed=SEED).astype(np.float64)
    rows = []
    for name, one in zip(names, right, strict=True):
        less = one - right[0]
        low, high = np.quantile((weight @ less) / weight.sum(axis=1), [0.025, 0.975])
        apart = "" if one is right[0] else f"{100 * less.mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        rows.append(f"| {name} | {100 * one.mean():.1f} | {apart} |")
    return "\n".join(
        [
            "# The recipe for a few hundred pictures, part by part",
            "",
            f"{len(material.label)} synthetic cells of {len(np.unique(material.unit))} patients at a site that nothing "
            f"was trained on, half of them blasts; 5 folds × {repeats}, patients whole; {platform.machine()}, CPU. "
            "`python -m benchmarks.recipe` says how.",
            "",
            "| variant | accuracy % | less the recipe's, points (95 %) |",
            "|---|---:|---:|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
