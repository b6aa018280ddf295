"""The real set of white cells: its layout, what it lacks, and what is said when it is not there or not right."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.contract.errors import ConfigError
from service.contract.image import Field, load_field
from tests.support.realdata import data_folder
from training.datasets import DatasetError, open_dataset


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six pictures in the set's layout, one a basophil."""
    codes = [2, 1, 5, 3, 4, 1]
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image ID", "class label"], *([k + 1, code] for k, code in enumerate(codes))])
    for number in range(1, 7):
        pixels = np.full((120, 110, 3), number * 20, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:03d}.bmp")
    return tmp_path


def _open(root: Path) -> list[tuple[str, str]]:
    dataset = open_dataset({"kind": "tecom_wbc", "root": str(root)})
    return [(cell.source, cell.label) for cell in dataset.cells()]


def test_cells_in_the_list_s_order_without_the_basophil(root: Path) -> None:
    assert _open(root) == [
        ("tecom_wbc/001.bmp", "lymphocyte"),
        ("tecom_wbc/002.bmp", "neutrophil"),
        ("tecom_wbc/004.bmp", "monocyte"),
        ("tecom_wbc/005.bmp", "eosinophil"),
        ("tecom_wbc/006.bmp", "neutrophil"),
    ]


def test_it_says_what_it_lacks(root: Path) -> None:
    dataset = open_dataset({"kind": "tecom_wbc", "root": str(root)})
    assert dataset.labels == ("neutrophil", "lymphocyte", "monocyte", "eosinophil")
    assert dataset.malignant == ()
    assert not dataset.scale_known
    assert "1 basophil left out" in dataset.notes[0]
    (cell, *_) = dataset.cells()
    assert (cell.patient, cell.pixel_size_um, cell.image) == ("", 0.0, (root / "001.bmp").read_bytes())


def _no_folder(root: Path) -> str:
    (root / "labels.csv").unlink()
    return "there is no"


def _no_picture(root: Path) -> str:
    (root / "004.bmp").unlink()
    return "1 of 5 pictures"


def _unknown_label(root: Path) -> str:
    (root / "labels.csv").write_text("image ID,class label\n1,9\n")
    return "label '9' is unknown"


def _other_header(root: Path) -> str:
    (root / "labels.csv").write_text("file,class\n1,2\n")
    return "not this set's list"


def _no_number(root: Path) -> str:
    (root / "labels.csv").write_text("image ID,class label\n1,2\nfirst,2\n")
    return "row 3"


def _listed_twice(root: Path) -> str:
    (root / "labels.csv").write_text("image ID,class label\n1,2\n1,3\n")
    return "picture 1 is listed twice"


def _empty(root: Path) -> str:
    (root / "labels.csv").write_text("")
    return "not this set's list"


def _no_rows(root: Path) -> str:
    (root / "labels.csv").write_text("image ID,class label\n")
    return "lists no pictures"


def _not_text(root: Path) -> str:
    (root / "labels.csv").write_bytes(b"\xff\xfe\x00\x80")
    return "cannot be read"


@pytest.mark.parametrize(
    "spoil",
    [
        _no_folder,
        _no_picture,
        _unknown_label,
        _other_header,
        _no_number,
        _listed_twice,
        _empty,
        _no_rows,
        _not_text,
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_file(root: Path, spoil: object) -> None:
    words = spoil(root)  # type: ignore[operator]
    with pytest.raises(DatasetError) as caught:
        _open(root)
    assert words in str(caught.value)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "root: Field required"),
        ({"root": 3}, "root: Input should be a valid string"),
        ({"root": "x", "seed": 1}, "seed: Extra inputs are not permitted"),
        ({"root": "x", "pixel_size_um": -1.0}, "pixel_size_um: Input should be greater than or equal to 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=f"^data.sources, tecom_wbc: {words}.*its options are root, site"):
        open_dataset({"kind": "tecom_wbc", **options})


@pytest.mark.realdata
def test_the_real_set() -> None:
    dataset = open_dataset({"kind": "tecom_wbc", "root": str(data_folder("tecom_wbc"))})
    cells = list(dataset.cells())
    assert Counter(cell.label for cell in cells) == {
        "neutrophil": 176,
        "lymphocyte": 53,
        "monocyte": 48,
        "eosinophil": 22,
    }
    for cell in cells[::40]:
        assert load_field(cell.image, Field(), cell.pixel_size_um).shape == (128, 128, 3)
