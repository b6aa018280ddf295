"""README's blocks, run as they are printed, in their order, by a user who cloned the repository.

The two commands (`make demo`, `make test`) are what `.ci/run` runs. The data set is the tests' small one.
"""

import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from demo.processes import Processes
from demo.workspace import Ports
from tests.e2e.conftest import Story
from tests.support.pipeline import REPO, Repository

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("pipeline")]

BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = {"make demo", "make test"}
START_S = 90


def blocks() -> list[tuple[str, str]]:
    """(language, text) of each block that a test can run."""
    return [
        (kind, text) for kind, text in BLOCK.findall((REPO / "README.md").read_text()) if text.strip() not in COMMANDS
    ]


@pytest.fixture(scope="module")
def cloned(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A clone whose stages come out of the run cache, with the environment where README says that it is."""
    repository = story.repository.clone(tmp_path_factory.mktemp("readme") / "blastwatch", share_cache=True)
    (repository.path / ".venv").symlink_to(Path(sys.prefix))
    return repository


def run(repository: Repository, kind: str, text: str) -> str:
    """What a block printed; it must succeed."""
    shell = ["bash", "-eu", "-c", text] if kind == "sh" else [sys.executable, "-c", text]
    done = subprocess.run(
        shell, cwd=repository.path, env=repository.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{text}\n--- printed\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def wait_for(url: str, processes: Processes) -> None:
    """Until the service is ready."""
    deadline = time.monotonic() + START_S
    while True:
        processes.check()
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, f"{url} was not ready within {START_S} s"
        time.sleep(0.2)


def test_every_block_runs_as_printed(cloned: Repository, tmp_path: Path) -> None:
    first, *others = blocks()
    assert "dvc repro" in first[1], "the first block makes the model that the others ask"
    printed = run(cloned, *first)
    assert "is in production" in printed
    assert (busy := Ports().taken()) == [], f"README's ports are in use here: {busy}"
    with Processes(cloned.environment(), cloned.path, tmp_path, tmp_path / "processes.json") as processes:
        processes.start("service", [sys.executable, "-m", "service"])
        wait_for("http://127.0.0.1:3000/readyz", processes)
        answers = [run(cloned, kind, text) for kind, text in others]
    assert len(answers) >= 2, "README shows how to ask from the shell and from Python"
    assert all(any(label in answer for label in ("healthy", "L1", "L2", "L3")) for answer in answers), answers


def test_the_two_commands_are_there() -> None:
    text = (REPO / "README.md").read_text()
    assert all(f"```sh\n{command}\n```" in text for command in COMMANDS)
    ci = (REPO / ".ci/run").read_text()
    assert all(command in ci for command in (*COMMANDS, "make lint"))


def test_what_readme_links_to_is_there() -> None:
    for page in (REPO / "README.md", *(REPO / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(REPO)} links to {target}, which is not there"
