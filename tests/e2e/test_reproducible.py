"""The same commit gives the same model: at another path, without outputs, cache and run cache, and after a kill."""

import json
import shutil

import pytest

from service.contract.artifact import read_artifact
from tests.e2e.conftest import Story
from tests.support.pipeline import Repository, stages_run

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("pipeline")]


@pytest.fixture(scope="module")
def elsewhere(story: Story, tmp_path_factory: pytest.TempPathFactory) -> tuple[Repository, str]:
    """A clone at another path with a cache of its own, killed while it trained and started again."""
    repository = story.repository.clone(tmp_path_factory.mktemp("elsewhere") / "some where" / "else", share_cache=False)
    assert not (repository.path / ".dvc" / "cache").exists()
    repository.repro_killed_in("train")
    return repository, repository.dvc("repro", check=True).stdout


def test_what_was_done_before_a_kill_is_not_done_again(elsewhere: tuple[Repository, str]) -> None:
    _, output = elsewhere
    again = stages_run(output)
    assert "train" in again and "promote" in again
    assert not {"prepare", "validate", "split"} & set(again)


def test_the_same_commit_at_another_path_gives_the_same_version(
    story: Story, elsewhere: tuple[Repository, str]
) -> None:
    repository, _ = elsewhere
    artifact = read_artifact(repository.path / "build/artifact", expect_version=story.version)
    original = read_artifact(story.repository.path / "build/artifact")
    for name in ("serve/model.onnx", "serve/warmup.npz", "reference/reference.npz"):
        assert artifact.manifest.files[name] == original.manifest.files[name], name
    for name in ("prepared/manifest.parquet", "prepared/split.parquet", "build/test_outputs.npz", "build/weights.npz"):
        assert (repository.path / name).read_bytes() == (story.repository.path / name).read_bytes(), name


def test_no_file_of_the_artifact_names_where_it_was_made(elsewhere: tuple[Repository, str]) -> None:
    repository, _ = elsewhere
    place = str(repository.path).encode()
    for path in (repository.path / "build/artifact").rglob("*"):
        assert not path.is_file() or place not in path.read_bytes(), path


def test_figures_are_the_same_too(story: Story, elsewhere: tuple[Repository, str]) -> None:
    repository, _ = elsewhere
    one, other = (json.loads((r.path / "reports/evaluation.json").read_text()) for r in (story.repository, repository))
    assert one == other


def test_a_deleted_output_comes_back_from_the_cache(elsewhere: tuple[Repository, str]) -> None:
    repository, _ = elsewhere
    shutil.rmtree(repository.path / "build")
    assert set(stages_run(repository.dvc("repro", check=True).stdout)) <= {"champion", "promote"}
    assert (repository.path / "build/artifact/serve/model.onnx").is_file()
