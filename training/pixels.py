"""Prepared cells of some splits as one table, and their pixels as one array (training/pixel_cache.py)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from service.contract.errors import ConfigError
from service.contract.image import Pixels
from training.figures import Integers
from training.pixel_cache import mapped

PREPARED = Path("prepared")
TRAIN, VALIDATION, TEST, DROPPED = "train", "validation", "test", "dropped"


@dataclass(frozen=True, eq=False)
class Cells:
    """n cells of some splits, in the order of the split table.

    `table` has the manifest's columns and `split`; `label` [n] is the index into `labels`.
    """

    table: pd.DataFrame
    labels: tuple[str, ...]
    label: Integers

    def column(self, name: str) -> npt.NDArray[np.str_]:
        """A text column as a numpy array, [n]."""
        return np.array(self.table[name].tolist(), dtype=np.str_)

    def where(self, *splits: str) -> npt.NDArray[np.int64]:
        """Positions of the cells of some splits."""
        return np.flatnonzero(self.table["split"].isin(splits).to_numpy()).astype(np.int64)

    def only(self, *splits: str) -> "Cells":
        """The cells of some splits. Raises ConfigError when there are none."""
        index = self.where(*splits)
        if len(index) == 0:
            raise ConfigError(f"no cell is in the {' or '.join(splits)} split: run `dvc repro split`")
        return Cells(self.table.iloc[index].reset_index(drop=True), self.labels, self.label[index])

    def load(self, folder: Path = PREPARED) -> Pixels:
        """uint8 [n, H, W, 3], a memory map. Raises ConfigError when a picture is missing, damaged or odd in size."""
        return load_pixels([folder / path for path in self.table["path"]])


def cells(manifest: pd.DataFrame, split: pd.DataFrame, labels: tuple[str, ...]) -> Cells:
    """Manifest and split table as one, with the split's units. Raises ConfigError when they are of different cells."""
    if len(manifest) != len(split) or not (manifest["path"].to_numpy() == split["path"].to_numpy()).all():
        raise ConfigError("the split is not of the cells in the manifest: run `dvc repro split`")
    if unknown := sorted(set(manifest["label"]) - set(labels)):
        raise ConfigError(f"the manifest has labels {unknown}, which dataset.json lacks: run `dvc repro prepare`")
    table = manifest.assign(**{name: split[name].to_numpy() for name in split.columns if name != "path"})
    index = {name: position for position, name in enumerate(labels)}
    return Cells(table, labels, np.array([index[name] for name in table["label"]], dtype=np.int64))


def load_pixels(paths: Sequence[Path]) -> Pixels:
    """uint8 [n, H, W, 3] of cells in one folder, a memory map that is built on first use, beside that folder.

    Raises ConfigError when there are none, and as `training.pixel_cache.mapped` does, naming the file.
    """
    if not paths:
        raise ConfigError("no cell is asked for: run `dvc repro split`")
    return mapped(paths)
