"""Where the real, openly licensed data sets are, for tests marked `realdata`; without them these tests are skipped."""

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def data_folder(name: str) -> Path:
    """The folder of one data set: below BLASTWATCH_DATA, else beside the repository. Skips the test without it."""
    root = Path(os.environ.get("BLASTWATCH_DATA", _BESIDE))
    folder = root / name
    if not folder.is_dir():
        pytest.skip(f"real data set {name} is not at {folder}: set BLASTWATCH_DATA")
    return folder
