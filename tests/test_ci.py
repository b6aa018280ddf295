"""CI's script fails when any of its steps does."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
STEPS = ("setup", "lint", "test", "servers", "test-servers", "demo", "proto")


def run_with_a_make_that_fails_at(step: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The script in a repository of its own, with a `make` that only says what it was asked for."""
    (folder / ".ci").mkdir()
    (folder / "bin").mkdir()
    shutil.copy(REPO / ".ci/run", folder / ".ci/run")
    make = folder / "bin/make"
    make.write_text(f'#!/bin/sh\necho "asked for $1"\n[ "$1" != "{step}" ]\n')
    make.chmod(0o755)
    (folder / ".gitignore").write_text("*\n")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    environment = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}"}
    return subprocess.run([folder / ".ci/run"], env=environment, capture_output=True, text=True, check=False)


def test_with_steps_that_succeed_it_succeeds(tmp_path: Path) -> None:
    done = run_with_a_make_that_fails_at("none", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[-1] for line in done.stdout.splitlines() if "asked for" in line] == list(STEPS)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_fails_it_and_nothing_is_run_after(step: str, tmp_path: Path) -> None:
    done = run_with_a_make_that_fails_at(step, tmp_path)
    assert done.returncode != 0
    assert f"asked for {step}" in done.stdout.splitlines()[-1]
