"""A sweep as docs/training.md has it: what the change plan allows is trained, the rest is refused before it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Story
from tests.support.pipeline import Repository, edit, stages_run

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("pipeline")]

PATIENCE_S = 300


@pytest.fixture
def repository(story: Story, tmp_path: Path) -> Iterator[Repository]:
    """A clone whose queue is empty, and whose workers end with the test."""
    clone = story.repository.clone(tmp_path / "clone", share_cache=True)
    for key, value in (("user.name", "test"), ("user.email", "test@localhost")):
        clone.git("config", key, value)
    yield clone
    clone.dvc("queue", "stop", "--kill")


def test_a_queued_sweep_stays_inside_the_bounds_of_the_plan(repository: Repository) -> None:
    repository.dvc("exp", "run", "--queue", "--set-param", "train.learning_rate=0.0017,0.5", "train", check=True)
    repository.dvc("queue", "start", check=True)
    states = finished(repository)
    assert sorted(states.values()) == ["Failed", "Success"]
    logs = {state: repository.dvc("queue", "logs", name, check=True).stdout for name, state in states.items()}
    # Stage `pretrain` learns nothing here, and may come before or after.
    assert [stage for stage in stages_run(logs["Success"]) if stage != "pretrain"] == ["bounds", "train"]
    assert [stage for stage in stages_run(logs["Failed"]) if stage != "pretrain"] == ["bounds"]
    refusals = [line for line in logs["Failed"].splitlines() if "outside change_plan.yaml" in line]
    assert len(refusals) == 1
    assert "train.learning_rate = 0.5 (assessed: from 0.0001 to 0.01)" in refusals[0]
    assert "Traceback" not in logs["Failed"]


def finished(repository: Repository) -> dict[str, str]:
    """The state of each task of the queue, once none of them waits or runs."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        shown = repository.dvc("queue", "status", check=True).stdout
        tasks = [line.split() for line in shown.splitlines()]
        states = {words[0]: words[-1] for words in tasks if words and words[-1] in ("Success", "Failed")}
        if len(states) == 2:
            return states
        assert time.monotonic() < deadline, shown
        time.sleep(1)


def test_an_edit_of_the_plan_alone_trains_nothing_again(repository: Repository) -> None:
    repository.dvc("checkout", "--allow-missing", check=True)

    def narrower(plan: dict[str, Any]) -> None:
        plan["may_change"]["hyperparameters"]["model.channels"]["maximum"] = 64
        plan["floors"]["sensitivity"] = 0.5

    edit(repository.path / "change_plan.yaml", narrower)
    assert stages_run(repository.dvc("repro", "train", check=True).stdout) == ["bounds"]
