"""Where champion, gate, package and promote find each other's files, the ledger and the models."""

import os
from collections.abc import Mapping
from pathlib import Path

from service.contract.errors import ConfigError

MODEL_NAME = "blastwatch"
CHAMPION = Path("build/champion.json")
GATE = Path("reports/gate.json")
ARTIFACT = Path("build/artifact")
BENTO = Path("build/bento")

DEFAULT_STORE = "sqlite:///var/store.db"
DEFAULT_HOME = Path("var/bentoml")


def store_url(environ: Mapping[str, str] = os.environ) -> str:
    """URL of the database with the ledger (BLASTWATCH_STORE_URL)."""
    return environ.get("BLASTWATCH_STORE_URL") or DEFAULT_STORE


def bentoml_home(environ: Mapping[str, str] = os.environ) -> Path:
    """BentoML's home folder, absolute: BLASTWATCH_MODELS_DIR without its `models/blastwatch`, else BENTOML_HOME.

    Raises:
        ConfigError: the two are both set and name different folders, or the models folder has not BentoML's layout.
    """
    named, home = environ.get("BLASTWATCH_MODELS_DIR"), environ.get("BENTOML_HOME")
    if not named:
        return Path(home or DEFAULT_HOME).absolute()
    models = Path(named).absolute()
    if models.parts[-2:] != ("models", MODEL_NAME):
        raise ConfigError(
            f"BLASTWATCH_MODELS_DIR is {named}, but promoting imports into a BentoML model store, whose folders are "
            f"<BENTOML_HOME>/models/{MODEL_NAME}: set it to such a folder, or unset it and set BENTOML_HOME"
        )
    if home and Path(home).resolve() != models.parent.parent.resolve():
        raise ConfigError(
            f"BLASTWATCH_MODELS_DIR ({named}) and BENTOML_HOME ({home}) contradict each other: unset one, or set "
            f"BLASTWATCH_MODELS_DIR={Path(home) / 'models' / MODEL_NAME}"
        )
    return models.parent.parent


def models_url(environ: Mapping[str, str] = os.environ) -> str:
    """Where hosts share models; empty: nowhere."""
    return environ.get("BLASTWATCH_MODELS_URL", "")


def models_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Folder with one folder per model version, absolute.

    Raises:
        ConfigError: see `bentoml_home`.
    """
    return bentoml_home(environ) / "models" / MODEL_NAME
