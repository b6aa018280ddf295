"""BCCD: boxes become crops of one size around the cell, whatever the cell's."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.contract.errors import ConfigError
from service.contract.image import decode
from tests.support.layouts import bccd, voc
from tests.support.realdata import data_folder
from training.datasets import Counted, DatasetError, SourceCell, open_dataset
from training.datasets.bccd import Box, crop


def cells(root: Path, **options: object) -> list[SourceCell]:
    return list(open_dataset({"kind": "bccd", "root": str(root), "side": 32, **options}).cells())


def test_white_cells_by_default(tmp_path: Path) -> None:
    dataset = open_dataset({"kind": "bccd", "root": str(bccd(tmp_path)), "side": 32})
    assert (dataset.labels, dataset.malignant, dataset.scale_known) == (("WBC",), (), False)
    found = list(dataset.cells())
    assert [(cell.source, cell.label, cell.field) for cell in found] == [
        ("bccd/BloodImage_00000.jpg#1", "WBC", "bccd/BloodImage_00000.jpg"),
        ("bccd/BloodImage_00002.jpg#2", "WBC", "bccd/BloodImage_00002.jpg"),
    ]
    assert {decode(cell.image).shape for cell in found} == {(32, 32, 3)}


def test_classes_by_option_and_boxes_without_area_left_out(tmp_path: Path) -> None:
    dataset = open_dataset({"kind": "bccd", "root": str(bccd(tmp_path)), "side": 32, "classes": ["WBC", "RBC"]})
    assert [cell.label for cell in dataset.cells()] == ["WBC", "RBC", "WBC"]
    assert isinstance(dataset, Counted)
    assert dataset.counts == {"WBC": 2, "RBC": 1}
    assert "1 boxes without an area left out" in dataset.notes


def test_a_crop_is_the_field_around_the_box_s_centre(tmp_path: Path) -> None:
    root = bccd(tmp_path)
    (first, *_) = cells(root)
    field = decode((root / "JPEGImages/BloodImage_00000.jpg").read_bytes())
    assert (decode(first.image) == field[24 - 16 : 24 + 16, 30 - 16 : 30 + 16]).all()


def test_beyond_the_edge_the_field_is_mirrored() -> None:
    field = np.arange(48 * 64 * 3, dtype=np.int64).reshape(48, 64, 3).astype(np.uint8)
    cut = crop(field, Box("WBC", 44, 28, 64, 48), 32)
    assert (cut[:26, :26] == field[22:, 38:]).all()
    # Without repeating the edge itself.
    assert (cut[26] == cut[24]).all()
    assert (cut[:, 26] == cut[:, 24]).all()


def test_size_is_kept_and_not_the_box_s(tmp_path: Path) -> None:
    """A cell of twice the diameter takes twice the pixels of its crop."""
    root = bccd(tmp_path)
    small, big = voc([("WBC", 30, 20, 34, 24)]), voc([("WBC", 22, 12, 42, 32)])
    pictures = []
    for text in (small, big):
        (root / "Annotations/BloodImage_00000.xml").write_text(text)
        pictures.append(decode(cells(root)[0].image))
    assert (pictures[0] == pictures[1]).all()


def test_cells_that_the_edge_cuts_can_be_left_out(tmp_path: Path) -> None:
    assert [cell.source for cell in cells(bccd(tmp_path), cut_cells=False)] == ["bccd/BloodImage_00000.jpg#1"]


def test_the_repository_s_root_does_as_root_too(tmp_path: Path) -> None:
    bccd(tmp_path / "BCCD")
    assert len(cells(tmp_path)) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ["Blast"]}, "Blast is no class of the set, known are WBC, RBC, Platelets"),
        ({"classes": []}, "classes: List should have at least 1 item"),
        ({"side": 16}, "side: Input should be greater than or equal to 32"),
        ({"box": 3}, "box: Extra inputs are not permitted"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        cells(bccd(tmp_path), **options)


def _gone(root: Path) -> str:
    (root / "Annotations").rename(root / "Labels")
    return "has no folder Annotations: .*github.com"


def _no_annotations(root: Path) -> str:
    for path in (root / "Annotations").iterdir():
        path.unlink()
    return "Annotations has no .xml files: .*github.com"


def _no_picture(root: Path) -> str:
    (root / "JPEGImages/BloodImage_00002.jpg").unlink()
    return "1 of 2 pictures are not in .*JPEGImages: BloodImage_00002.jpg"


def _not_xml(root: Path) -> str:
    (root / "Annotations/BloodImage_00002.xml").write_text("<annotation><size>")
    return "BloodImage_00002.xml is no Pascal-VOC annotation"


def _no_size(root: Path) -> str:
    (root / "Annotations/BloodImage_00002.xml").write_text("<annotation></annotation>")
    return "BloodImage_00002.xml is no Pascal-VOC annotation .it lacks size/width."


def _no_number(root: Path) -> str:
    path = root / "Annotations/BloodImage_00002.xml"
    path.write_text(path.read_text().replace("<xmin>44", "<xmin>left"))
    return "BloodImage_00002.xml is no Pascal-VOC annotation .could not convert"


def _unknown_class(root: Path) -> str:
    (root / "Annotations/BloodImage_00002.xml").write_text(voc([("Blast", 1, 1, 9, 9)]))
    return "BloodImage_00002.xml names 'Blast', known are WBC, RBC, Platelets"


def _other_size(root: Path) -> str:
    (root / "Annotations/BloodImage_00002.xml").write_text(voc([("WBC", 1, 1, 9, 9)], size=(640, 480)))
    return "BloodImage_00002.jpg is 64×48, its annotation says 640×480"


def _damaged(root: Path) -> str:
    path = root / "JPEGImages/BloodImage_00002.jpg"
    path.write_bytes(path.read_bytes()[:200])
    return "BloodImage_00002.jpg: the image is truncated"


def _none_of_the_class(root: Path) -> str:
    for path in (root / "Annotations").iterdir():
        path.write_text(voc([("RBC", 1, 1, 9, 9)]))
    return "no box in .*Annotations is a WBC"


@pytest.mark.parametrize(
    "spoil",
    [
        _gone,
        _no_annotations,
        _no_picture,
        _not_xml,
        _no_size,
        _no_number,
        _unknown_class,
        _other_size,
        _damaged,
        _none_of_the_class,
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(spoil: Callable[[Path], str], tmp_path: Path) -> None:
    root = bccd(tmp_path)
    words = spoil(root)
    with pytest.raises(DatasetError, match=words) as caught:
        cells(root)
    assert "\n" not in str(caught.value)


@pytest.mark.realdata
def test_the_real_set() -> None:
    root = data_folder("bccd")
    every = open_dataset({"kind": "bccd", "root": str(root), "classes": ["WBC", "RBC", "Platelets"]})
    assert isinstance(every, Counted)
    # Two of the 4155 boxes of red cells have no area.
    assert every.counts == {"WBC": 372, "RBC": 4153, "Platelets": 361}
    dataset = open_dataset({"kind": "bccd", "root": str(root)})
    sources, purple = [], []
    for cell in dataset.cells():
        pixels = decode(cell.image)
        assert pixels.shape == (288, 288, 3)
        sources.append(cell.source)
        middle = pixels[104:184, 104:184].reshape(-1, 3).mean(axis=0)
        border = pixels[:20].reshape(-1, 3).mean(axis=0)
        # Less green than around it: a nucleus is purple, whatever the field's white balance.
        purple.append(middle[1] < border[1] - 20)
    assert len(set(sources)) == 372
    assert np.mean(purple) > 0.95
