"""A repository of its own for tests that run the pipeline: this work tree with a small data set and a small network."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).parents[2]
IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
LABELS = ("healthy", "L1", "L2", "L3")

# Logs which files of the repository each stage opens; found by Python at its start through PYTHONPATH.
RECORDER = """
import os, sys
words = sys.orig_argv
if "-m" in words:
    module = words[words.index("-m") + 1]
    log = os.environ.get("OPENED_FILES")
    if log and module.startswith("training."):
        root = os.getcwd()
        def note(event, arguments, root=root, log=log, module=module):
            if event != "open" or not isinstance(arguments[0], (str, bytes)):
                return
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if path.startswith(root + os.sep):
                line = f"{module}\\t{os.path.relpath(path, root)}\\n"
                handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                os.write(handle, line.encode())
                os.close(handle)
        sys.addaudithook(note)
"""


def small(parameters: dict[str, Any]) -> None:
    """Shrink params.yaml to what runs in seconds: it shows that the loop closes, not that it finds leukemia."""
    parameters["data"]["sources"] = [
        {
            "kind": "synthetic",
            "site": "site-a",
            "seed": 7,
            "patients": dict.fromkeys(LABELS, 9),
            "cells_per_patient": dict.fromkeys(LABELS, 5),
        }
    ]
    parameters["model"] |= {"channels": [8, 8, 8], "gru_hidden": 16, "features": 16}
    parameters["train"] |= {"epochs": 2, "threads": 1, "device": "cpu"}
    parameters["calibrate"] |= {"embedding": 8}
    parameters["evaluate"] |= {"bootstrap": 50, "trees": 20}
    parameters["audit"] |= {"pictures": 12, "bootstrap": 50, "trees": 10}
    parameters["gate"] |= {"bootstrap": 50}


def lenient(plan: dict[str, Any]) -> None:
    """Let a network of two epochs pass; every check still runs."""
    plan["floors"] |= {"sensitivity": 0.0, "specificity": 0.0, "balanced_accuracy": 0.0, "calibration_error": 1.0}
    plan["floors"]["answered"] = 0.0
    plan["test_set"] = {"cells": 1, "patients": 1}
    plan["slices"] |= {"sensitivity": 0.0, "specificity": 0.0, "calibration_error": 1.0}
    plan["non_inferiority"] = {"margin": -1.0, "sensitivity_margin": -1.0}
    plan["shortcut"]["margin"] = -1.0
    for name in ("gate.bootstrap", "evaluate.trees"):
        plan["may_change"]["hyperparameters"][name]["minimum"] = 1
    plan["budget"]["latency_ms"] = 10_000.0


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a YAML file in place."""
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


class Repository:
    """A Git and DVC repository, and commands run in it with nothing of this process's settings."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened = path.with_name(f"{path.name}.opened")

    @classmethod
    def copy(cls, path: Path, changes: Mapping[str, Callable[[dict[str, Any]], object]]) -> "Repository":
        """This work tree's files (those that Git would have) at `path`, with YAML files changed, as one commit."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=REPO,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (REPO / name).is_file():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(REPO / name, path / name)
        for name, change in changes.items():
            edit(path / name, change)
        # What this copy decides about its own patients is its own; its lock file would name other data.
        (path / "splits/frozen_test.json").write_text('{"salt": "blastwatch", "units": [], "decided": []}\n')
        (path / "dvc.lock").unlink(missing_ok=True)
        repository = cls(path)
        repository.git("init", "--quiet")
        repository.commit("a small data set")
        return repository

    def clone(self, path: Path, *, share_cache: bool) -> "Repository":
        """A clone at `path`, with this one's DVC cache or with one of its own."""
        self.git("clone", "--quiet", str(self.path), str(path))
        other = Repository(path)
        if share_cache:
            other.dvc("cache", "dir", "--local", str(self.path / ".dvc" / "cache"), check=True)
        return other

    def git(self, *arguments: str) -> str:
        """What git printed."""
        return self.run(["git", *IDENTITY, *arguments], check=True).stdout.strip()

    def commit(self, message: str) -> None:
        """Commit everything that is not ignored."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def dvc(self, *arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run `dvc …`."""
        return self.run([sys.executable, "-m", "dvc", *arguments], check=check)

    def python(self, *arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run `python …`."""
        return self.run([sys.executable, *arguments], check=check)

    def run(self, command: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        """Run a command in the repository; with `check` a failure is an AssertionError with what it printed."""
        done = subprocess.run(
            command, cwd=self.path, env=self.environment(), capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done

    def environment(self) -> dict[str, str]:
        """The stages find this Python first, and none of the settings of whoever runs the tests."""
        recorder = self.path.with_name("recorder")
        recorder.mkdir(exist_ok=True)
        (recorder / "sitecustomize.py").write_text(RECORDER)
        foreign = ("BLASTWATCH_", "BENTOML_", "DVC_", "GIT_", "PYTHON")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}",
            "PYTHONPATH": str(recorder),
            "OPENED_FILES": str(self.opened),
            "OMP_NUM_THREADS": "1",
        }

    def repro_killed_in(self, stage: str) -> None:
        """Start `dvc repro` and kill all its processes with SIGKILL while `stage` runs."""
        log = self.path.with_name(f"{self.path.name}.log")
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "dvc", "repro"],
                cwd=self.path,
                env=self.environment(),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + 300
        while f"Running stage '{stage}'" not in log.read_text():
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def stages_run(output: str) -> list[str]:
    """Stages that a `dvc repro` ran, by what it printed, in whichever file; neither skipped nor restored ones."""
    return re.findall(r"Running stage '(?:[\w./]+:)?(\w+)'", output)
