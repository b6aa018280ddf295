"""The learning curve: growing parts of the same training units, the same test units."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.contract.errors import ConfigError
from tests.training.test_cross_validate import MODEL, TRAIN, material
from training import learning_curve as stage
from training.arrays import write_npz
from training.config import configured
from training.cross_validate import CrossValidateConfig, cross_validate
from training.fold_runs import Job, Material, Recipe
from training.learning_curve import LearningCurveConfig, draw, learning_curve

CONFIG = LearningCurveConfig(shares=(0.5, 1.0), folds=2, bootstrap=50)


@pytest.fixture(scope="module")
def curve(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("folds")
    return learning_curve(material(), Recipe(MODEL, TRAIN), CONFIG, folder, workers=1, quiet=True), folder


def test_every_part_has_its_figures_with_intervals(curve: tuple[dict[str, Any], Path]) -> None:
    found, _ = curve
    assert [point["share"] for point in found["points"]] == [0.5, 1.0]
    assert [point["training_units"] for point in found["points"]] == [4, 6]  # at least two of each class
    for point in found["points"]:
        low, high = point["accuracy_interval"]
        assert low <= point["accuracy"] <= high
    json.dumps(found, allow_nan=False)


def test_the_whole_is_taken_from_the_cross_validation(curve: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    recipe = Recipe(MODEL, TRAIN)
    crossed, _ = cross_validate(material(), recipe, CrossValidateConfig(folds=2), tmp_path, workers=1, quiet=True)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    found = learning_curve(material(), recipe, CONFIG, tmp_path, workers=1, quiet=True)
    assert len(list(tmp_path.glob("*.npz"))) == 4
    assert found == curve[0]
    label = material().label
    assert found["points"][1]["accuracy"] == pytest.approx((crossed.called[0] == label).mean(), abs=1e-6)


def test_parts_are_tested_on_the_folds_test_rows_and_trained_as_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Job] = []

    def told(cells: Material, jobs: list[Job], folder: Path, **_: object) -> list[np.ndarray[Any, Any]]:
        seen.extend(jobs)
        right = [np.eye(2)[cells.label[job.test]] for job in jobs]
        return [said if len(job.train) == 40 else np.ones_like(said) for said, job in zip(right, jobs, strict=True)]

    monkeypatch.setattr(stage, "run", told)
    cells = material(units=40, each=2)
    config = LearningCurveConfig(shares=(0.25, 0.5, 1.0), longest=3, folds=2, bootstrap=200)
    found = learning_curve(cells, Recipe(MODEL, TRAIN), config, tmp_path, quiet=True)
    quarter, half, whole = seen[0], seen[2], seen[4]
    assert set(quarter.train) < set(half.train) < set(whole.train)
    assert quarter.test.tolist() == half.test.tolist() == whole.test.tolist()
    assert not set(whole.train) & set(whole.test)
    epochs = [job.recipe.train["epochs"] for job in (quarter, half, whole)]
    assert epochs == [3 * TRAIN["epochs"], round(len(whole.train) / len(half.train) * TRAIN["epochs"]), TRAIN["epochs"]]
    # Only the whole was answered well: more data pays.
    assert found["more_data_pays"]
    assert found["points"][-1]["accuracy"] == 1
    assert found["last_gain_in_accuracy"]["low"] > 0


def test_shares_that_are_no_curve_are_refused() -> None:
    for shares in ([0.5], [1.0, 0.5], [0.5, 2.0]):
        with pytest.raises(ConfigError, match=r"learning_curve: shares is"):
            configured(LearningCurveConfig, "learning_curve", {"shares": shares})
    with pytest.raises(ConfigError, match="fewer than the 5 folds"):
        learning_curve(material(units=4), Recipe(MODEL, TRAIN), replace(CONFIG, folds=5), Path(), quiet=True)


def test_a_picture_is_drawn(curve: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    draw(tmp_path / "curve.png", curve[0])
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_it_starts_where_pretraining_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The curve is of the recipe that the pipeline trains with, its start included."""
    recipes: list[Recipe] = []

    def caught(_: object, recipe: Recipe, *rest: object, **named: object) -> None:
        recipes.append(recipe)
        raise ConfigError("seen enough")

    shutil.copy("params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    write_npz(Path("build/pretrained.npz"), {"blocks.0.0.weight": np.zeros(3, dtype=np.float32)})
    monkeypatch.setattr(stage, "material_of", lambda: (None, {"notes": []}, None))
    monkeypatch.setattr(stage, "learning_curve", caught)
    with pytest.raises(ConfigError, match="seen enough"):
        stage.main([])
    assert recipes[0].train["initial"] == "build/pretrained.npz"
