"""What an export of reviewed cells keeps of the one before, and which pictures it leaves to the test set.

Pixels are purged after their time in the pixel store (BLASTWATCH_IMAGE_RETENTION), and a cell that a model has learned
from, or is tested on, must not leave the data with them.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from training.datasets import DatasetError
from training.io import read_parquet

Row = dict[str, object]


@dataclass(frozen=True)
class Tested:
    """A picture of the frozen test set: the label that it is tested under, and whether a reader gave it."""

    label: str
    by_reader: bool


def earlier_rows(table: Path, columns: tuple[str, ...]) -> list[Row]:
    """The rows of an earlier export's table; none when there is no such file.

    Raises DatasetError when it is something else: overwriting it would lose the cells that only it has.
    """
    if not table.is_file():
        return []
    rows = read_parquet(table)
    if tuple(rows.columns) != columns:
        raise DatasetError(
            f"reviewed: {table} is no export of reviewed cells: bring it back with `dvc checkout`, or start anew, "
            "without the cells of earlier exports, with --fresh"
        )
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def tested_pictures(prepared: Path) -> dict[str, Tested]:
    """The pictures that the last split tests with, by hash of their pixels; none when nothing was split yet.

    Readers see the model's answer when they review, and labels that follow answers must not judge the next model.
    """
    if not (prepared / "split.parquet").is_file() or not (prepared / "manifest.parquet").is_file():
        return {}
    manifest, split = (read_parquet(prepared / f"{name}.parquet") for name in ("manifest", "split"))
    test: pd.DataFrame = manifest[manifest["path"].isin(split.loc[split["split"] == "test", "path"])]
    return {
        str(row.pixels_sha256): Tested(str(row.label), by_reader(str(row.source)))
        for row in test.itertuples(index=False)
    }


def by_reader(source: str) -> bool:
    """Whether the manifest's `source` is a cell that a reader labelled in service."""
    return source.startswith("reviewed/")
