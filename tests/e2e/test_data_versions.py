"""Versions of data through DVC, as data/README.md has them: what one machine pushes, another pulls."""

import csv
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer

from tests.support.pipeline import LABELS, REPO, Repository, stages_run
from training.datasets.synthetic import Synthetic, open_dataset

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("data_versions")]

STAGES = ("prepare", "validate", "split")
KEYS = {"access_key_id": "testing", "secret_access_key": "testing"}


def cells(seed: int) -> Synthetic:
    """A few made-up patients."""
    return open_dataset(
        {
            "site": "site-a",
            "seed": seed,
            "patients": dict.fromkeys(LABELS, 4),
            "cells_per_patient": dict.fromkeys(LABELS, 2),
        }
    )


def write_set(root: Path, seed: int) -> None:
    """One folder a class, and a table of what is known of each picture."""
    rows = []
    for number, cell in enumerate(cells(seed).cells()):
        name = f"{cell.label}/{number:03d}.jpg"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(cell.image)
        rows.append([name, cell.patient, cell.pixel_size_um])
    with (root.parent / f"{root.name}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "patient", "pixel_size_um"], *rows])


def own_cells(parameters: dict[str, Any]) -> None:
    """The set of this test, and what so small a set can be asked for."""
    source = {"kind": "folder", "root": "data/own/cells", "table": "data/own/cells.csv", "site": "ward-3"}
    parameters["data"]["sources"] = [source | {"malignant": list(LABELS[1:])}]
    parameters["validate"] |= {"min_cells": 1, "min_patients": 1}


def only_data(pipeline: dict[str, Any]) -> None:
    """The stages that turn data into a split; what follows has tests of its own."""
    pipeline["stages"] = {name: pipeline["stages"][name] for name in STAGES}
    for key in ("metrics", "plots"):
        pipeline.pop(key, None)


def lock(repository: Repository) -> dict[str, Any]:
    """dvc.lock without the hash of Great Expectations' pages, which carry the time of day; no stage reads them."""
    content: dict[str, Any] = yaml.safe_load((repository.path / "dvc.lock").read_text())
    made = content["stages"]["validate"]["outs"]
    content["stages"]["validate"]["outs"] = [entry for entry in made if entry["path"] != "reports/data_docs"]
    assert len(content["stages"]["validate"]["outs"]) == 1
    return content


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository with a set of its own under DVC, and the pipeline run on it."""
    path = tmp_path_factory.mktemp("origin") / "repository"
    repository = Repository.copy(path, {"params.yaml": own_cells, "dvc.yaml": only_data})
    write_set(path / "data/own/cells", seed=3)
    repository.dvc("add", "data/own/cells", check=True)
    repository.dvc("repro", check=True)
    repository.commit("our own cells")
    return repository


@pytest.fixture
def bucket() -> Iterator[tuple[str, str]]:
    """The URL of a bucket of a made-up S3, and its endpoint."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request otherwise
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        secrets = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=endpoint, **secrets).create_bucket(Bucket="cells")
        yield "s3://cells/blastwatch", endpoint
    finally:
        server.stop()


def test_a_picture_in_the_set_is_no_business_of_git(origin: Repository) -> None:
    tracked = origin.git("ls-files", "data/own").splitlines()
    assert tracked == ["data/own/.gitignore", "data/own/cells.csv", "data/own/cells.dvc"]


def test_what_a_folder_remote_keeps_needs_no_stage_to_run_again(origin: Repository, tmp_path: Path) -> None:
    origin.dvc("remote", "add", "--default", "--force", "store", str(tmp_path / "store"), check=True)
    origin.commit("a store on this machine")
    origin.dvc("push", check=True)
    other = origin.clone(tmp_path / "other", share_cache=False)
    assert not (other.path / "data/own/cells").exists()
    other.dvc("pull", "--allow-missing", check=True)  # of the pipelines under training/, not run here
    assert stages_run(other.dvc("repro", check=True).stdout) == []
    assert other.dvc("status", *STAGES, check=True).stdout.strip() == "Data and pipelines are up to date."
    assert other.git("status", "--porcelain") == ""
    assert (other.path / "prepared/split.parquet").is_file()


def test_pulling_the_data_from_s3_and_running_the_stages_gives_the_same_hashes(
    origin: Repository, bucket: tuple[str, str], tmp_path: Path
) -> None:
    url, endpoint = bucket
    origin.dvc("remote", "add", "--default", "--force", "store", url, check=True)
    origin.dvc("remote", "modify", "store", "endpointurl", endpoint, check=True)
    origin.commit("a store on S3")
    sign_in(origin)
    origin.dvc("push", "data/own/cells.dvc", check=True)
    other = origin.clone(tmp_path / "other", share_cache=False)
    sign_in(other)
    assert "testing" not in other.git("show", "HEAD:.dvc/config")
    other.dvc("pull", "data/own/cells.dvc", check=True)
    assert stages_run(other.dvc("repro", check=True).stdout) == list(STAGES)
    assert lock(other) == lock(origin)


def sign_in(repository: Repository) -> None:
    """Keys belong into .dvc/config.local, which git does not see."""
    for name, value in KEYS.items():
        repository.dvc("remote", "modify", "--local", "store", name, value, check=True)


def test_a_set_of_another_repository_is_imported_by_version_and_updated(origin: Repository, tmp_path: Path) -> None:
    registry = registry_of_two_versions(tmp_path / "registry")
    site = origin.clone(tmp_path / "site", share_cache=True)
    imported = ("import", str(registry.path), "cells", "--rev", "v1", "--out", "data/shared")
    site.dvc(*imported, check=True)
    assert hash_in(site, "data/shared.dvc") == registry.git("show", "v1:cells.dvc").split("md5: ")[1].split()[0]
    site.commit("the registry's first version")
    first = hash_in(site, "data/shared.dvc")
    assert stages_run(site.dvc("repro", "--dry", "prepare", check=True).stdout) == ["prepare"]
    # What was imported comes from where it came from: no remote of this repository has it.
    elsewhere = site.clone(tmp_path / "elsewhere", share_cache=False)
    elsewhere.dvc("pull", "data/shared.dvc", check=True)
    assert (elsewhere.path / "data/shared/L1/0.txt").read_text() == "v1"
    site.dvc("update", "--rev", "v2", "data/shared.dvc", check=True)
    assert hash_in(site, "data/shared.dvc") != first
    assert (site.path / "data/shared/L1/0.txt").read_text() == "v2"


def hash_in(repository: Repository, name: str) -> str:
    (output,) = yaml.safe_load((repository.path / name).read_text())["outs"]
    return str(output["md5"])


def registry_of_two_versions(path: Path) -> Repository:
    """Another team's repository, with a set tagged v1 and v2."""
    path.mkdir()
    registry = Repository(path)
    registry.git("init", "--quiet")
    registry.dvc("init", "--quiet", check=True)
    for version in ("v1", "v2"):
        (path / "cells/L1").mkdir(parents=True, exist_ok=True)
        (path / "cells/L1/0.txt").unlink(missing_ok=True)
        (path / "cells/L1/0.txt").write_text(version)
        registry.dvc("add", "--quiet", "cells", check=True)
        registry.commit(version)
        registry.git("tag", version)
    return registry


def test_the_documented_commands_are_those_that_are_tested() -> None:
    text = (REPO / "data/README.md").read_text()
    for command in (
        "dvc add data/own/cells",
        "dvc remote add --default store",
        "dvc remote modify store endpointurl",
        "dvc remote modify --local store access_key_id",
        "dvc push",
        "dvc pull --allow-missing",
        "dvc pull data/own/cells.dvc",
        "dvc import",
        "dvc update --rev v2 data/shared.dvc",
    ):
        assert command in text
