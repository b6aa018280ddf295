"""Promotion: only what passed, only over the model it was compared with, only as the plan approves, only once."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.contract.artifact import MODEL, Artifact, FolderModelStore, read_artifact
from service.contract.errors import ConfigError, Conflict, LedgerError
from service.contract.lease import RETRAINING, Leases
from service.contract.ledger import Ledger
from tests.support.artifacts import tiny_artifact
from tests.support.evidence import plan
from training.champion import champion
from training.io import write_json
from training.places import ARTIFACT, CHAMPION, GATE
from training.promote import AUTOMATIC, Candidate, promote

REPO = Path(__file__).parents[2]
PERSON = plan()
AUTO = PERSON.model_copy(update={"approval": "automatic"})


class Site:
    """A ledger and a model store of one site, and candidates made for it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ledger = Ledger(f"sqlite:///{root / 'store.db'}")
        self.models = root / "bentoml" / "models" / "blastwatch"
        self.imports = 0

    def keep(self, artifact: Artifact) -> None:
        """What BentoML's import comes to on disk."""
        target = self.models / artifact.version
        if not target.exists():
            shutil.copytree(artifact.path, target)
            self.imports += 1

    def candidate(self, seed: int = 0, champion: str | None = None, reasons: tuple[str, ...] = ()) -> Candidate:
        path = self.root / f"candidate-{seed}"
        artifact = read_artifact(path) if path.exists() else tiny_artifact(path, seed=seed)
        decision = "refused" if reasons else "passed"
        judged = {"candidate": artifact.manifest.files[MODEL], "champion": champion}
        return Candidate(artifact, {"decision": decision, "reasons": list(reasons), **judged}, champion)

    def kinds(self) -> list[str]:
        return [row.kind for row in self.ledger.rows()]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_automatic_promotion_leaves_one_row_of_each_kind(site: Site) -> None:
    candidate = site.candidate()
    version = candidate.artifact.version
    assert version in promote(candidate, AUTO, site.ledger, site.keep)
    assert site.kinds() == ["registered", "gate_passed", "approved", "promoted"]
    assert site.ledger.rows("approved")[0].body["by"] == AUTOMATIC
    assert champion(site.ledger) == {"version": version}
    assert read_artifact(FolderModelStore(site.models).path(version)).version == version


def test_running_it_again_changes_nothing(site: Site) -> None:
    candidate = site.candidate()
    promote(candidate, AUTO, site.ledger, site.keep)
    head = site.ledger.head()
    for again in (candidate, site.candidate(champion=candidate.artifact.version)):
        assert "in production already" in promote(again, AUTO, site.ledger, site.keep)
    assert site.ledger.head() == head
    assert site.imports == 1


def test_a_model_store_that_lost_the_model_in_production_gets_it_back(site: Site) -> None:
    candidate = site.candidate()
    promote(candidate, AUTO, site.ledger, site.keep)
    shutil.rmtree(site.models)
    promote(candidate, AUTO, site.ledger, site.keep)
    assert FolderModelStore(site.models).path(candidate.artifact.version).is_dir()


def test_a_person_is_asked_and_told_how_and_their_approval_promotes(site: Site) -> None:
    candidate = site.candidate()
    version = candidate.artifact.version
    for _ in range(2):
        words = promote(candidate, PERSON, site.ledger, site.keep)
        assert f"python -m service.contract.ledger approve {version} --by ROLE" in words
        assert "dvc repro promote" in words
    assert site.kinds() == ["registered", "gate_passed"]
    assert site.ledger.production() is None
    site.ledger.approve(version, by="head of haematology")
    promote(candidate, PERSON, site.ledger, site.keep)
    assert site.ledger.production() == version


def test_an_approval_by_a_role_that_the_plan_does_not_name_is_none(site: Site) -> None:
    strict = PERSON.model_copy(update={"approvers": ("head of haematology", "quality officer")})
    candidate = site.candidate()
    version = candidate.artifact.version
    words = promote(candidate, strict, site.ledger, site.keep)
    assert "head of haematology or quality officer" in words
    site.ledger.approve(version, by="ML engineer")
    assert "waits" in promote(candidate, strict, site.ledger, site.keep)
    assert site.ledger.production() is None
    site.ledger.approve(version, by="quality officer")
    promote(candidate, strict, site.ledger, site.keep)
    assert site.ledger.production() == version


def test_an_automatic_approval_of_earlier_days_is_none_where_the_plan_asks_for_a_person(site: Site) -> None:
    first, second = site.candidate(1), site.candidate(2)
    for each in (first, second):
        each = Candidate(each.artifact, {**each.gate, "champion": site.ledger.production()}, site.ledger.production())
        promote(each, AUTO, site.ledger, site.keep)
    again = site.candidate(1, champion=second.artifact.version)
    assert site.ledger.is_approved(first.artifact.version)
    assert "waits for a person's approval" in promote(again, PERSON, site.ledger, site.keep)
    assert site.ledger.production() == second.artifact.version


def test_a_refusal_lists_every_reason_is_recorded_once_and_imports_nothing(site: Site) -> None:
    candidate = site.candidate(reasons=("sensitivity: 0.5, required 0.9", "size: too big"))
    for _ in range(2):
        with pytest.raises(LedgerError, match=r"sensitivity: 0\.5, required 0\.9; size: too big"):
            promote(candidate, AUTO, site.ledger, site.keep)
    assert site.kinds() == ["registered", "gate_refused"]
    assert site.ledger.rows("gate_refused")[0].body["reasons"] == list(candidate.gate["reasons"])  # type: ignore[call-overload]
    assert not site.models.exists()


def test_another_result_of_the_gate_for_the_same_model_is_another_row(site: Site) -> None:
    for reasons in (("size: too big",), ("latency: too slow",)):
        with pytest.raises(LedgerError):
            promote(site.candidate(reasons=reasons), AUTO, site.ledger, site.keep)
    promote(site.candidate(), AUTO, site.ledger, site.keep)
    assert site.kinds() == ["registered", "gate_refused", "gate_refused", "gate_passed", "approved", "promoted"]


def test_an_approval_does_not_overrule_the_gate(site: Site) -> None:
    candidate = site.candidate(reasons=("size: too big",))
    site.ledger.append("registered", version=candidate.artifact.version)
    site.ledger.approve(candidate.artifact.version, by="head of haematology")
    with pytest.raises(LedgerError, match="size: too big"):
        promote(candidate, PERSON, site.ledger, site.keep)
    assert site.ledger.production() is None


def test_a_decision_that_is_not_passed_is_a_refusal(site: Site) -> None:
    candidate = site.candidate()
    unknown = Candidate(candidate.artifact, {**candidate.gate, "decision": "maybe"}, None)
    with pytest.raises(LedgerError, match="no reason given"):
        promote(unknown, AUTO, site.ledger, site.keep)


def test_a_stale_champion_is_a_conflict_and_the_same_candidate_compared_anew_is_not(site: Site) -> None:
    first, other = site.candidate(1), site.candidate(2)
    promote(first, AUTO, site.ledger, site.keep)
    for stale in (None, "ab" * 16):
        with pytest.raises(Conflict, match="dvc repro"):
            promote(site.candidate(2, champion=stale), AUTO, site.ledger, site.keep)
    assert site.ledger.production() == first.artifact.version
    promote(site.candidate(2, champion=first.artifact.version), AUTO, site.ledger, site.keep)
    assert site.ledger.production() == other.artifact.version
    assert site.ledger.rows("promoted")[-1].body["replaced"] == first.artifact.version


@pytest.mark.parametrize("change_plan", [PERSON, AUTO])
def test_a_model_that_a_person_rolled_back_comes_back_only_by_a_person(site: Site, change_plan: object) -> None:
    first = site.candidate(1)
    promote(first, AUTO, site.ledger, site.keep)
    second = site.candidate(2, champion=first.artifact.version)
    promote(second, AUTO, site.ledger, site.keep)
    site.ledger.rollback(by="clinician on duty")
    assert site.ledger.production() == first.artifact.version
    rules = AUTO if change_plan is AUTO else PERSON
    assert "waits for a person's approval" in promote(second, rules, site.ledger, site.keep)
    assert site.ledger.production() == first.artifact.version
    site.ledger.approve(second.artifact.version, by="head of haematology")
    promote(second, rules, site.ledger, site.keep)
    assert site.ledger.production() == second.artifact.version


def test_a_report_about_another_model_promotes_nothing(site: Site) -> None:
    one, other = site.candidate(1), site.candidate(2)
    with pytest.raises(ConfigError, match="dvc repro"):
        promote(Candidate(one.artifact, other.gate, None), AUTO, site.ledger, site.keep)
    with pytest.raises(ConfigError, match="dvc repro"):
        promote(Candidate(one.artifact, one.gate, "ab" * 16), AUTO, site.ledger, site.keep)
    assert site.kinds() == []


class DiedError(Exception):
    """The process ended here."""


class Dying:
    """A site whose process ends before its n-th step: an append of any kind, or the import."""

    def __init__(self, site: Site, steps: int) -> None:
        self.site, self.left = site, steps

    def step(self) -> None:
        if self.left == 0:
            raise DiedError
        self.left -= 1

    def keep(self, artifact: Artifact) -> None:
        self.step()
        self.site.keep(artifact)

    def __getattr__(self, name: str) -> object:
        if name in ("append", "approve", "promote"):
            self.step()
        return getattr(self.site.ledger, name)


@pytest.mark.parametrize("steps", range(5))
def test_an_end_at_any_point_is_made_good_by_running_it_again(site: Site, steps: int) -> None:
    dying = Dying(site, steps)
    with pytest.raises(DiedError):
        promote(site.candidate(), AUTO, dying, dying.keep)  # type: ignore[arg-type]
    promote(site.candidate(), AUTO, site.ledger, site.keep)
    assert site.kinds() == ["registered", "gate_passed", "approved", "promoted"]


def command(cwd: Path, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("BLASTWATCH_", "BENTOML_"))}
    return subprocess.run(
        [sys.executable, "-m", "training.promote"],
        cwd=cwd,
        env=kept | {"PYTHONPATH": str(REPO), "BENTOML_HOME": str(home)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """What the stages before leave, in a folder of its own."""
    artifact = tiny_artifact(tmp_path / ARTIFACT)
    judged = artifact.manifest.files[MODEL]
    write_json(tmp_path / GATE, {"decision": "passed", "candidate": judged, "champion": None, "reasons": []})
    write_json(tmp_path / CHAMPION, {"version": None})
    shutil.copy(REPO / "change_plan.yaml", tmp_path)
    return tmp_path


def test_the_stage_imports_into_a_real_bentoml_store_and_tells_what_is_missing(workspace: Path) -> None:
    home, version = workspace / "home", read_artifact(workspace / ARTIFACT).version
    done = command(workspace, home)
    assert done.returncode == 0, done.stderr
    assert f"approve {version} --by ROLE" in done.stdout
    listed = subprocess.run(
        [sys.executable, "-m", "bentoml", "models", "list", "--output", "json"],
        env={**os.environ, "BENTOML_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"blastwatch:{version}" in listed.stdout
    path = FolderModelStore(home / "models" / "blastwatch").path(version)
    assert read_artifact(path, expect_version=version).version == version
    Ledger(f"sqlite:///{workspace / 'var/store.db'}").approve(version, by="head of haematology")
    done = command(workspace, home)
    assert done.returncode == 0, done.stderr
    assert "is in production" in done.stdout


def test_the_stage_ends_with_2_and_one_line_on_a_refusal(workspace: Path) -> None:
    judged = read_artifact(workspace / ARTIFACT).manifest.files[MODEL]
    write_json(
        workspace / GATE, {"decision": "refused", "candidate": judged, "champion": None, "reasons": ["size: too big"]}
    )
    done = command(workspace, workspace / "home")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the gate refused") and "size: too big" in done.stderr
    assert done.stderr.count("\n") == 1


def test_places_that_contradict_each_other_are_refused(workspace: Path) -> None:
    done = command(workspace, workspace / "home", BLASTWATCH_MODELS_DIR=str(workspace / "other/models/blastwatch"))
    assert done.returncode == 2
    assert "contradict" in done.stderr
    done = command(workspace, workspace / "home", BLASTWATCH_MODELS_DIR=str(workspace / "anywhere"))
    assert done.returncode == 2
    assert "BENTOML_HOME" in done.stderr
    assert not (workspace / "var/store.db").exists()


def test_a_damaged_model_in_the_store_stops_promotion(workspace: Path) -> None:
    home = workspace / "home"
    assert command(workspace, home).returncode == 0
    version = read_artifact(workspace / ARTIFACT).version
    (home / "models/blastwatch" / version / "serve/model.onnx").write_bytes(b"damaged")
    done = command(workspace, home)
    assert done.returncode == 2
    assert "model.onnx" in done.stderr


def test_an_experiment_of_a_sweep_promotes_nothing_whatever_the_plan_says(workspace: Path) -> None:
    plan_file = workspace / "change_plan.yaml"
    plan_file.write_text(plan_file.read_text().replace("approval: person", "approval: automatic"))
    done = command(workspace, workspace / "home", DVC_EXP_NAME="pursy-slew")
    assert done.returncode == 0
    assert "dvc exp apply pursy-slew" in done.stdout
    assert not (workspace / "var/store.db").exists() and not (workspace / "home").exists()


def test_a_retraining_that_was_replaced_promotes_nothing(workspace: Path) -> None:
    plan_file = workspace / "change_plan.yaml"
    plan_file.write_text(plan_file.read_text().replace("approval: person", "approval: automatic"))
    ledger = Ledger(f"sqlite:///{workspace / 'var/store.db'}")
    leases = Leases(f"sqlite:///{workspace / 'var/store.db'}")
    slow, heir = (leases.take(RETRAINING, "a host", "a run", 600.0) for _ in range(2))
    assert slow and heir
    done = command(workspace, workspace / "home", BLASTWATCH_RETRAINING_FENCE=str(slow.fence))
    assert done.returncode == 2
    assert "lost its lease" in done.stderr
    assert ledger.rows() == []
    done = command(workspace, workspace / "home", BLASTWATCH_RETRAINING_FENCE=str(heir.fence))
    assert done.returncode == 0, done.stderr
    assert ledger.production() == read_artifact(workspace / ARTIFACT).version
