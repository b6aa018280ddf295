"""Trainings of many folds, each as the train stage trains; several at once, each answer kept, so that a killed run goes
on.

One process a fold with one thread each: on two cores that is faster than one training with two threads, and a fold's
answer does not depend on how many run beside it.
"""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from service.contract.image import Pixels
from training.arrays import read_npz, write_npz
from training.config import configured
from training.figures import Integers
from training.folds import Names, inner_validation

Logits = npt.NDArray[np.float32]
CACHE = Path("build/folds")
"""Answers of trainings that are done; no output of a stage, so that a killed run goes on from it."""
_CODE = (
    "augment",
    "distributed",
    "feeding",
    "fit",
    "fold_runs",
    "folds",
    "initial",
    "learner",
    "losses",
    "recipe",
    "units",
)


@dataclass(frozen=True)
class Recipe:
    """How each fold is trained: sections `model` and `train` of params.yaml, and the share that validates.

    Validation cells are taken from a fold's training cells, and only where `train.patience` asks for them.
    """

    model: Mapping[str, Any]
    train: Mapping[str, Any]
    validation: float = 0.15


def longer(recipe: Recipe, times: float) -> Recipe:
    """The recipe with as many times the epochs and the patience, for fewer cells."""
    more = {name: round(recipe.train[name] * times) for name in ("epochs", "patience")}
    return replace(recipe, train={**recipe.train, **more})


@dataclass(frozen=True, eq=False)
class Job:
    """One training: rows to train on, rows to answer, and which repeat it belongs to (its seed follows from that)."""

    name: str
    repeat: int
    train: Integers
    test: Integers
    recipe: Recipe


@dataclass(frozen=True, eq=False)
class Material:
    """n cells: pictures uint8 [n, H, W, 3], labels [n], units [n], and what names the pictures' content [n]."""

    images: Pixels
    label: Integers
    unit: Names
    content: Sequence[str]
    classes: int


def train_fold(material: Material, job: Job) -> Logits:
    """Logits [len(job.test), C] of the job's test rows, by a network trained on its training rows alone."""
    from training.augment import AugmentConfig
    from training.fit import Examples, TrainConfig, fit
    from training.initial import begin, initial_of
    from training.models.cnn_gru import CnnGruConfig
    from training.models.inference import build, outputs

    settings = dict(job.recipe.train)
    augmentation = configured(AugmentConfig, "train.augment", settings.pop("augment", {}))
    config = configured(TrainConfig, "train", settings)
    height, width = material.images.shape[1:3]
    shape = {**job.recipe.model, "classes": material.classes, "height": height, "width": width}
    model = configured(CnnGruConfig, "model", shape)
    initial = initial_of(config)
    train, validation = job.train, job.train[:0]
    if config.patience:
        train, validation = inner_validation(
            material.unit, material.label, job.train, job.recipe.validation, config.seed + job.repeat
        )
    fitted = fit(
        Examples(material.images[train], material.label[train]),
        Examples(material.images[validation], material.label[validation]),
        model,
        replace(config, seed=config.seed + job.repeat, threads=1),
        augmentation,
        start=lambda network: begin(network, initial) if initial is not None else None,
    )
    return outputs(build(model, fitted.weights), material.images[job.test], threads=1).logits


def run(
    material: Material, jobs: Sequence[Job], folder: Path, *, workers: int = 0, quiet: bool = False
) -> list[Logits]:
    """The answer to each job, in order; those found in `folder` are not trained again.

    `workers` of 0 are as many as cores, and one where there is CUDA. A job's file is named by everything that its
    answer depends on (cells, rows, recipe, code), so that a stale one is never taken.
    """
    import torch

    common = _common(material)
    paths = [folder / f"{_key(common, material, job)}.npz" for job in jobs]
    waiting = [k for k, path in enumerate(paths) if not path.is_file()]
    workers = min(workers or (1 if torch.cuda.is_available() else os.cpu_count() or 1), max(1, len(waiting)))
    progress = tqdm(desc="folds", total=len(jobs), initial=len(jobs) - len(waiting), disable=True if quiet else None)
    with progress:
        for k, logits in _trained(material, [(k, jobs[k]) for k in waiting], workers):
            write_npz(paths[k], {"logits": logits})
            progress.set_postfix(last=jobs[k].name)
            progress.update()
    return [read_npz(path)["logits"] for path in paths]


def _trained(material: Material, waiting: Sequence[tuple[int, Job]], workers: int) -> Iterator[tuple[int, Logits]]:
    if workers <= 1:
        for k, job in waiting:
            yield k, train_fold(material, job)
        return
    # Spawned, not forked: torch's threads do not survive a fork. Each process holds the pictures once.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_hold, initargs=(material,)) as pool:
        futures = [(k, pool.submit(_train_held, job)) for k, job in waiting]
        try:
            for k, future in futures:
                yield k, future.result()
        finally:
            for _, future in futures:
                future.cancel()


_held: list[Material] = []


def _hold(material: Material) -> None:
    _held[:] = [material]


def _train_held(job: Job) -> Logits:
    return train_fold(_held[0], job)


def _common(material: Material) -> str:
    """Of the code that trains, and of the pictures' size."""
    here = Path(__file__).parent
    files = [here / f"{name}.py" for name in _CODE] + sorted((here / "models").glob("*.py"))
    digest = hashlib.sha256(str((material.images.shape[1:], material.classes)).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _key(common: str, material: Material, job: Job) -> str:
    digest = hashlib.sha256(common.encode())
    recipe = [dict(job.recipe.model), dict(job.recipe.train), job.recipe.validation, job.repeat]
    digest.update(json.dumps(recipe, sort_keys=True, default=list).encode())
    for name, rows in (("train", job.train), ("test", job.test)):
        digest.update(f"\n{name}".encode())
        for row in rows.tolist():
            digest.update(f"\n{material.content[row]} {material.label[row]} {material.unit[row]}".encode())
    return digest.hexdigest()[:32]
