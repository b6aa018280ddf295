"""Named arrays in one file: npz without pickle, the same arrays giving the same bytes."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.contract.errors import ConfigError
from service.contract.files import write_atomic

Arrays = dict[str, npt.NDArray[Any]]


def write_npz(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write `arrays` in their order, whole or not at all. Raises ValueError for an array that would need pickle."""
    buffer = io.BytesIO()
    # numpy stamps each member with 1980-01-01, so the bytes depend on nothing but names and values.
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomic(path, buffer.getvalue())


def read_npz(path: Path) -> Arrays:
    """The arrays by name. Raises ConfigError when the file is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: `dvc repro` makes it") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{path} cannot be read ({reason}): run `dvc repro --force` for the stage that makes it"
        ) from None
