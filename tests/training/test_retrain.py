"""A whole retraining in a stand-in repository: real Git, DVC, store, ledger and export; stages of a few lines."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.contract.errors import ConfigError, Conflict
from service.contract.lease import RETRAINING, Leases, place
from service.contract.ledger import FENCE, Ledger
from service.contract.pixels import PixelStore
from service.contract.records import PredictionRecord
from service.contract.store import Store
from tests.support.artifacts import tiny_artifact
from tests.support.images import smear
from tests.support.monitoring import reviews, stream, with_pixels
from training import retrain_command
from training.retrain import Result, base_commit, promote_approved, run_pipeline
from training.retrain_command import job_environment
from training.sources import add_source
from training.workspace import RetrainingFailed, Workspace

PARAMS = """\
# A comment that stays.
data:
  sources:
    - kind: synthetic  # and this one
      seed: 1

field: {height: 32, width: 32, field_um: 20.0}
split: {salt: stand-in}
calibrate:
  risk: 0.02
  priors: {}
"""

DVC_YAML = """\
stages:
  split:
    cmd: python stages.py split
    deps: [data, stages.py, splits/frozen_test.json]
    params: [data.sources]
    outs: [prepared/frozen_test.json]
  train:
    cmd: python stages.py train
    deps: [data, stages.py, prepared/frozen_test.json, models]
    outs: [build/artifact]
  gate:
    cmd: python stages.py gate
    deps: [build/artifact]
    metrics:
      - reports/gate.json:
          cache: false
  promote:
    cmd: python stages.py promote
    always_changed: true
    deps: [build/artifact, reports/gate.json]
"""

# What the stages of the real pipeline do, as far as a retraining can tell.
STAGES = """\
import json, os, shutil, sys
from pathlib import Path
from service.contract.artifact import MODEL, read_artifact
from service.contract.ledger import Ledger, fence_of

exported = Path("data/reviewed/cells/cells.parquet").exists()
match sys.argv[1]:
    case "split":
        stored = json.loads(Path("splits/frozen_test.json").read_text())
        units = set(stored["units"]) | {"old"} | ({"new"} if exported else set())
        chosen = {"salt": "stand-in", "units": sorted(units), "decided": []}
        Path("prepared/frozen_test.json").write_text(json.dumps(chosen))
    case "train":
        shutil.copytree("models/second" if exported else "models/first", "build/artifact")
    case "gate":
        candidate = read_artifact(Path("build/artifact")).manifest.files[MODEL]
        gate = {"decision": "passed", "candidate": candidate, "champion": None, "checks": [], "reasons": []}
        Path("reports").mkdir(exist_ok=True)
        Path("reports/gate.json").write_text(json.dumps(gate))
    case "promote":
        ledger = Ledger(os.environ["BLASTWATCH_STORE_URL"]).fenced(fence_of(os.environ))
        version = read_artifact(Path("build/artifact")).version
        if ledger.production() != version and not ledger.is_registered(version):
            ledger.append("registered", version=version)
        if not ledger.is_approved(version):
            sys.exit(0)
        ledger.promote(version, ledger.production())
"""


def _git(repo: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=user", "-c", "user.email=user@localhost", "-c", "commit.gpgsign=false"]
    line = ["git", *identity, *arguments]
    return subprocess.run(line, cwd=repo, check=True, capture_output=True, text=True).stdout.strip()


class Site:
    """A user's repository with work that is not committed yet, and a store with reviews."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.repo = root / "repo"
        self.work = root / "work"
        self.url = f"sqlite:///{root}/store.db"
        self.ledger = Ledger(self.url)
        self.first, self.second = self._lay_repository()
        self.ledger.append("registered", version=self.first)
        self.ledger.promote(self.first, None)
        self.records = self._fill_store()
        (self.repo / "stages.py").write_text(STAGES + "\n# the user is in the middle of something\n")
        (self.repo / "notes.txt").write_text("and has a file that nobody knows\n")

    def git(self, *arguments: str) -> str:
        return _git(self.repo, *arguments)

    def retrain(self, run: str, *options: str) -> "subprocess.CompletedProcess[str]":
        line = [sys.executable, "-m", "training.retrain", "--run", run, "--repo", str(self.repo)]
        environment = os.environ | {
            "BLASTWATCH_STORE_URL": self.url,
            "BLASTWATCH_PIXELS_DIR": str(self.root / "pixels"),
            "BENTOML_HOME": str(self.root / "bentoml"),
        }
        line += ["--work", str(self.work), *options]
        return subprocess.run(line, env=environment, cwd=self.root, capture_output=True, text=True, check=False)

    def show(self, commit: str, name: str) -> str:
        return self.git("show", f"{commit}:{name}")

    def _lay_repository(self) -> tuple[str, str]:
        repo = self.repo
        for folder in ("data/reviewed", "splits", "prepared", "models"):
            (repo / folder).mkdir(parents=True)
        first = tiny_artifact(repo / "models/first", seed=1)
        second = tiny_artifact(repo / "models/second", seed=2)
        files = {
            "params.yaml": PARAMS,
            "dvc.yaml": DVC_YAML,
            "stages.py": STAGES,
            "data/README.md": "data\n",
            "splits/frozen_test.json": json.dumps({"salt": "stand-in", "units": [], "decided": []}),
            ".gitignore": "/build/\n/reports/\n/prepared/*\n!/prepared/keep\n",
            "prepared/keep": "",
        }
        for name, text in files.items():
            (repo / name).write_text(text)
        self.git("init", "--quiet", "-b", "main")
        subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=repo, check=True)
        self.git("add", ".")
        self.git("commit", "--quiet", "-m", "a user's repository")
        return first.version, second.version

    def _fill_store(self) -> list[PredictionRecord]:
        store, pixels = Store(self.url), PixelStore(self.root / "pixels")
        records = stream(self.first, seed=1, patients=3, cells=2)
        names = [pixels.save(smear(seed=number, size=32)) for number in range(len(records))]
        records = with_pixels(records, names)
        store.insert_predictions(records)
        store.insert_reviews(reviews(records[:4], time="2026-01-06T00:00:00.000000+00:00"))
        return records


def test_a_retraining_from_reviews_to_production(tmp_path: Path) -> None:
    """The whole way, with a person's approval in the middle; a clone of its own all along."""
    site = Site(tmp_path)
    before = (site.git("status", "--porcelain"), site.git("rev-parse", "HEAD"), site.git("branch", "--show-current"))
    assert "stages.py" in before[0]
    done = site.retrain("r1")
    assert done.returncode == 0, done.stdout + done.stderr

    (row,) = site.ledger.rows("retraining_finished")
    body = row.body
    assert (body["run"], body["gate"], body["reasons"], body["promoted"]) == ("r1", "passed", [], False)
    assert (row.version, site.ledger.production()) == (site.second, site.first)
    assert (body["branch"], body["base"]) == ("retrain/r1", before[1])
    assert site.git("rev-parse", "retrain/r1") == body["commit"]

    commit = body["commit"]
    params = site.show(commit, "params.yaml")
    assert "# A comment that stays." in params
    assert "- {kind: reviewed, root: data/reviewed/cells}" in params
    assert "path: cells" in site.show(commit, "data/reviewed/cells.dvc")
    assert "/cells" in site.show(commit, "data/reviewed/.gitignore")
    assert json.loads(site.show(commit, "splits/frozen_test.json"))["units"] == ["new", "old"]
    assert "build/artifact" in site.show(commit, "dvc.lock")
    authors = set(site.git("log", "--format=%an <%ae>", f"{before[1]}..{commit}").splitlines())
    assert authors == {"blastwatch retraining <retraining@localhost>"}
    assert site.git("diff", "--name-only", before[1], commit).splitlines() == [
        "data/reviewed/.gitignore",
        "data/reviewed/cells.dvc",
        "dvc.lock",
        "params.yaml",
        "splits/frozen_test.json",
    ]
    assert json.loads((site.work / "r1" / "reports" / "gate.json").read_text())["decision"] == "passed"

    assert f"approve {site.second} --by ROLE" in done.stdout
    site.ledger.approve(site.second, by="haematologist")
    late = site.retrain("r1", "--promote")
    assert late.returncode == 0, late.stdout + late.stderr
    assert site.ledger.production() == site.second
    assert base_commit(site.ledger) == commit
    assert not (site.work / "r1" / "repo").exists()

    after = (site.git("status", "--porcelain"), site.git("rev-parse", "HEAD"), site.git("branch", "--show-current"))
    assert after == before


def test_a_recalibration_changes_the_priors_and_nothing_else(tmp_path: Path) -> None:
    site = Site(tmp_path)
    head = site.git("rev-parse", "HEAD")
    done = site.retrain("mix", "--priors", '{"healthy": 0.7, "L1": 0.3}')
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = site.ledger.rows("retraining_finished")
    assert (row.body["gate"], row.body["priors"]) == ("passed", {"healthy": 0.7, "L1": 0.3})
    (started,) = site.ledger.rows("retraining_started")
    assert started.body["priors"] == {"healthy": 0.7, "L1": 0.3}
    commit = row.body["commit"]
    assert "  priors: {healthy: 0.7, L1: 0.3}" in site.show(commit, "params.yaml")
    changed = site.git("diff", "--unified=0", head, commit, "--", "params.yaml").splitlines()
    assert [line for line in changed if line[:1] in "+-" and line[:3] not in ("+++", "---")] == [
        "-  priors: {}",
        "+  priors: {healthy: 0.7, L1: 0.3}",
    ]
    assert not (tmp_path / "work" / "mix" / "repo" / "data" / "reviewed" / "cells").exists()


class Fake(Workspace):
    """A workspace whose DVC does what a test says, one call after another; what it ran is in `ran`."""

    def __init__(self, root: Path, *calls: Callable[[Path], None]) -> None:
        super().__init__(root, root / "clone", "retrain/r", {})
        (self.path / "reports").mkdir(parents=True)
        self.calls = list(calls)
        self.ran: list[str] = []

    def dvc(self, *arguments: str) -> None:
        self.ran.append(" ".join(arguments))
        if self.calls:
            self.calls.pop(0)(self.path)


def gate_says(decision: str, *, then_fails: bool = False, **more: object) -> Callable[[Path], None]:
    """`dvc repro` wrote this report; a refusal makes the stage `promote` fail."""

    def run(clone: Path) -> None:
        (clone / "reports" / "gate.json").write_text(json.dumps({"decision": decision, **more}))
        if then_fails:
            raise RetrainingFailed("`dvc repro` ended with 255: see the log")

    return run


def breaks(clone: Path) -> None:
    """A stage before the gate failed."""
    raise RetrainingFailed("`dvc repro` ended with 255: see the log")


class TestPipeline:
    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Ledger:
        ledger = Ledger(f"sqlite:///{tmp_path}/store.db")
        for version in ("a", "b"):
            ledger.append("registered", version=version)
        ledger.promote("a", None)
        return ledger

    def test_a_refusal_is_a_result(self, tmp_path: Path, ledger: Ledger) -> None:
        workspace = Fake(tmp_path, gate_says("refused", then_fails=True, reasons=["worse"]))
        assert run_pipeline(workspace, ledger) == {"decision": "refused", "reasons": ["worse"]}
        assert workspace.ran == ["repro"]

    def test_a_broken_stage_is_not(self, tmp_path: Path, ledger: Ledger) -> None:
        workspace = Fake(tmp_path, breaks)
        gate_says("refused")(workspace.path)  # left by an earlier run
        with pytest.raises(RetrainingFailed, match="dvc repro"):
            run_pipeline(workspace, ledger)

    def test_a_model_promoted_meanwhile_is_compared_with(self, tmp_path: Path, ledger: Ledger) -> None:
        def overtaken(clone: Path) -> None:
            ledger.promote("b", "a")
            gate_says("passed", then_fails=True, champion="a")(clone)

        workspace = Fake(tmp_path, overtaken, gate_says("passed", champion="b"))
        assert run_pipeline(workspace, ledger)["champion"] == "b"
        assert workspace.ran == ["repro", "repro"]

    def test_a_promotion_that_fails_for_another_reason_is_a_failure(self, tmp_path: Path, ledger: Ledger) -> None:
        workspace = Fake(tmp_path, gate_says("passed", then_fails=True))
        with pytest.raises(RetrainingFailed, match="dvc repro"):
            run_pipeline(workspace, ledger)
        assert workspace.ran == ["repro"]

    def test_a_pipeline_without_a_verdict_is_a_failure(self, tmp_path: Path, ledger: Ledger) -> None:
        with pytest.raises(RetrainingFailed, match="left no"):
            run_pipeline(Fake(tmp_path), ledger)
        with pytest.raises(RetrainingFailed, match="has no decision"):
            run_pipeline(Fake(tmp_path / "other", gate_says("perhaps")), ledger)

    def test_what_still_waits_is_not_promoted(self, tmp_path: Path, ledger: Ledger) -> None:
        workspace = Fake(tmp_path)
        version = tiny_artifact(workspace.path / "build" / "artifact").version
        with pytest.raises(RetrainingFailed, match=f"approve {version}"):
            promote_approved(workspace, ledger)
        assert workspace.ran == ["repro promote"]
        with pytest.raises(ConfigError, match="not there"):
            promote_approved(Workspace(tmp_path, tmp_path / "gone", "b", {}), ledger)


class TestBranch:
    """Where a branch starts, with Git alone."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        source = tmp_path / "source"
        source.mkdir()
        _git(source, "init", "--quiet", "-b", "main")
        _git(source, "commit", "--quiet", "--allow-empty", "-m", "first")
        return source

    def started(self, source: Path, name: str, base: str | None) -> tuple[Workspace, str]:
        workspace = Workspace(source, source.parent / name, f"retrain/{name}", os.environ)
        workspace.clone()
        return workspace, workspace.start_branch(base)

    def test_from_head_unless_a_retraining_made_the_model(self, source: Path) -> None:
        head = _git(source, "rev-parse", "HEAD")
        assert self.started(source, "none", None)[1] == head
        assert self.started(source, "unknown", "0" * 40)[1] == head

    def test_from_the_commit_that_made_the_model_while_head_lacks_it(self, source: Path) -> None:
        workspace, _ = self.started(source, "one", None)
        (workspace.path / "params.yaml").write_text("a: 1\n")
        made = workspace.commit("one", ["params.yaml", "not-there"])
        workspace.push()
        _git(source, "commit", "--quiet", "--allow-empty", "-m", "main goes on")
        assert self.started(source, "two", made)[1] == made
        _git(source, "merge", "--quiet", "-m", "taken over", "retrain/one")
        assert self.started(source, "three", made)[1] == _git(source, "rev-parse", "HEAD")

    def test_a_user_with_hooks_and_signatures_is_no_obstacle(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hook = tmp_path / "hooks" / "pre-commit"
        hook.parent.mkdir()
        hook.write_text("#!/bin/sh\nexit 1\n")
        hook.chmod(0o755)
        config = tmp_path / "gitconfig"
        config.write_text(f"[commit]\n\tgpgsign = true\n[core]\n\thooksPath = {hook.parent}\n")
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
        workspace, base = self.started(source, "one", None)
        (workspace.path / "params.yaml").write_text("a: 1\n")
        assert workspace.commit("one", ["params.yaml"]) != base

    def test_nothing_new_is_no_commit(self, source: Path) -> None:
        workspace, base = self.started(source, "one", None)
        assert workspace.commit("nothing", ["params.yaml"]) == base


class TestCommand:
    @pytest.fixture(autouse=True)
    def _places(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for folder in ("repo/.git", "repo/.dvc", "work"):
            (tmp_path / folder).mkdir(parents=True)
        monkeypatch.setenv("BLASTWATCH_STORE_URL", f"sqlite:///{tmp_path}/store.db")
        monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))

    def run(self, tmp_path: Path, *options: str) -> int:
        line = ["--run", "r", "--repo", str(tmp_path / "repo"), "--work", str(tmp_path / "work"), *options]
        return retrain_command.main(line)

    @pytest.mark.parametrize(
        ("gate", "promoted", "options", "kept"),
        [
            ("passed", True, [], False),
            ("passed", False, [], True),
            ("refused", False, [], False),
            ("refused", False, ["--keep-work"], True),
        ],
    )
    def test_a_result_goes_on_record_and_the_clone_goes_unless_it_is_needed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: str, promoted: bool, options: list[str], kept: bool
    ) -> None:
        def retrain(run: str, workspace: Workspace, *_: object) -> Result:
            (workspace.path / "reports").mkdir(parents=True)
            (workspace.path / "reports" / "gate.json").write_text("{}")
            return Result(run, workspace.branch, "c" * 40, "b" * 40, gate, [], "v", promoted, 1.0)

        monkeypatch.setattr(retrain_command, "retrain", retrain)
        assert self.run(tmp_path, *options) == 0
        rows = Ledger(f"sqlite:///{tmp_path}/store.db").rows()
        assert [row.kind for row in rows] == ["retraining_started", "retraining_finished"]
        assert (rows[1].body["gate"], rows[1].body["commit"], rows[1].body["promoted"]) == (gate, "c" * 40, promoted)
        assert (tmp_path / "work" / "r" / "repo").exists() == kept
        assert (tmp_path / "work" / "r" / "reports" / "gate.json").is_file()

    def test_a_failure_goes_on_record(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def retrain(*_: object) -> Result:
            raise RetrainingFailed("`dvc repro` ended with 255: see the log")

        monkeypatch.setattr(retrain_command, "retrain", retrain)
        assert self.run(tmp_path) == 1
        rows = Ledger(f"sqlite:///{tmp_path}/store.db").rows()
        assert [row.kind for row in rows] == ["retraining_started", "retraining_failed"]
        cost = rows[1].body.pop("cost")
        assert rows[1].body == {"run": "r", "reason": "`dvc repro` ended with 255: see the log"}
        assert cost["seconds"] >= 0
        assert cost["processor_seconds"] > 0
        assert cost["peak_memory_bytes"] > 2**20
        assert capsys.readouterr().err.startswith("error: the retraining failed: `dvc repro`")

    def test_a_trigger_has_put_the_start_on_record(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def retrain(*_: object) -> Result:
            raise RetrainingFailed("planted")

        monkeypatch.setattr(retrain_command, "retrain", retrain)
        with retrain_command.single_flight(tmp_path / "work", None) as lock:
            assert self.run(tmp_path, "--lock-fd", str(lock)) == 1
        rows = Ledger(f"sqlite:///{tmp_path}/store.db").rows()
        assert [row.kind for row in rows] == ["retraining_failed"]

    def test_another_host_retrains(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/store.db"
        Ledger(url)
        assert Leases(url).take(RETRAINING, "another", "a retraining", 600.0)
        with pytest.raises(ConfigError, match="another host"):
            self.run(tmp_path)
        assert Ledger(url).rows() == []

    def test_the_lease_is_held_while_it_runs_and_the_stages_get_its_number(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = f"sqlite:///{tmp_path}/store.db"
        Ledger(url)
        leases = Leases(url)

        def retrain(run: str, workspace: Workspace, ledger: Ledger, environment: dict[str, str], *_: object) -> Result:
            held = leases.held(RETRAINING)
            assert held is not None
            assert environment[FENCE] == str(held.lease.fence)
            assert held.lease.holder == "retraining r"
            raise RetrainingFailed("planted")

        monkeypatch.setattr(retrain_command, "retrain", retrain)
        assert self.run(tmp_path) == 1
        assert leases.held(RETRAINING) is None

    def test_one_that_was_replaced_records_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        url = f"sqlite:///{tmp_path}/store.db"

        def retrain(*_: object) -> Result:
            leases = Leases(url)
            held = leases.held(RETRAINING)
            assert held is not None
            assert leases.take(RETRAINING, held.lease.owner, "its heir", 600.0)
            raise RetrainingFailed("planted")

        monkeypatch.setattr(retrain_command, "retrain", retrain)
        with pytest.raises(Conflict, match="lost its lease"):
            self.run(tmp_path)
        assert [row.kind for row in Ledger(url).rows()] == ["retraining_started"]

    def test_a_second_one_is_refused(self, tmp_path: Path) -> None:
        with (
            retrain_command.single_flight(tmp_path / "work", None),
            pytest.raises(ConfigError, match="runs already"),
        ):
            self.run(tmp_path)

    def test_one_that_was_replaced_ends_with_all_that_it_started(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/store.db"
        Ledger(url)
        leases = Leases(url)
        code = f"""
import subprocess
from pathlib import Path
from training.retrain_command import leased
environment = {{"BLASTWATCH_STORE_URL": {url!r}, "BLASTWATCH_RETRAINING_LEASE_S": "0.4"}}
with leased(Path({str(tmp_path)!r}), "r", environment):
    stage = subprocess.Popen(["sleep", "120"])
    print("up", flush=True)
    stage.wait()
"""
        line = [sys.executable, "-c", code]
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as job:
            assert job.stdout is not None
            assert job.stdout.readline() == b"up\n"
            assert leases.take(RETRAINING, place(tmp_path), "its heir", 600.0)
            # Both pipes end once nobody has them open any more, the stage included.
            _, said = job.communicate(timeout=60)
        assert job.returncode == -signal.SIGTERM
        assert said.decode() == "error: another host took this retraining's place: it ends\n"

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--run", "../r"], "--run"),
            (["--repo", "/"], "not the root of a Git work tree"),
            (["--run", "taken"], "is there already"),
            (["--priors", '{"healthy": 0.7, "L1": 0.7}'], "sum to 1.4"),
        ],
    )
    def test_bad_input_is_one_line(self, tmp_path: Path, options: list[str], says: str) -> None:
        (tmp_path / "work" / "taken" / "repo").mkdir(parents=True)
        with pytest.raises(ConfigError) as refused:
            self.run(tmp_path, *options)
        assert says in str(refused.value)
        assert "\n" not in str(refused.value)
        assert Ledger(f"sqlite:///{tmp_path}/store.db").rows() == []


def test_the_pipeline_sees_absolute_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen = job_environment({"PATH": "/usr/bin", "GIT_DIR": "x", "DVC_STAGE": "x", "BLASTWATCH_PIXELS_DIR": "pixels"})
    assert seen["BLASTWATCH_STORE_URL"] == f"sqlite:///{tmp_path}/var/store.db"
    assert seen["BLASTWATCH_PIXELS_DIR"] == f"{tmp_path}/pixels"
    assert seen["BLASTWATCH_MODELS_DIR"] == f"{tmp_path}/var/bentoml/models/blastwatch"
    assert seen["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert not {"GIT_DIR", "DVC_STAGE"} & seen.keys()
    server = "postgresql://db/blastwatch"
    assert job_environment({"BLASTWATCH_STORE_URL": server})["BLASTWATCH_STORE_URL"] == server


SOURCE = {"kind": "reviewed", "root": "data/reviewed/cells"}
LINE = "{kind: reviewed, root: data/reviewed/cells}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("data:\n  sources: [{kind: a}] # c\n", f"data:\n  sources: [{{kind: a}}, {LINE}] # c\n"),
        ("data: {sources: [], b: 2}\n", f"data: {{sources: [{LINE}], b: 2}}\n"),
        (
            "data:\n  sources:\n  - kind: a\n    n: {b: 1} # c\n  # d\n\n  labels: [x]\n",
            f"data:\n  sources:\n  - kind: a\n    n: {{b: 1}} # c\n  - {LINE}\n  # d\n\n  labels: [x]\n",
        ),
        (
            "data:\n  sources:\n    - kind: a\n      n:\n        - 1\n        - 2\n\nz: 1\n",
            f"data:\n  sources:\n    - kind: a\n      n:\n        - 1\n        - 2\n    - {LINE}\n\nz: 1\n",
        ),
        ("data:\n  sources:\n    - kind: a", f"data:\n  sources:\n    - kind: a\n    - {LINE}"),
        ("data:\n  sources:\n    - kind: reviewed\n", "data:\n  sources:\n    - kind: reviewed\n"),
    ],
)
def test_a_source_is_one_line_more(before: str, after: str) -> None:
    assert add_source(before, SOURCE) == after
    assert add_source(after, SOURCE) == after


@pytest.mark.parametrize("text", ["", "data: 1\n", "data:\n  sources:\n", "data: {sources: {a: 1}}\n", "a: [\n"])
def test_params_without_sources_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.sources"):
        add_source(text, SOURCE)
