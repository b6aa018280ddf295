"""Stage `cross_validate` of training/dvc.yaml: repeated, stratified, grouped k-fold over all prepared cells.

It reports what the recipe of params.yaml is worth on a data set and decides nothing: promotions are decided on the
frozen test set by the gate. Probabilities are calibrated by a temperature that is fitted on the other folds' answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.contract.errors import CommandParser, run_command
from training.arrays import write_npz
from training.calibration import softmax
from training.config import configured
from training.cross_report import Answers, report
from training.figures import Integers
from training.fold_runs import CACHE, Job, Logits, Material, Recipe, run
from training.folds import Fold, folds
from training.io import read_json, read_params, read_parquet, write_json
from training.pixels import PREPARED, load_pixels
from training.scaling import fit_temperature
from training.shortcut import colour_features, forest_predictions, size_features

REPORT = Path("reports/cross_validation.json")
PICTURE = Path("reports/cross_validation.png")
ANSWERS = Path("build/cross_validation.npz")
PRETRAINED = Path("build/pretrained.npz")


@dataclass(frozen=True)
class CrossValidateConfig:
    """Section `evaluate` of params.yaml."""

    folds: int = 5
    repeats: int = 1
    bootstrap: int = 2000
    """Resamplings of the units, for the intervals."""
    seed: int = 0
    """Of the folds and the resamplings."""
    trees: int = 300
    """Of each forest."""


def cross_validate(
    material: Material,
    recipe: Recipe,
    config: CrossValidateConfig,
    cache: Path,
    *,
    workers: int = 0,
    quiet: bool = False,
) -> tuple[Answers, list[Fold]]:
    """Answers to every cell in every repeat, by networks that did not train on its unit; and the folds."""
    parts = list(folds(material.unit, material.label, folds=config.folds, repeats=config.repeats, seed=config.seed))
    jobs = [
        Job(f"repeat {part.repeat + 1}, fold {part.number + 1}", part.repeat, part.train, part.test, recipe)
        for part in parts
    ]
    found = run(material, jobs, cache, workers=workers, quiet=quiet)
    return gather(material, parts, found, config.repeats), parts


def gather(material: Material, parts: Sequence[Fold], found: Sequence[Logits], repeats: int) -> Answers:
    """Logits of each fold as calibrated probabilities [repeats, n, C], and the fold of each cell [repeats, n].

    A fold's temperature is fitted on the answers of the other folds of its repeat: its own cells have no say in it.
    """
    n = len(material.label)
    logits = np.zeros((repeats, n, material.classes))
    fold = np.zeros((repeats, n), dtype=np.int64)
    for part, one in zip(parts, found, strict=True):
        logits[part.repeat, part.test], fold[part.repeat, part.test] = one, part.number
    probabilities = np.empty_like(logits)
    for repeat in range(repeats):
        for number in np.unique(fold[repeat]):
            here = fold[repeat] == number
            temperature = fit_temperature(logits[repeat][~here], material.label[~here])
            probabilities[repeat, here] = softmax(logits[repeat][here] / temperature)
    return Answers(probabilities.astype(np.float32), fold)


def forests(material: Material, parts: Sequence[Fold], config: CrossValidateConfig) -> dict[str, Integers]:
    """What forests on colours and on sizes call every cell in every repeat on the same folds, [repeats, n] each."""
    said = {}
    for name, features in (("colours", colour_features), ("sizes", size_features)):
        numbers = features(material.images)
        called = np.zeros((config.repeats, len(material.label)), dtype=np.int64)
        for part in parts:
            called[part.repeat, part.test] = forest_predictions(
                numbers[part.train], material.label[part.train], numbers[part.test],
                trees=config.trees, seed=config.seed,
            )  # fmt: skip
        said[name] = called
    return said


def material_of(prepared: Path = PREPARED) -> tuple[Material, Mapping[str, Any], npt.NDArray[np.str_]]:
    """The prepared cells, what dataset.json says of them, and their paths [n]."""
    about, manifest = read_json(prepared / "dataset.json"), read_parquet(prepared / "manifest.parquet")
    index = {name: k for k, name in enumerate(about["labels"])}
    material = Material(
        load_pixels([prepared / path for path in manifest["path"]]),
        np.array([index[name] for name in manifest["label"]], dtype=np.int64),
        np.array(manifest["unit"].tolist(), dtype=np.str_),
        manifest["pixels_sha256"].tolist(),
        len(index),
    )
    return material, about, np.array(manifest["path"].tolist(), dtype=np.str_)


def main(argv: list[str] | None = None) -> int:
    """Cross-validate params.yaml's `model` and `train` on the prepared cells; write reports/cross_validation.json."""
    parser = CommandParser(prog="python -m training.cross_validate", description=main.__doc__)
    parser.add_argument("--workers", type=int, default=0, help="folds at once; default: as many as cores")
    arguments = parser.parse_args(argv)
    from training.cross_plot import draw
    from training.initial import with_pretrained

    config = configured(CrossValidateConfig, "evaluate", read_params("evaluate"))
    train = with_pretrained(read_params("train"), PRETRAINED)
    recipe = Recipe(read_params("model"), train, float(read_params("split", "validation")))
    material, about, path = material_of()
    answers, parts = cross_validate(material, recipe, config, CACHE, workers=arguments.workers)
    found = report(
        answers, material.label, material.unit, about, forests(material, parts, config),
        draws=config.bootstrap, seed=config.seed,
    )  # fmt: skip
    write_npz(
        ANSWERS,
        {
            "path": path, "unit": material.unit, "label": material.label,
            "fold": answers.fold, "probabilities": answers.probabilities,
        },
    )  # fmt: skip
    write_json(REPORT, found)
    draw(PICTURE, found)
    for note in found["notes"]:
        print(note)
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        low, high = found["intervals"][name]
        print(f"{name.replace('_', ' ')} {found['mean'][name]:.4f} ({low:.4f} to {high:.4f})")
    return 0


if __name__ == "__main__":
    run_command(main)
