"""What the demo lays down before anything runs."""

import stat
from pathlib import Path

import pytest

from demo.workspace import Workspace, git, lay
from service.contract.pseudonym import load_key


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A repository with the one file that the demo changes."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "change_plan.yaml").write_text("plan_version: 1\napproval: person\n")
    git("init", "--quiet", "--initial-branch=main", cwd=folder)
    git("add", ".", cwd=folder)
    git("-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "-m", "plan", cwd=folder)
    return folder


def pseudonym(workspace: Workspace) -> str:
    """Of a patient of the demo's, as the service makes it."""
    return load_key(workspace.key_file, create=False).pseudonym("stream:L1-001")


def test_the_same_seed_draws_the_same_test_patients(source: Path, tmp_path: Path) -> None:
    workspaces = [Workspace(tmp_path / name) for name in ("one", "two", "three")]
    for workspace, seed in zip(workspaces, (0, 0, 1), strict=True):
        lay(workspace, source, seed)
    one, two, three = map(pseudonym, workspaces)
    assert one == two, "pseudonyms decide who tests: a demo run twice would tell two stories"
    assert one != three
    assert workspaces[0].environment()["BLASTWATCH_KEY_FILE"] == str(workspaces[0].key_file)
    assert stat.S_IMODE(workspaces[0].key_file.stat().st_mode) == 0o600


def test_a_workspace_laid_again_starts_empty(source: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "demo")
    lay(workspace, source)
    (workspace.root / "store.db").write_text("of the last demo")
    assert lay(workspace, source) == []
    assert not (workspace.root / "store.db").exists()
    assert "approval: automatic" in (workspace.repo / "change_plan.yaml").read_text()
