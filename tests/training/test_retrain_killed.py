"""A retraining that is killed with SIGKILL, all of it at once, at each of its steps: production does not notice.

The stages of the pipeline are stand-ins of a few lines; Git, DVC, export, store, ledger, lease and trigger are real.
"""

import os
import re
import shutil
import time
from pathlib import Path

import pytest

from monitoring.judge_settings import PolicySettings
from monitoring.policy import Reviewed
from monitoring.runs import retrainings
from monitoring.settings import Settings
from monitoring.trigger import LOG, LocalTrigger, Reason
from tests.training.test_retrain import Site

# Python runs this at its start, found through PYTHONPATH; the shell script stands in front of Git.
PYTHON = """
import os, signal, sys
at = os.environ.get("KILL_AT")
if at and at in " ".join(sys.orig_argv):
    os.killpg(0, signal.SIGKILL)
"""
GIT = """#!/bin/sh
if [ -n "$KILL_AT" ]; then case "git $*" in *"$KILL_AT"*) kill -KILL 0 ;; esac; fi
exec {git} "$@"
"""
BEFORE_PROMOTION = (
    "git clone",
    "stages.py split",
    "training.datasets.reviewed export",
    "stages.py train",
    "stages.py gate",
    "stages.py promote",
)
AFTER_PROMOTION = ("git push",)


class Killed:
    """A site whose trigger starts the real job, which ends where it is told to."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tools = folder / "tools"
        tools.mkdir()
        (tools / "sitecustomize.py").write_text(PYTHON)
        (tools / "git").write_text(GIT.format(git=shutil.which("git")))
        (tools / "git").chmod(0o755)
        self.site = Site(folder)
        self.site.ledger.append("registered", version=self.site.second)
        self.site.ledger.approve(self.site.second, by="haematologist")
        self.settings = Settings(
            root=folder,
            store_url=self.site.url,
            pixels_dir=folder / "pixels",
            models_dir=folder / "bentoml" / "models" / "blastwatch",
            repo=self.site.repo,
            work_dir=self.site.work,
            policy=PolicySettings(cooldown_s=0, budget_runs=100),
        )
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        monkeypatch.setenv("PATH", path)
        monkeypatch.setenv("PYTHONPATH", f"{tools}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        self.monkeypatch = monkeypatch

    def retrain(self, kill_at: str = "") -> tuple[str, str]:
        """Run one to its end; → its name and its log."""
        self.monkeypatch.setenv("KILL_AT", kill_at)
        trigger = LocalTrigger(self.site.ledger, self.settings)
        run = trigger.fire(Reason("planted", by="sre"), Reviewed(500, 30))
        deadline = time.monotonic() + 300
        while trigger.watch(time.time()):
            assert time.monotonic() < deadline, self.log(run)
            time.sleep(0.05)
        return run, self.log(run)

    def log(self, run: str) -> str:
        return (self.settings.work_dir / run / LOG).read_text()


def ran(log: str) -> list[str]:
    """Stages that ran, in the order in which they did; those that DVC restored are left out."""
    return re.findall(r"Running stage '(\w+)'", log)


def test_killed_at_every_step_it_leaves_production_alone_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = Killed(tmp_path, monkeypatch)
    site = killed.site
    logs = {}
    for step in (*BEFORE_PROMOTION, *AFTER_PROMOTION):
        head = site.ledger.head()
        run, logs[step] = killed.retrain(step)
        assert site.ledger.production() == (site.first if step in BEFORE_PROMOTION else site.second), step
        site.ledger.verify(head)
        (failed,) = [row for row in site.ledger.rows("retraining_failed") if row.body["run"] == run]
        assert failed.body["reason"] == "it ended with signal SIGKILL and without a result", logs[step]
        assert site.git("branch", "--list", "retrain/*") == ""

    # What a killed run had finished is taken from the cache of the next ones.
    assert ran(logs["stages.py gate"])[-2:] == ["train", "gate"]
    assert ran(logs["stages.py promote"])[-2:] == ["gate", "promote"]
    assert "train" not in ran(logs["stages.py promote"])

    run, log = killed.retrain()
    assert not {"split", "train"} & set(ran(log)), log
    last = retrainings(site.ledger.rows())[-1]
    assert (last.run, last.outcome) == (run, "passed"), log
    assert last.end is not None
    assert (last.end.version, last.end.body["promoted"]) == (site.second, True)
    assert last.end.body["cost"]["peak_memory_bytes"] > 2**20
    assert site.git("rev-parse", f"retrain/{run}") == last.end.body["commit"]
    assert len(site.ledger.rows("promoted")) == 2
    site.ledger.verify()
