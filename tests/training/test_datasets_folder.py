"""Any class-per-folder set: classes from folders, patients from a table, and every way in which the two disagree."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from service.contract.errors import ConfigError
from tests.support.images import png
from tests.support.layouts import class_folders
from training.datasets import Counted, DatasetError, open_dataset


def test_classes_are_the_folders(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    (root / "normal/readme.txt").write_text("as said")
    (root / "normal/.DS_Store").write_bytes(b"x")
    dataset = open_dataset({"kind": "folder", "root": str(root), "malignant": ["abnormal"], "pixel_size_um": 0.2})
    assert (dataset.labels, dataset.malignant, dataset.scale_known) == (("abnormal", "normal"), ("abnormal",), True)
    assert isinstance(dataset, Counted)
    assert dataset.counts == {"abnormal": 2, "normal": 2}
    cells = list(dataset.cells())
    assert [(cell.source, cell.label) for cell in cells] == [
        ("folder/abnormal/batch 1/a9.png", "abnormal"),
        ("folder/abnormal/batch 1/a10.png", "abnormal"),
        ("folder/normal/n1.tif", "normal"),
        ("folder/normal/n2.bmp", "normal"),
    ]
    assert {(cell.patient, cell.site, cell.pixel_size_um) for cell in cells} == {("", "folder", 0.2)}
    assert dataset.notes == ["1 files are no pictures that can be read, left out: normal/readme.txt"]


def test_the_table_says_whose_and_how_the_pictures_were_taken(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set", tmp_path / "table.csv")
    dataset = open_dataset(
        {
            "kind": "folder",
            "root": str(root),
            "name": "ours",
            "table": str(tmp_path / "table.csv"),
            "stain": "wright",
            "malignant": ["abnormal"],
        }
    )
    assert (dataset.name, dataset.scale_known, dataset.notes) == ("ours", True, [])
    assert [(c.source, c.patient, c.site, c.stain, c.scanner, c.pixel_size_um) for c in dataset.cells()] == [
        ("ours/abnormal/batch 1/a9.png", "patient-0", "ward 3", "wright", "scanner-1", 0.1),
        ("ours/abnormal/batch 1/a10.png", "patient-0", "ward 3", "wright", "scanner-0", 0.1),
        ("ours/normal/n1.tif", "patient-1", "ward 3", "wright", "scanner-0", 0.1),
        ("ours/normal/n2.bmp", "patient-1", "ward 3", "wright", "scanner-1", 0.1),
    ]


def test_without_malignant_classes_that_is_said(tmp_path: Path) -> None:
    dataset = open_dataset({"kind": "folder", "root": str(class_folders(tmp_path))})
    assert dataset.malignant == ()
    assert dataset.notes == ["no class is named malignant: figures for blasts need the option malignant"]


def _gone(root: Path) -> str:
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    root.rmdir()
    return "there is no folder .*: make it, with one folder"


def _loose(root: Path) -> str:
    (root / "x.png").write_bytes(png())
    return "1 pictures lie in .* itself, so their class is unknown: x.png; move"


def _no_classes(root: Path) -> str:
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return "has no folders, expected one a class"


def _empty_class(root: Path) -> str:
    (root / "other").mkdir()
    (root / "other/scan.svs").write_bytes(b"x")
    return "/other has no pictures: fill it, or remove it"


@pytest.mark.parametrize("spoil", [_gone, _loose, _no_classes, _empty_class])
def test_a_wrong_layout_is_one_line_that_names_it(spoil: Callable[[Path], str], tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set")
    words = spoil(root)
    with pytest.raises(DatasetError, match=words) as caught:
        open_dataset({"kind": "folder", "root": str(root)})
    assert "\n" not in str(caught.value)


def test_a_malignant_class_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"malignant names 'blast', but the folders of .* are abnormal, normal"):
        open_dataset({"kind": "folder", "root": str(class_folders(tmp_path)), "malignant": ["blast"]})


HEADER = ["file", "patient", "pixel_size_um"]
ROWS = [
    ["abnormal/batch 1/a9.png", "p1", "0.1"],
    ["abnormal\\batch 1\\a10.png", "p1", "0.1"],
    ["normal/n1.tif", "p2", "0.1"],
    ["normal/n2.bmp", "p2", "0.1"],
]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (
            [["path", *HEADER[1:]], *ROWS],
            "has the columns path, patient, pixel_size_um, expected file and any of patient",
        ),
        ([[*HEADER[:2], "age"], *ROWS], "has the columns file, patient, age, expected"),
        ([["file", "file"]], "has the columns file, file, expected"),
        ([], "has the columns none, expected"),
        ([HEADER, *ROWS, ["normal/n9.bmp", "p2", "0.1"]], "1 files of .* are not among the pictures: normal/n9.bmp"),
        ([HEADER, *ROWS[:3]], "has no row for 1 pictures: normal/n2.bmp; add them"),
        ([HEADER, *ROWS, ROWS[0]], "row 6: abnormal/batch 1/a9.png is listed twice"),
        ([HEADER, *ROWS[:3], ["normal/n2.bmp", "p2"]], "row 5 has 2 fields instead of 3"),
        ([HEADER, *ROWS[:3], ["normal/n2.bmp", "p2", ""]], "no pixel_size_um for 1 of 4: normal/n2.bmp"),
        ([HEADER, *ROWS[:3], ["normal/n2.bmp", "p2", "0,1"]], "pixel_size_um of normal/n2.bmp is '0,1', not a number"),
        ([HEADER, *ROWS[:3], ["normal/n2.bmp", "p2", "-1"]], "pixel_size_um of normal/n2.bmp is '-1', not a number"),
        ([HEADER, *ROWS[:3], ["normal/n2.bmp", "p2", "nan"]], "pixel_size_um of normal/n2.bmp is 'nan', not a number"),
    ],
)
def test_a_table_that_disagrees_is_named_with_the_row(table: list[list[str]], words: str, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set")
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(table)
    with pytest.raises(DatasetError, match=words):
        open_dataset({"kind": "folder", "root": str(root), "table": str(tmp_path / "table.csv")})


def test_a_table_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set")
    with pytest.raises(DatasetError, match=r"the table .*table.csv cannot be read"):
        open_dataset({"kind": "folder", "root": str(root), "table": str(tmp_path / "table.csv")})
    (tmp_path / "table.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"the table .*table.csv cannot be read"):
        open_dataset({"kind": "folder", "root": str(root), "table": str(tmp_path / "table.csv")})


def test_windows_paths_in_the_table_are_understood(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set")
    with (tmp_path / "table.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([HEADER, *ROWS])
    dataset = open_dataset({"kind": "folder", "root": str(root), "table": str(tmp_path / "table.csv")})
    assert [cell.patient for cell in dataset.cells()] == ["p1", "p1", "p2", "p2"]
