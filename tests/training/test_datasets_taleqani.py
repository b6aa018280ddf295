"""The Taleqani set: classes by the words of folders that are named anew in every copy."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.images import jpeg
from tests.support.layouts import taleqani
from training.datasets import DatasetError, open_dataset
from training.datasets.taleqani import class_of

COPIES = {
    "as published": {"Benign": "Benign", "Early": "Early", "Pre": "Pre", "Pro": "Pro"},
    "malignant in brackets": {
        "Benign": "Benign",
        "Early": "[Malignant] early Pre-B",
        "Pre": "[Malignant] Pre-B",
        "Pro": "[Malignant] Pro-B",
    },
    "malignant behind": {
        "Benign": "Hematogones",
        "Early": "Early Malignant",
        "Pre": "Pre Malignant",
        "Pro": "Pro Malignant",
    },
    "malignant around": {
        "Benign": "Pre-processed/Benign",
        "Early": "Pre-processed/Malignant/Early",
        "Pre": "Pre-processed/Malignant/Pre",
        "Pro": "Pre-processed/Malignant/Pro",
    },
    "two levels deeper": {
        "Benign": "archive/Blood cell Cancer [ALL]/Benign",
        "Early": "archive/Blood cell Cancer [ALL]/[Malignant] early Pre-B",
        "Pre": "archive/Blood cell Cancer [ALL]/[Malignant] Pre-B",
        "Pro": "archive/Blood cell Cancer [ALL]/[Malignant] Pro-B",
    },
}


@pytest.mark.parametrize("copy", COPIES)
def test_every_copy_gives_the_same_classes(copy: str, tmp_path: Path) -> None:
    dataset = open_dataset({"kind": "taleqani", "root": str(taleqani(tmp_path, COPIES[copy]))})
    assert dataset.labels == ("Benign", "Early", "Pre", "Pro")
    assert dataset.malignant == ("Early", "Pre", "Pro")
    assert not dataset.scale_known
    cells = list(dataset.cells())
    assert Counter(cell.label for cell in cells) == dict.fromkeys(dataset.labels, 3)
    for cell in cells:
        grade = "Benign" if cell.label == "Benign" else f"Malignant-{cell.label}"
        assert f"/WBC-{grade}-" in cell.source
    # Contiguous blocks of file names stand for patients, so 2 comes before 10.
    assert [cell.source[-7:] for cell in cells[:3]] == ["001.jpg", "002.jpg", "010.jpg"]


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("Benign", "Benign"),
        ("[Malignant] early Pre-B", "Early"),
        ("Early Pre-B", "Early"),
        ("PRE_B", "Pre"),
        ("Malignant ProB", "Pro"),
        ("prepared", None),
        ("processed", None),
        ("Malignant", None),
    ],
)
def test_class_of(folder: str, label: str | None) -> None:
    assert class_of(folder) == label


def test_the_segmented_twin_of_a_copy_is_not_used(tmp_path: Path) -> None:
    for half in ("Original", "Segmented"):
        taleqani(tmp_path, {label: f"{half}/{label}" for label in ("Benign", "Early", "Pre", "Pro")})
    dataset = open_dataset({"kind": "taleqani", "root": str(tmp_path)})
    cells = list(dataset.cells())
    assert len(cells) == 12
    assert all("/Original/" in cell.source for cell in cells)
    assert any("Segmented is not used" in note for note in dataset.notes)


def test_it_says_what_a_reader_must_know(tmp_path: Path) -> None:
    notes = "\n".join(open_dataset({"kind": "taleqani", "root": str(taleqani(tmp_path))}).notes)
    assert "WARNING: the stain tells the label" in notes
    assert "12 pictures, the whole set has 3256" in notes
    assert "no patients are named" in notes


def _gone(root: Path) -> str:
    for folder in root.iterdir():
        folder.rename(root.parent / f"elsewhere-{folder.name}")
    root.rmdir()
    return "there is no folder .*kaggle"


def _a_class_is_missing(root: Path) -> str:
    (root / "Pro").rename(root.parent / "Pro")
    return "has no folder with pictures of Pro, .* found: Benign, Early, Pre.*kaggle"


def _another_set(root: Path) -> str:
    for folder in root.iterdir():
        folder.rename(root / f"fold {len(folder.name)}{folder.name[-1]}")
    return "has no folder with pictures of Benign, Early, Pre, Pro, .* found: none.*kaggle"


def _a_folder_of_no_class(root: Path) -> str:
    (root / "Unknown").mkdir()
    (root / "Unknown/x.jpg").write_bytes(jpeg())
    return "folder Unknown in .* has pictures, but its name says none of Benign, Early, Pre, Pro"


def _an_empty_class(root: Path) -> str:
    for path in (root / "Pre").iterdir():
        path.unlink()
    return "has no folder with pictures of Pre, .*found: Benign, Early, Pro"


def _a_picture_in_the_wrong_folder(root: Path) -> str:
    (root / "Benign/WBC-Malignant-Pro-777.jpg").write_bytes(jpeg())
    return r"1 files in .*/Benign \(Benign\) are named after another class: WBC-Malignant-Pro-777.jpg"


@pytest.mark.parametrize(
    "spoil",
    [
        _gone,
        _a_class_is_missing,
        _another_set,
        _a_folder_of_no_class,
        _an_empty_class,
        _a_picture_in_the_wrong_folder,
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(spoil: Callable[[Path], str], tmp_path: Path) -> None:
    root = taleqani(tmp_path / "set")
    words = spoil(root)
    with pytest.raises(DatasetError, match=words) as caught:
        open_dataset({"kind": "taleqani", "root": str(root)})
    assert "\n" not in str(caught.value)
