"""Stage `learning_curve` of training/dvc.yaml: what more patients would be worth.

The recipe of params.yaml trains on growing parts of each fold's training units, which are nested, and is tested on the
fold's test units, which are the same for every part. The whole is what cross_validate trains in its first repeat, and
taken from there where it has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.contract.errors import CommandParser, run_command
from training import bootstrap, figures
from training.config import configured
from training.cross_validate import PRETRAINED, material_of
from training.figures import Integers
from training.fold_runs import CACHE, Job, Material, Recipe, longer, run
from training.folds import folds, paired_interval, part_of_units
from training.io import read_params, write_json

REPORT = Path("reports/learning_curve.json")
PICTURE = Path("reports/learning_curve.png")
FIGURES = {"accuracy": figures.accuracy, "balanced_accuracy": figures.balanced_accuracy}


@dataclass(frozen=True)
class LearningCurveConfig:
    """Section `learning_curve` of params.yaml; folds and seed are those of `evaluate`."""

    shares: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    """Of the training units, rising."""
    longest: float = 4.0
    """A small part is passed this many times as often at most, so that it is not steps that it lacks."""
    folds: int = 5
    seed: int = 0
    bootstrap: int = 2000

    def __post_init__(self) -> None:
        """Refuse what is no curve. Raises ValueError."""
        if len(self.shares) < 2 or list(self.shares) != sorted(set(self.shares)):
            raise ValueError(f"shares is {list(self.shares)}: at least two, rising")
        if not 0 < self.shares[0] <= self.shares[-1] <= 1 or self.longest < 1:
            raise ValueError(f"shares is {list(self.shares)} and longest {self.longest}: up to 1, and at least 1")


def learning_curve(
    material: Material,
    recipe: Recipe,
    config: LearningCurveConfig,
    cache: Path,
    *,
    workers: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """The content of reports/learning_curve.json, less what dataset.json says."""
    parts = list(folds(material.unit, material.label, folds=config.folds, repeats=1, seed=config.seed))
    jobs: list[Job] = []
    for share in config.shares:
        for part in parts:
            rows = part_of_units(material.unit, material.label, part.train, share, config.seed)
            train = recipe if share == 1 else longer(recipe, min(len(part.train) / len(rows), config.longest))
            jobs.append(Job(f"{share:g} of fold {part.number + 1}", 0, rows, part.test, train))
    logits = run(material, jobs, cache, workers=workers, quiet=quiet)
    called = np.zeros((len(config.shares), len(material.label)), dtype=np.int64)
    for k, (job, said) in enumerate(zip(jobs, logits, strict=True)):
        called[k // len(parts), job.test] = said.argmax(axis=1)
    return _report(material, config, jobs, called)


def _report(material: Material, config: LearningCurveConfig, jobs: Sequence[Job], called: Integers) -> dict[str, Any]:
    unit, label = material.unit, material.label
    weight = bootstrap.patient_weights(unit, label, material.classes, draws=config.bootstrap, seed=config.seed)
    points = []
    for k, (share, said) in enumerate(zip(config.shares, called, strict=True)):
        trained = [job.train for job in jobs[k * config.folds : (k + 1) * config.folds]]
        point: dict[str, Any] = {
            "share": share,
            "training_cells": round(float(np.mean([len(rows) for rows in trained]))),
            "training_units": round(float(np.mean([len(np.unique(unit[rows])) for rows in trained]))),
        }
        confusion = figures.confusion_matrix(label, said, material.classes)
        drawn = bootstrap.confusions(weight, label, said, material.classes)
        for name, figure in FIGURES.items():
            bounds = bootstrap.interval(figure(drawn))
            point[name] = round(float(figure(confusion)), 6)
            point[f"{name}_interval"] = None if bounds is None else [round(bound, 6) for bound in bounds]
        points.append(point)
    gain = paired_interval(unit, label, called[-1:], called[-2:-1], draws=config.bootstrap, seed=config.seed)
    return {
        "cells": len(label),
        "units": len(np.unique(unit)),
        "folds": config.folds,
        "points": points,
        "last_gain_in_accuracy": {name: round(value, 6) for name, value in vars(gain).items()},
        "more_data_pays": gain.better,
    }


def draw(path: Path, found: Mapping[str, Any]) -> None:
    """Write the PNG of reports/learning_curve.json's content."""
    from matplotlib.axes import Axes

    from training.plots import COLOURS, save

    def curve(axes: Axes) -> None:
        points = found["points"]
        units = [point["training_units"] for point in points]
        for k, name in enumerate(FIGURES):
            values = [point[name] for point in points]
            low, high = zip(*(point[f"{name}_interval"] for point in points), strict=True)
            axes.plot(units, values, "o-", color=COLOURS[k], label=name.replace("_", " "))
            axes.fill_between(units, low, high, color=COLOURS[k], alpha=0.15, lw=0)
        axes.set_xscale("log")
        axes.set_xticks(units, [f"{point['training_units']}\n({point['training_cells']})" for point in points])
        axes.minorticks_off()
        axes.set(xlabel="training patients or pictures (cells)", title="What more patients are worth")
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False, loc="lower right")

    save(path, curve)


def main(argv: list[str] | None = None) -> int:
    """Train params.yaml's recipe on growing parts of the prepared cells; write reports/learning_curve.json and .png."""
    parser = CommandParser(prog="python -m training.learning_curve", description=main.__doc__)
    parser.add_argument("--workers", type=int, default=0, help="trainings at once; default: as many as cores")
    arguments = parser.parse_args(argv)
    from training.initial import with_pretrained

    evaluate = read_params("evaluate")
    settings = {name: evaluate[name] for name in ("folds", "seed", "bootstrap")} | read_params("learning_curve")
    config = configured(LearningCurveConfig, "learning_curve", settings)
    train = with_pretrained(read_params("train"), PRETRAINED)
    recipe = Recipe(read_params("model"), train, float(read_params("split", "validation")))
    material, about, _ = material_of()
    found = learning_curve(material, recipe, config, CACHE, workers=arguments.workers)
    found["notes"] = list(about["notes"])
    write_json(REPORT, found)
    draw(PICTURE, found)
    for note in found["notes"]:
        print(note)
    for point in found["points"]:
        print(
            f"{point['training_units']} units, {point['training_cells']} cells: accuracy {point['accuracy']:.4f}, "
            f"balanced {point['balanced_accuracy']:.4f}"
        )
    return 0


if __name__ == "__main__":
    run_command(main)
