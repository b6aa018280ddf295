"""The champion is what the ledger says; a ledger that cannot be read is not an empty one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.contract.errors import ConfigError
from service.contract.ledger import Ledger
from training.champion import champion
from training.places import bentoml_home, models_dir, store_url

REPO = Path(__file__).parents[2]


def test_the_champion_follows_promotion_and_rollback(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'store.db'}")
    assert champion(ledger) == {"version": None}
    for version in ("a" * 32, "b" * 32):
        ledger.promote(version, ledger.production())
    assert champion(ledger) == {"version": "b" * 32}
    ledger.rollback(by="clinician on duty")
    assert champion(ledger) == {"version": "a" * 32}


def run(cwd: Path, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training.champion"],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPO), "BLASTWATCH_STORE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_stage_writes_the_same_bytes_for_the_same_champion(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    assert run(tmp_path, url).returncode == 0
    first = (tmp_path / "build/champion.json").read_bytes()
    assert json.loads(first) == {"version": None}
    assert run(tmp_path, url).returncode == 0
    assert (tmp_path / "build/champion.json").read_bytes() == first


def test_a_store_that_cannot_be_read_is_an_error_not_an_empty_ledger(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"this is not a database, and it is long enough to be one" * 50)
    done = run(tmp_path, f"sqlite:///{tmp_path / 'store.db'}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "build/champion.json").exists()


def test_places_default_to_the_repositorys_var(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert store_url({}) == "sqlite:///var/store.db"
    assert models_dir({}) == tmp_path / "var/bentoml/models/blastwatch"
    assert models_dir({"BENTOML_HOME": "/srv/home"}) == Path("/srv/home/models/blastwatch")
    assert bentoml_home({"BLASTWATCH_MODELS_DIR": "/srv/home/models/blastwatch"}) == Path("/srv/home")


def test_the_two_names_of_the_model_store_may_agree_but_not_contradict(tmp_path: Path) -> None:
    models = str(tmp_path / "models/blastwatch")
    assert bentoml_home({"BLASTWATCH_MODELS_DIR": models, "BENTOML_HOME": str(tmp_path)}) == tmp_path
    with pytest.raises(ConfigError, match="contradict"):
        bentoml_home({"BLASTWATCH_MODELS_DIR": models, "BENTOML_HOME": "/elsewhere"})
    with pytest.raises(ConfigError, match="models/blastwatch"):
        bentoml_home({"BLASTWATCH_MODELS_DIR": str(tmp_path / "mine")})
