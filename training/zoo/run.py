"""One row of the zoo: `python -m training.zoo.run ROW [--folds K] [--repeats R]`.

Every fold is kept in build/zoo as soon as it is done, under a name that says what it was run with: a run that was
killed goes on with the next fold, and one with more repeats takes those that are there. The result is
reports/zoo/ROW.json.
"""

import hashlib
import json
import os
import platform
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from tqdm import tqdm

from service.contract.errors import CommandParser, run_command
from training.arrays import read_npz, write_npz
from training.calibration import softmax
from training.figures import Floats, Integers
from training.folds import Fold, folds
from training.io import read_json, read_params, read_parquet, write_json
from training.pixels import PREPARED, load_pixels
from training.scaling import fit_temperature
from training.zoo import golub
from training.zoo.results import FOLDER, not_run, packed
from training.zoo.rows import TRAINED, row_of
from training.zoo.settings import RowSettings, ZooConfig, parse
from training.zoo.systems import Recipe, ZooCells, code_digest, digest_of, system_of, weights_used

PRETRAINED = Path("build/pretrained.npz")
KEPT = Path("build/zoo")
_LEAST = 1e-4  # a forest says 0, of which there is no logarithm


def load_cells(prepared: Path = PREPARED) -> tuple[ZooCells, dict[str, Any]]:
    """The cells of the prepare stage, whatever split they are in, and dataset.json."""
    about: dict[str, Any] = read_json(prepared / "dataset.json")
    manifest, labels = read_parquet(prepared / "manifest.parquet"), tuple(about["labels"])
    index = {name: position for position, name in enumerate(labels)}
    label = np.array([index[name] for name in manifest["label"]], dtype=np.int64)
    images = load_pixels([prepared / path for path in manifest["path"]])
    unit = np.array(manifest["unit"].tolist(), dtype=np.str_)
    return ZooCells(images, label, unit, labels, manifest["pixels_sha256"].tolist()), about


def run_row(
    name: str, recipe: Recipe, cells: ZooCells, about: dict[str, Any], *, kept: Path = KEPT, quiet: bool = False
) -> dict[str, Any]:
    """Cross-validate a row; the content of its file. Folds that `kept` has are not run again."""
    system, config = system_of(recipe, cells), recipe.config
    weights, digest = weights_used(recipe), digest_of(cells)
    folder = kept / name / _key(recipe, weights, digest)
    costs = folder / "cost.json"
    repeats, seconds = recipe.own.repeats, 0.0
    said = np.zeros((repeats, len(cells.label), len(cells.labels)))
    wanted = list(folds(cells.unit, cells.label, folds=config.folds, repeats=repeats, seed=config.seed))
    for fold in tqdm(wanted, desc=name, unit=" folds", disable=True if quiet else None):
        file = folder / f"{fold.repeat}-{fold.number}.npz"
        earlier = _earlier(file, fold.test)
        if earlier is None:
            started = perf_counter()
            found, answer = system.fit(fold.train, fold.test, fold.repeat)
            earlier = found, perf_counter() - started
            if not costs.is_file():
                write_json(costs, asdict(system.cost(answer, cells.images[:1])))
            write_npz(file, {"test": fold.test, "said": found, "seconds": np.array(earlier[1])})
        said[fold.repeat, fold.test] = earlier[0]
        seconds += earlier[1]
    return {
        "row": name,
        "status": "ran",
        "data": {
            "name": ", ".join(sorted({str(source.get("kind", "?")) for source in about.get("sources", [])}))
            or "prepared",
            "sha256": digest,
            "cells": len(cells.label),
            "pixels": list(cells.images.shape[1:3]),
            "labels": list(cells.labels),
            "malignant": list(about["malignant"]),
            "label": cells.label.tolist(),
            # Units are named by a number: a result holds no patient.
            "unit": [str(k) for k in np.unique(cells.unit, return_inverse=True)[1].tolist()],
        },
        "folds": config.folds,
        "repeats": repeats,
        "seed": config.seed,
        "mode": _mode(recipe),
        "epochs": _epochs(recipe),
        "weights": weights,
        "machine": _machine(config.threads),
        "seconds": round(seconds, 1),
        "cost": read_json(costs),
        "probabilities": packed(_calibrated(said, cells.label, wanted)),
    }


def _calibrated(said: Floats, label: Integers, parts: list[Fold]) -> Floats:
    """Each fold's probabilities with the temperature that suits the other folds' answers, as cross_validate has it."""
    found = np.empty_like(said)
    log_p = np.log(np.maximum(said, _LEAST))
    for part in parts:
        known = np.setdiff1d(np.arange(len(label)), part.test)
        temperature = fit_temperature(log_p[part.repeat][known], label[known])
        found[part.repeat, part.test] = softmax(log_p[part.repeat][part.test] / temperature)
    return found


def run_golub(config: ZooConfig, own: RowSettings) -> dict[str, Any]:
    """The expression DNN: 38 patients train, 34 others test; a repeat is another seed."""
    train, test = golub.load(Path(config.golub))
    started = perf_counter()
    runs = [golub.predict(train, test, config, config.seed + 1000 * k) for k in range(own.repeats)]
    took = perf_counter() - started
    return {
        "row": "golub",
        "status": "ran",
        "data": {
            "name": "Golub et al. 1999",
            "sha256": hashlib.sha256(np.concatenate([train.values, test.values]).tobytes()).hexdigest(),
            "cells": len(test.label),
            "labels": list(golub.LABELS),
            "malignant": ["ALL"],
            "label": test.label.tolist(),
            "unit": list(test.patient),
        },
        "folds": 1,
        "repeats": own.repeats,
        "seed": config.seed,
        "mode": f"trained on {len(train.label)} patients, tested on {len(test.label)} independent ones",
        "epochs": None,
        "weights": [],
        "machine": _machine(1),
        "seconds": round(took, 1),
        "cost": {"parameters": runs[0][1], "multiply_adds": None, "ms": None},
        "probabilities": packed(np.stack([said for said, _ in runs])),
    }


def _earlier(file: Path, test: Integers) -> tuple[Floats, float] | None:
    """A fold that was run before, if it is of the same test cells."""
    if not file.is_file():
        return None
    found = read_npz(file)
    return (found["said"], float(found["seconds"])) if np.array_equal(found["test"], test) else None


def _key(recipe: Recipe, weights: list[dict[str, str]], digest: str) -> str:
    """Changes with whatever changes a fold's answers; not with the number of repeats."""
    config = {
        name: value for name, value in asdict(recipe.config).items() if name not in ("bootstrap", "golub", "weights")
    }
    settled = [
        asdict(recipe.row) | {"title": "", "remark": ""}, config, asdict(replace(recipe.own, repeats=1)),
        weights, digest, code_digest(), recipe.train if recipe.row.kind == "ours" else recipe.train.get("augment", {}),
        recipe.model if recipe.row.kind == "ours" else {},
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(settled, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _mode(recipe: Recipe) -> str:
    if recipe.row.kind == "ours":
        start = "" if recipe.row.variant == "sd_cnn" else Path(str(recipe.train.get("initial", ""))).name
        return f"{TRAINED}, from {start or 'random ones'}"
    if recipe.row.kind in ("network", "composed"):
        return "frozen trunk, linear layer" if recipe.own.mode == "features" else TRAINED
    return "frozen trunk" if recipe.row.kind == "features" else "learned in each fold"


def _epochs(recipe: Recipe) -> int | None:
    if recipe.row.kind == "ours":
        return int(recipe.train["epochs"])
    tuned = recipe.row.kind == "autoencoder" or (
        recipe.row.kind in ("network", "composed") and recipe.own.mode != "features"
    )
    return recipe.own.epochs if tuned else None


def _machine(threads: int) -> str:
    import torch

    return f"{platform.machine()}, {os.cpu_count()} cores, {threads} thread, torch {torch.__version__}"


def main(argv: list[str] | None = None) -> int:
    """Run one row of the zoo on the prepared cells; write reports/zoo/ROW.json."""
    parser = CommandParser(prog="python -m training.zoo.run", description=main.__doc__)
    parser.add_argument("row", help="a row of the table, such as squeezenet")
    parser.add_argument("--folds", type=int, help="instead of evaluate.folds")
    parser.add_argument("--repeats", type=int, help="instead of zoo.rows.ROW.repeats")
    asked = parser.parse_args(argv)
    row = row_of(asked.row)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    config, own = parse(read_params("zoo"), read_params("evaluate"), asked.row)
    config = replace(config, folds=config.folds if asked.folds is None else asked.folds)
    own = replace(own, repeats=own.repeats if asked.repeats is None else asked.repeats)
    if row.missing:
        found: dict[str, Any] = not_run(asked.row, row.missing)
    elif row.kind == "expression":
        reason = "zoo.golub names no folder with the files of Golub et al."
        found = run_golub(config, own) if config.golub else not_run(asked.row, reason)
    else:
        cells, about = load_cells()
        train = read_params("train")
        if row.kind == "ours":  # as cross_validate trains it, whose folds are taken
            from training.initial import with_pretrained

            train = with_pretrained(train, PRETRAINED)
        recipe = Recipe(row, config, own, read_params("model"), train, float(read_params("split", "validation")))
        found = run_row(asked.row, recipe, cells, about | {"sources": read_params("data", "sources")})
    write_json(FOLDER / f"{asked.row}.json", found)
    print(f"{asked.row}: {found['status']}{': ' + found['reason'] if 'reason' in found else ''}")
    return 0


if __name__ == "__main__":
    run_command(main)
