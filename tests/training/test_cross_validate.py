"""Cross-validation on tiny cells: what trains, what is kept, what is reported."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.contract.errors import ConfigError
from training import fold_runs
from training.arrays import read_npz
from training.cross_plot import draw
from training.cross_report import Answers, report
from training.cross_validate import CrossValidateConfig, cross_validate, forests, gather
from training.fold_runs import Job, Material, Recipe, run, train_fold
from training.folds import folds

MODEL: Mapping[str, Any] = {"channels": [8, 8], "gru_hidden": 8, "features": 8}
TRAIN: Mapping[str, Any] = {"epochs": 3, "patience": 0, "batch": 8, "device": "cpu", "augment": {"rotate": 180.0}}
CONFIG = CrossValidateConfig(folds=3, repeats=2, bootstrap=100, trees=10)
ABOUT = {"labels": ["light", "dark"], "malignant": ["dark"], "notes": ["WARNING: no patients"]}


def material(units: int = 12, each: int = 3) -> Material:
    """Pictures of two classes that differ in a dark disc's size; as many cells a unit."""
    rng = np.random.default_rng(0)
    n = units * each
    label = np.arange(n) // each % 2
    images = rng.integers(200, 255, (n, 32, 32, 3)).astype(np.uint8)
    far = np.hypot(*np.mgrid[-15.5:16, -15.5:16])
    for k in range(n):
        images[k][far < (5 if label[k] else 11)] //= 4
    unit = np.array([f"u{k // each:02d}" for k in range(n)])
    return Material(images, label.astype(np.int64), unit, [f"cell {k}" for k in range(n)], 2)


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Answers, Path]:
    folder = tmp_path_factory.mktemp("folds")
    answers, _ = cross_validate(material(), Recipe(MODEL, TRAIN), CONFIG, folder, workers=1, quiet=True)
    return answers, folder


def test_every_cell_is_answered_once_a_repeat_by_probabilities(crossed: tuple[Answers, Path]) -> None:
    answers, folder = crossed
    assert answers.probabilities.shape == (2, 36, 2)
    np.testing.assert_allclose(answers.probabilities.sum(axis=2), 1, atol=1e-6)
    assert len(list(folder.glob("*.npz"))) == 6


def test_what_was_trained_is_not_trained_again_and_gives_the_same(
    crossed: tuple[Answers, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, folder = crossed
    trained: list[str] = []

    def counted(material: Material, job: Job) -> fold_runs.Logits:
        trained.append(job.name)
        return train_fold(material, job)

    monkeypatch.setattr(fold_runs, "train_fold", counted)
    again, _ = cross_validate(material(), Recipe(MODEL, TRAIN), CONFIG, folder, workers=1, quiet=True)
    assert trained == []
    np.testing.assert_array_equal(again.probabilities, answers.probabilities)
    # As after a kill: one answer is missing, and only that fold is trained.
    lost = sorted(folder.glob("*.npz"))[0]
    lost.unlink()
    resumed, _ = cross_validate(material(), Recipe(MODEL, TRAIN), CONFIG, folder, workers=1, quiet=True)
    assert len(trained) == 1
    np.testing.assert_array_equal(resumed.probabilities, answers.probabilities)


def test_another_recipe_or_another_label_is_another_answer(tmp_path: Path) -> None:
    cells = material()
    rows = np.arange(36)
    jobs = [Job("one", 0, rows[:24], rows[24:], Recipe(MODEL, TRAIN))]
    run(cells, jobs, tmp_path, workers=1, quiet=True)
    slower = Recipe(MODEL, {**TRAIN, "learning_rate": 1e-4})
    run(cells, [replace(jobs[0], recipe=slower)], tmp_path, workers=1, quiet=True)
    changed = cells.label.copy()
    changed[0] = 1 - changed[0]
    run(replace(cells, label=changed), jobs, tmp_path, workers=1, quiet=True)
    assert len(list(tmp_path.glob("*.npz"))) == 3


def test_folds_side_by_side_answer_as_one_after_the_other(tmp_path: Path) -> None:
    cells = material()
    parts = list(folds(cells.unit, cells.label, folds=2, repeats=1, seed=0))
    jobs = [Job(str(part.number), 0, part.train, part.test, Recipe(MODEL, TRAIN)) for part in parts]
    alone = run(cells, jobs, tmp_path / "alone", workers=1, quiet=True)
    beside = run(cells, jobs, tmp_path / "beside", workers=2, quiet=True)
    for one, other in zip(alone, beside, strict=True):
        np.testing.assert_array_equal(one, other)


def test_with_patience_some_of_the_training_cells_validate_and_the_test_cells_never_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cells = material()
    seen: dict[str, set[bytes]] = {}
    import training.fit as fitting

    original = fitting.fit

    def spied(training: Any, validation: Any, *rest: Any, **more: Any) -> Any:
        seen["training"] = {image.tobytes() for image in training.images}
        seen["validation"] = {image.tobytes() for image in validation.images}
        return original(training, validation, *rest, **more)

    monkeypatch.setattr(fitting, "fit", spied)
    part = next(folds(cells.unit, cells.label, folds=3, repeats=1, seed=0))
    recipe = Recipe(MODEL, {**TRAIN, "patience": 2})
    train_fold(cells, Job("one", 0, part.train, part.test, recipe))
    tested = {image.tobytes() for image in cells.images[part.test]}
    assert seen["validation"]
    assert not seen["validation"] & seen["training"]
    assert not tested & (seen["validation"] | seen["training"])
    assert len(seen["validation"] | seen["training"]) == len(part.train)


def test_a_folds_temperature_does_not_depend_on_its_own_labels() -> None:
    cells = material()
    parts = list(folds(cells.unit, cells.label, folds=3, repeats=1, seed=0))
    rng = np.random.default_rng(1)
    logits = [(3 * rng.standard_normal((len(part.test), 2))).astype(np.float32) for part in parts]
    before = gather(cells, parts, logits, 1)
    changed = cells.label.copy()
    changed[parts[0].test] = 1 - changed[parts[0].test]
    after = gather(replace(cells, label=changed), parts, logits, 1)
    first, others = parts[0].test, np.concatenate([part.test for part in parts[1:]])
    np.testing.assert_array_equal(before.probabilities[0, first], after.probabilities[0, first])
    assert (before.probabilities[0, others] != after.probabilities[0, others]).any()


def test_the_report_counts_what_was_answered() -> None:
    cells = material()
    parts = list(folds(cells.unit, cells.label, folds=3, repeats=2, seed=0))
    right = np.stack([np.eye(2)[cells.label]] * 2).astype(np.float32)
    right[1, :9] = right[1, :9, ::-1]  # a quarter wrong in the second repeat
    fold = np.zeros((2, 36), dtype=np.int64)
    for part in parts:
        fold[part.repeat, part.test] = part.number
    found = report(
        Answers(right, fold), cells.label, cells.unit, ABOUT, forests(cells, parts, CONFIG), draws=200, seed=0
    )
    assert found["mean"]["accuracy"] == pytest.approx((1 + 0.75) / 2)
    assert [one["accuracy"] for one in found["per_repeat"]] == [1.0, 0.75]
    assert found["per_repeat"][0]["macro_f1"] == found["per_repeat"][0]["roc_auc"] == 1.0
    assert sum(one["cells"] for one in found["per_fold"]) == 72
    low, high = found["intervals"]["accuracy"]
    assert low < 0.875 < high
    assert set(found["shortcuts"]) == {"colours", "sizes"}
    assert found["notes"] == ["WARNING: no patients"]
    json.dumps(found, allow_nan=False)


def test_without_malignant_labels_the_malignant_figures_are_null() -> None:
    cells = material()
    fold = np.arange(36)[None] % 3
    answers = Answers(np.eye(2)[cells.label][None].astype(np.float32), fold)
    found = report(answers, cells.label, cells.unit, {**ABOUT, "malignant": []}, {}, draws=20, seed=0)
    assert found["mean"]["accuracy"] == 1
    assert found["mean"]["sensitivity"] is found["mean"]["roc_auc"] is None
    assert "sensitivity" not in found["intervals"]


def test_a_picture_is_drawn(crossed: tuple[Answers, Path], tmp_path: Path) -> None:
    cells = material()
    found = report(crossed[0], cells.label, cells.unit, ABOUT, {}, draws=50, seed=0)
    draw(tmp_path / "folds.png", found)
    assert (tmp_path / "folds.png").read_bytes().startswith(b"\x89PNG")


def test_more_folds_than_units_of_a_class_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.folds"):
        cross_validate(material(units=4), Recipe(MODEL, TRAIN), replace(CONFIG, folds=5), tmp_path, quiet=True)


def test_answers_are_stored_as_plain_arrays(tmp_path: Path) -> None:
    cells = material()
    rows = np.arange(36)
    run(cells, [Job("one", 0, rows[:24], rows[24:], Recipe(MODEL, TRAIN))], tmp_path, workers=1, quiet=True)
    (path,) = tmp_path.glob("*.npz")
    assert read_npz(path)["logits"].shape == (12, 2)
