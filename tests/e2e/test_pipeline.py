"""The pipeline from data to production, on a small data set: what a user types, and what is there afterwards."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from service.contract.artifact import FolderModelStore, read_artifact
from service.contract.ledger import Ledger
from service.contract.predictor import Predictor
from service.contract.reference import Reference
from tests.e2e.conftest import Story
from tests.support.pipeline import Repository, edit, lenient, small, stages_run
from tests.support.realdata import data_folder

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("pipeline")]

STAGES = [
    *("prepare", "validate", "split", "bounds", "pretrain", "train", "calibrate", "evaluate", "audit", "export"),
    *("champion", "gate", "package", "promote"),
]


def ledger(repository: Repository) -> Ledger:
    return Ledger(f"sqlite:///{repository.path / 'var/store.db'}", create=False)


def read(repository: Repository, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((repository.path / name).read_text())
    return content


def test_one_command_runs_every_stage_and_asks_for_approval(story: Story) -> None:
    assert sorted(stages_run(story.first.stdout)) == sorted(STAGES)
    assert f"python -m service.contract.ledger approve {story.version} --by ROLE" in story.first.stdout


def test_the_approval_promotes_without_running_anything_else(story: Story) -> None:
    assert story.approve.returncode == 0, story.approve.stderr
    assert story.promote.returncode == 0, story.promote.stderr
    assert sorted(stages_run(story.promote.stdout)) == ["champion", "promote"]
    assert ledger(story.repository).production() == story.version


def test_the_ledger_tells_the_story_and_its_chain_holds(story: Story) -> None:
    book = ledger(story.repository)
    book.verify()
    assert [row.kind for row in book.rows()] == ["registered", "gate_passed", "approved", "promoted"]
    assert {row.version for row in book.rows()} == {story.version}


def test_a_run_with_nothing_to_do_runs_only_the_two_stages_that_look_outside(story: Story) -> None:
    assert story.settled.returncode == 0
    assert story.idle.returncode == 0
    # The model in production changed, so it was compared with itself once; then nothing was left.
    assert stages_run(story.settled.stdout) == ["champion", "gate", "promote"]
    assert sorted(stages_run(story.idle.stdout)) == ["champion", "promote"]


def test_the_model_store_the_artifact_and_the_bento_hold_the_same_model(story: Story) -> None:
    root = story.repository.path
    stored = FolderModelStore(root / "var/bentoml/models/blastwatch").path(story.version)
    for path in (root / "build/artifact", stored, root / "build/bento/src/seed"):
        artifact = read_artifact(path, expect_version=story.version)
        Predictor(artifact).warm_up()
    assert artifact.manifest.code_revision.startswith(story.repository.git("rev-list", "--max-parents=0", "HEAD"))
    assert (root / "build/artifact/model_card.md").read_text().startswith("# Model card")


def test_the_reports_say_what_the_issue_asks_for(story: Story) -> None:
    evaluation = read(story.repository, "reports/evaluation.json")
    assert {
        *("accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "f1", "roc_auc", "ece"),
        *("per_class", "per_site", "shortcut_balanced_accuracy", "confusion_matrix", "intervals"),
    } <= set(evaluation)
    gate = read(story.repository, "reports/gate.json")
    assert gate["decision"] == "passed"
    assert gate["champion"] == story.version
    states = {check["name"]: check["state"] for check in gate["checks"]}
    assert states["non-inferiority"] == states["shortcut"] == states["export parity"] == "passed"
    assert "refused" not in states.values()


def test_metrics_and_plots_can_be_shown_and_compared(story: Story, tmp_path: Path) -> None:
    repository = story.repository.clone(tmp_path / "clone", share_cache=True)
    repository.dvc("checkout", "--allow-missing", check=True)  # of the pipelines under training/, not run here
    shown = json.loads(repository.dvc("metrics", "show", "--json", check=True).stdout)
    assert "balanced_accuracy" in shown[""]["data"]["reports/evaluation.json"]["data"]
    page = tmp_path / "page"
    repository.dvc("plots", "show", "--out", str(page), check=True)
    assert list(page.rglob("*contact_sheet.png"))
    assert (page / "index.html").is_file()
    # Another figure, as another run would leave it.
    metrics = repository.path / "reports/evaluation.json"
    evaluation = json.loads(metrics.read_text())
    metrics.unlink()
    metrics.write_text(json.dumps(evaluation | {"accuracy": evaluation["accuracy"] + 0.25}))
    difference = json.loads(repository.dvc("metrics", "diff", "--json", check=True).stdout)
    assert difference["reports/evaluation.json"]["accuracy"]["diff"] == pytest.approx(0.25)


def test_only_the_lock_file_changes_in_the_work_tree(story: Story) -> None:
    added = story.repository.git("show", "--name-status", "--format=", "HEAD").split()
    assert added == ["A", "dvc.lock"]
    assert story.repository.git("status", "--porcelain") == ""


def test_stages_open_only_what_dvc_yaml_says(story: Story) -> None:
    """What each stage's process opened, recorded from inside it, against its deps, outs and params."""
    root = story.repository.path
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    opened = defaultdict[str, set[str]](set)
    for line in story.repository.opened.read_text().splitlines():
        module, path = line.split("\t")
        # State and what Git, DVC, Python and training.pixel_cache (decoded cells, named by their content) keep for
        # themselves are no inputs; test_dvc_yaml.py is about imports.
        kept = ("var/", ".", "prepared/.pixels/")
        if (root / path).is_file() and not path.startswith(kept) and "__pycache__" not in path:
            opened[module.removeprefix("training.")].add(path)
    assert sorted(opened) == sorted(STAGES)
    assert {"change_plan.yaml", "prepared/split.parquet", "params.yaml"} <= opened["gate"]
    for stage, paths in opened.items():
        entry = stages[stage]
        entries = [named for key in ("deps", "outs", "metrics", "plots") for named in entry.get(key, [])]
        declared = [named if isinstance(named, str) else next(iter(named)) for named in entries]
        declared += ["params.yaml"] if entry.get("params") else []
        outside = [path for path in paths if not path.endswith("__init__.py") and not covered(path, declared)]
        assert sorted(outside) == [], f"{stage} opens what dvc.yaml does not name"


def covered(path: str, declared: list[str]) -> bool:
    return any(path == entry or path.startswith(f"{entry}/") for entry in declared)


@pytest.fixture(scope="module")
def automatic(story: Story, tmp_path_factory: pytest.TempPathFactory) -> tuple[Repository, str]:
    """A clone with the first one's cache, an empty store of its own, and a change plan whose approval is automatic."""
    repository = story.repository.clone(tmp_path_factory.mktemp("automatic") / "clone", share_cache=True)
    edit(repository.path / "change_plan.yaml", lambda plan: plan.update(approval="automatic"))
    repository.commit("this site agreed to automatic approval")
    return repository, repository.dvc("repro", check=True).stdout


def test_automatic_approval_promotes_in_one_go(story: Story, automatic: tuple[Repository, str]) -> None:
    repository, _ = automatic
    assert ledger(repository).production() == story.version
    assert [row.kind for row in ledger(repository).rows()] == ["registered", "gate_passed", "approved", "promoted"]
    assert ledger(repository).rows("approved")[0].body["by"] == "change plan (automatic)"


def test_a_clone_with_the_cache_takes_every_stage_from_it_that_did_not_change(
    story: Story, automatic: tuple[Repository, str]
) -> None:
    _, output = automatic
    # champion finds an empty ledger there, and the change plan is another one.
    assert set(stages_run(output)) == {"bounds", "champion", "gate", "promote"}


def test_another_case_mix_is_a_candidate_like_any_other_and_nothing_is_trained(
    story: Story, automatic: tuple[Repository, str]
) -> None:
    """Behind the tests above, for another model is in production afterwards."""
    repository, _ = automatic
    named = {"healthy": 0.7, "L1": 0.15, "L2": 0.1, "L3": 0.05}
    edit(repository.path / "params.yaml", lambda params: params["calibrate"].update(priors=named))
    output = repository.dvc("repro", check=True).stdout
    after = {"bounds", "calibrate", "evaluate", "audit", "export", "champion", "gate", "package", "promote"}
    assert set(stages_run(output)) == after
    (verdict,) = (line for line in read(repository, "reports/gate.json")["checks"] if line["name"] == "case mix")
    assert (verdict["state"], verdict["measured"] > 0) == ("passed", True)

    models = FolderModelStore(repository.path / "var/bentoml/models/blastwatch")
    version = ledger(repository).production()
    assert version is not None and version != story.version
    before, now = (Predictor(read_artifact(models.path(one))) for one in (story.version, version))
    assert now.manifest.parameters["calibrate"]["priors"] == named
    reference = Reference.load(now.artifact.path / "reference/reference.npz")
    assert reference.priors.tolist() == pytest.approx(list(named.values()))
    # The same network: every cell's odds moved by the same ratio.
    cells = np.load(now.artifact.path / "serve/warmup.npz")["image"]
    ratio = now.predict(cells).probabilities / before.predict(cells).probabilities
    np.testing.assert_allclose(ratio / ratio[:, :1], np.broadcast_to(ratio[0] / ratio[0, 0], ratio.shape), rtol=1e-3)
    assert ratio[0, 1:].max() < ratio[0, 0]


def test_a_refused_candidate_is_on_record_stops_the_run_with_its_reasons_and_is_not_kept(
    story: Story, tmp_path: Path
) -> None:
    repository = story.repository.clone(tmp_path / "clone", share_cache=True)
    edit(repository.path / "change_plan.yaml", lambda plan: plan["budget"].update(model_bytes=1))
    assert repository.dvc("repro", "gate").returncode == 0
    done = repository.dvc("repro")
    assert done.returncode != 0
    assert "size of the graph in bytes" in done.stderr and "Traceback" not in done.stderr
    assert [row.kind for row in ledger(repository).rows()] == ["registered", "gate_refused"]
    assert len(ledger(repository).rows("gate_refused")[0].body["reasons"]) == 1
    assert not (repository.path / "var/bentoml/models").exists()


def test_reviewed_cells_that_dvc_tracks_make_a_new_version_of_the_data(story: Story, tmp_path: Path) -> None:
    repository = story.repository.clone(tmp_path / "clone", share_cache=True)
    cells = repository.path / "data/reviewed/cells"
    cells.mkdir(parents=True)
    (cells / "cells.parquet").write_bytes(b"reviewed")
    repository.dvc("add", "data/reviewed/cells", check=True)
    planned = repository.dvc("repro", "--dry", "prepare", check=True).stdout
    assert stages_run(planned) == ["prepare"]


@pytest.mark.realdata
def test_real_cells_without_malignant_labels_run_through_the_gate_which_refuses(tmp_path: Path) -> None:
    folder = data_folder("tecom_wbc")

    def other_cells(parameters: dict[str, Any]) -> None:
        small(parameters)
        parameters["data"] |= {
            "labels": ["neutrophil", "lymphocyte", "monocyte", "eosinophil"],
            "sources": [{"kind": "tecom_wbc", "root": str(folder)}],
        }

    repository = Repository.copy(tmp_path / "repository", {"params.yaml": other_cells, "change_plan.yaml": lenient})
    done = repository.dvc("repro", "gate")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    evaluation, gate = read(repository, "reports/evaluation.json"), read(repository, "reports/gate.json")
    assert len(evaluation["per_class"]) == 4
    for figure in ("sensitivity", "specificity", "roc_auc"):
        assert evaluation[figure] is None
        assert evaluation["not_applicable"][figure]
    states = {check["name"]: check["state"] for check in gate["checks"]}
    assert states["sensitivity"] == states["specificity"] == "not applicable"
    assert gate["decision"] == "refused"
    assert [reason.split(":")[0] for reason in gate["reasons"]] == ["labels"]
    notes = json.dumps(read(repository, "prepared/dataset.json")["notes"])
    assert "basophil" in notes
