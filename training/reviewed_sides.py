"""Where the split put the cells that readers labelled: a retraining says so in its log and in the ledger.

Those of a test patient, and near-duplicates of test pictures, never train (training/split.py).
"""

from pathlib import Path

from training.datasets.carried import by_reader
from training.io import read_parquet
from training.pixels import DROPPED, TEST, TRAIN, VALIDATION

SIDES = (TRAIN, VALIDATION, TEST, DROPPED)


def sides(prepared: Path) -> dict[str, int]:
    """{side: how many cells that readers labelled}; empty when nothing was prepared there. Raises ConfigError."""
    if not (prepared / "manifest.parquet").is_file() or not (prepared / "split.parquet").is_file():
        return {}
    manifest, split = (read_parquet(prepared / f"{name}.parquet") for name in ("manifest", "split"))
    read = set(manifest.loc[[by_reader(source) for source in manifest["source"]], "path"])
    found = split.loc[split["path"].isin(read), "split"].value_counts()
    return {side: int(found.get(side, 0)) for side in SIDES}


def said(counts: dict[str, int]) -> str:
    """One line for the log."""
    return (
        f"cells that readers labelled: {counts[TRAIN]} train, {counts[VALIDATION]} validate; {counts[TEST]} of test "
        f"patients and {counts[DROPPED]} near-duplicates of others' pictures never train"
    )
