"""Files between the stages: params.yaml, JSON and Parquet. Read with clear errors, written whole or not at all."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from service.contract.errors import ConfigError
from service.contract.files import write_atomic

PARAMS_FILE = Path("params.yaml")


def read_params(*names: str, path: Path = PARAMS_FILE) -> Any:
    """params.yaml as a dict, or one entry of it: `read_params("data", "sources")`.

    Raises ConfigError when the file is missing or not YAML, or lacks the entry.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise ConfigError(f"{path} cannot be read: run this in the repository's root, or restore it from git") from None
    try:
        value: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is empty or not a mapping: restore it from git")
    for depth, name in enumerate(names):
        if not isinstance(value, dict) or name not in value:
            raise ConfigError(
                f"{path} has no entry {'.'.join(names[: depth + 1])}: add it, or restore the file from git"
            )
        value = value[name]
    return value


def read_json(path: Path) -> Any:
    """Any JSON value. Raises ConfigError when the file is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: `dvc repro` makes it") from None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}): run `dvc repro --force` for the stage that makes it"
        ) from None


def write_json(path: Path, value: Mapping[str, object] | list[object]) -> None:
    """Indented, keys in the order given, a newline at the end; NaN and infinity are refused by ValueError."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_parquet(path: Path) -> pd.DataFrame:
    """A table. Raises ConfigError when the file is missing or damaged."""
    if not path.is_file():
        raise ConfigError(f"{path} is missing: `dvc repro` makes it")
    try:
        return pd.read_parquet(path, engine="pyarrow")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}): run `dvc repro --force` for the stage that makes it"
        ) from None


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Without the index; the same table gives the same bytes."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, engine="pyarrow", index=False, compression="zstd")
    write_atomic(path, buffer.getvalue())
