"""`dvc repro training/dvc.yaml:cross_validate`: one command, what it needs of the pipeline runs first, and once."""

import json
from pathlib import Path
from typing import Any

from tests.support.pipeline import Repository, small, stages_run


def few(parameters: dict[str, Any]) -> None:
    small(parameters)
    parameters["evaluate"] |= {"folds": 2, "repeats": 2}
    parameters["train"] |= {"epochs": 1}


def test_one_command_cross_validates_a_data_set(tmp_path: Path) -> None:
    repository = Repository.copy(tmp_path / "repository", {"params.yaml": few})
    done = repository.dvc("repro", "training/dvc.yaml:cross_validate")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    ran = stages_run(done.stdout)
    assert ran.index("prepare") < ran.index("validate") < ran.index("cross_validate")
    assert "train" not in ran
    found = json.loads((repository.path / "reports/cross_validation.json").read_text())
    assert (found["folds"], found["repeats"], len(found["per_fold"])) == (2, 2, 4)
    assert found["cells"] == 4 * 9 * 5
    assert found["units"] == 4 * 9
    low, high = found["intervals"]["balanced_accuracy"]
    assert 0 <= low <= found["mean"]["balanced_accuracy"] <= high <= 1
    assert (repository.path / "reports/cross_validation.png").is_file()
    # DVC removes the outputs of a stage before it runs; the folds are none, and are not trained again.
    folds = {path: path.stat().st_mtime_ns for path in (repository.path / "build/folds").iterdir()}
    again = repository.dvc("repro", "--single-item", "--force", "training/dvc.yaml:cross_validate")
    assert again.returncode == 0, again.stderr[-3000:]
    assert {path: path.stat().st_mtime_ns for path in (repository.path / "build/folds").iterdir()} == folds
    assert json.loads((repository.path / "reports/cross_validation.json").read_text()) == found
    assert repository.git("status", "--porcelain", "--", ".gitignore", "reports", "build") == ""
