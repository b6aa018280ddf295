"""The pixels of prepared cells as one array: a few thousand cells of 128×128 are some hundred MB at most."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from service.contract.errors import BadImage, ConfigError
from service.contract.image import Pixels, decode
from training.figures import Integers

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
        """uint8 [n, H, W, 3]. Raises ConfigError when a picture is missing, damaged, or of another size."""
        return load_pixels([folder / path for path in self.table["path"]])


def cells(manifest: pd.DataFrame, split: pd.DataFrame, labels: tuple[str, ...]) -> Cells:
    """Manifest and split table as one. Raises ConfigError when they are not of the same cells."""
    if len(manifest) != len(split) or not (manifest["path"].to_numpy() == split["path"].to_numpy()).all():
        raise ConfigError("the split is not of the cells in the manifest: run `dvc repro split`")
    if unknown := sorted(set(manifest["label"]) - set(labels)):
        raise ConfigError(f"the manifest has labels {unknown}, which dataset.json lacks: run `dvc repro prepare`")
    table = manifest.assign(split=split["split"].to_numpy())
    index = {name: position for position, name in enumerate(labels)}
    return Cells(table, labels, np.array([index[name] for name in table["label"]], dtype=np.int64))


def load_pixels(paths: list[Path]) -> Pixels:
    """uint8 [n, H, W, 3] of pictures of one size. Raises ConfigError, naming the file."""
    with ThreadPoolExecutor(2) as pool:  # the decoder releases the interpreter's lock
        pictures = list(pool.map(_read, paths))
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        raise ConfigError(f"the cells have different sizes, {sorted(shapes)}: run `dvc repro prepare`")
    return np.stack(pictures)


def _read(path: Path) -> Pixels:
    try:
        return decode(path.read_bytes())
    except (OSError, BadImage) as error:
        raise ConfigError(f"{path} cannot be read ({error}): run `dvc repro --force prepare`") from None
