"""Hosts share models: what one promotes another can have, whole or not at all. A real S3 server (moto), real s3fs."""

import os
from pathlib import Path

import boto3
import pytest

from service.contract.artifact import MODEL, FolderModelStore, read_artifact
from service.contract.errors import ArtifactError, ConfigError, NotFound, StoreUnavailable
from service.contract.shared_models import MARKER, SharedModelStore, model_store
from tests.support.artifacts import tiny_artifact


@pytest.fixture
def url(s3_bucket: str, tmp_path: Path) -> str:
    return f"s3://{s3_bucket}/{tmp_path.name}"


def bucket_of(url: str) -> str:
    return url.removeprefix("s3://").partition("/")[0]


def promoted(folder: Path, seed: int = 0) -> str:
    """A model in a host's own folder, with what BentoML keeps beside it."""
    made = tiny_artifact(folder / "made", seed=seed)
    (folder / "made").rename(folder / made.version)
    (folder / made.version / "model.yaml").write_text("name: of this host\n")
    return made.version


def test_what_one_host_shares_another_has_whole_and_a_third_time_nothing_is_sent(tmp_path: Path, url: str) -> None:
    version = promoted(tmp_path / "one")
    assert SharedModelStore(tmp_path / "one", url).share(version) is True
    assert SharedModelStore(tmp_path / "one", url).share(version) is False
    path = model_store(tmp_path / "two", url).path(version)
    assert path == tmp_path / "two" / version
    assert read_artifact(path).version == version
    assert not (path / "model.yaml").exists()
    assert not (path / MARKER).exists()
    os.environ["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"  # nobody is asked for what is there
    assert model_store(tmp_path / "two", url).path(version) == path


def test_half_of_a_model_is_none(tmp_path: Path, url: str) -> None:
    version = promoted(tmp_path / "one")
    SharedModelStore(tmp_path / "one", url).share(version)
    prefix = url.rpartition("/")[2]
    boto3.client("s3").delete_object(Bucket=bucket_of(url), Key=f"{prefix}/{version}/{MARKER}")
    with pytest.raises(NotFound, match="dvc repro promote"):
        model_store(tmp_path / "two", url).path(version)
    assert SharedModelStore(tmp_path / "one", url).share(version) is True  # what was begun is done again
    assert model_store(tmp_path / "two", url).path(version).is_dir()


def test_a_damaged_one_never_gets_its_name_and_a_mended_one_does(tmp_path: Path, url: str) -> None:
    version = promoted(tmp_path / "one")
    SharedModelStore(tmp_path / "one", url).share(version)
    key = f"{url.rpartition('/')[2]}/{version}/{MODEL}"
    objects = boto3.client("s3")
    good = objects.get_object(Bucket=bucket_of(url), Key=key)["Body"].read()
    objects.put_object(Bucket=bucket_of(url), Key=key, Body=good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="is damaged"):
        model_store(tmp_path / "two", url).path(version)
    assert list((tmp_path / "two").iterdir()) == []
    objects.put_object(Bucket=bucket_of(url), Key=key, Body=good)
    assert model_store(tmp_path / "two", url).path(version).is_dir()


def test_an_address_that_does_not_answer_or_makes_no_sense_is_one_line(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = promoted(tmp_path / "one")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreUnavailable, match="cannot be fetched") as away:
        model_store(tmp_path / "two", url).path(version)
    assert "\n" not in str(away.value)
    with pytest.raises(StoreUnavailable, match="cannot be put"):
        SharedModelStore(tmp_path / "one", url).share(version)
    with pytest.raises(ConfigError, match="BLASTWATCH_MODELS_URL"):
        model_store(tmp_path / "two", "nosuch://x").path(version)


def test_without_an_address_the_folder_is_all_there_is(tmp_path: Path) -> None:
    assert isinstance(model_store(tmp_path, ""), FolderModelStore)
    with pytest.raises(NotFound, match=r"no model \.\./etc"):
        SharedModelStore(tmp_path, "s3://b/x").path("../etc")
