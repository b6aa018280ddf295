"""One run of the whole pipeline on a small data set, shared by the tests that look at what it did."""

import subprocess
from dataclasses import dataclass

import pytest

from tests.support.pipeline import Repository, lenient, small

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Story:
    """What each step of a user's first day printed. Approval is a person's."""

    repository: Repository
    first: Done
    """dvc repro, from nothing."""
    version: str
    approve: Done
    promote: Done
    """dvc repro promote, once approved."""
    settled: Done
    """dvc repro: there is a model in production now."""
    idle: Done
    """dvc repro, with nothing to do."""


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    root = tmp_path_factory.mktemp("story")
    repository = Repository.copy(root / "repository", {"params.yaml": small, "change_plan.yaml": lenient})
    first = repository.dvc("repro")
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-6000:]
    words = first.stdout.split()
    version = words[words.index("approve") + 1]
    approve = repository.python("-m", "service.contract.ledger", "approve", version, "--by", "head of haematology")
    promote = repository.dvc("repro", "promote")
    settled = repository.dvc("repro")
    idle = repository.dvc("repro")
    repository.commit("the first run")
    return Story(repository, first, version, approve, promote, settled, idle)
