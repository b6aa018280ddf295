"""A row's result as JSON: what it ran on and what it said of every cell, from which all figures are computed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.contract.errors import ConfigError
from training.figures import Floats, Integers
from training.io import read_json
from training.zoo.rows import ROWS

FOLDER = Path("reports/zoo")
DECIMALS = 4


@dataclass(frozen=True, eq=False)
class Result:
    """`said` [repeats, n, C] are the probabilities of every cell by the fold that did not train on it; `about` is the
    rest of the file. Nothing of a row that was not run: `reason` says why.
    """

    row: str
    about: Mapping[str, Any]
    reason: str
    labels: tuple[str, ...]
    malignant: tuple[str, ...]
    label: Integers
    unit: npt.NDArray[np.str_]
    said: Floats

    @property
    def called(self) -> Integers:
        """[repeats, n]"""
        return np.asarray(self.said.argmax(axis=2), dtype=np.int64)


def not_run(row: str, reason: str) -> dict[str, object]:
    """The file of a row that was not run."""
    return {"row": row, "status": "not run", "reason": reason}


def read_result(path: Path) -> Result:
    """One row's file. Raises ConfigError when it is not one."""
    value = read_json(path)
    try:
        row, status = value["row"], value["status"]
        if row not in ROWS or status not in ("ran", "not run"):
            raise ValueError(f"{row} {status}")
        ran = status == "ran"
        data = value["data"] if ran else {}
        said = unpacked(value["probabilities"]) if ran else np.zeros((0, 0, 0))
        label = np.asarray(data.get("label", []), dtype=np.int64)
        if said.ndim != 3 or (ran and said.shape[1:] != (len(label), len(data["labels"]))):
            raise ValueError(f"probabilities are {said.shape}")
        return Result(
            row, value, "" if ran else str(value["reason"]), tuple(data.get("labels", ())),
            tuple(data.get("malignant", ())), label, np.asarray(data.get("unit", []), dtype=np.str_), said,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is not a row's result ({error}): delete it and run the row again") from None


def read_results(folder: Path) -> dict[str, Result]:
    """Rows by name, in the table's order; those without a file are left out."""
    return {name: read_result(path) for name, path in _files(folder) if path.is_file()}


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    return ((name, folder / f"{name}.json") for name in ROWS)


def packed(said: Floats) -> list[str]:
    """Probabilities [repeats, n, C] as a line a repeat, "9998 1 1;…" in 10⁻⁴; what is most probable stays so."""
    whole = np.rint(said * 10**DECIMALS).astype(np.int64)
    best = said.argmax(axis=2)
    # Rounding may make two labels equal, and the first of equals would be called.
    tied = whole.argmax(axis=2) != best
    np.put_along_axis(whole, best[..., None], whole.max(axis=2, keepdims=True) + tied[..., None], axis=2)
    return [";".join(" ".join(map(str, cell)) for cell in repeat) for repeat in whole.tolist()]


def unpacked(lines: Sequence[str]) -> Floats:
    """The reverse of `packed`."""
    whole = [[[int(value) for value in cell.split()] for cell in line.split(";")] for line in lines]
    found: Floats = np.asarray(whole, dtype=np.float64) / 10**DECIMALS
    return found
