"""ALL-IDB1 and ALL-IDB2: labels from names, the traps of real copies, and what is said of a folder that is another."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.contract.errors import ConfigError
from service.contract.image import Field, decode, load_field
from tests.support.layouts import all_idb1, all_idb2, lzw_tiff, picture
from training.datasets import DatasetError, SourceCell, open_dataset, open_datasets
from training.prepare import prepare


def cells(kind: str, root: Path, **options: object) -> list[SourceCell]:
    return list(open_dataset({"kind": kind, "root": str(root), **options}).cells())


def notes(kind: str, root: Path, **options: object) -> str:
    return "\n".join(open_dataset({"kind": kind, "root": str(root), **options}).notes)


def test_all_idb1_is_fields_with_the_label_of_their_names(tmp_path: Path) -> None:
    dataset = open_dataset({"kind": "all_idb1", "root": str(all_idb1(tmp_path))})
    assert (dataset.labels, dataset.malignant, dataset.scale_known) == (("healthy", "blast"), ("blast",), False)
    found = list(dataset.cells())
    assert [(cell.source, cell.label) for cell in found] == [
        ("all_idb1/ALL_IDB1/im/Im001_1.jpg", "blast"),
        ("all_idb1/ALL_IDB1/im/Im002_1.jpg", "blast"),
        ("all_idb1/ALL_IDB1/im/Im003_1.jpg", "blast"),
        ("all_idb1/ALL_IDB1/im/Im004_0.jpg", "healthy"),
        ("all_idb1/ALL_IDB1/im/Im005_0.jpg", "healthy"),
    ]
    assert decode(found[0].image).shape == (68, 86, 3)
    assert found[3].image == found[4].image
    assert {cell.patient for cell in found} == {""}
    assert {cell.site for cell in found} == {"all-idb"}


def test_all_idb1_says_that_the_resolution_tells_the_label_and_can_leave_one_out(tmp_path: Path) -> None:
    root = all_idb1(tmp_path)
    said = notes("all_idb1", root)
    assert "WARNING: all 2 pictures of 86×68 are blast, so the resolution tells the label" in said
    assert "6 probable blasts are marked in 5 .xyc files" in said
    assert "5 pictures, the whole set has 108" in said
    assert [cell.scanner for cell in cells("all_idb1", root)] == ["86x68", "86x68", "130x97", "130x97", "130x97"]
    large = open_dataset({"kind": "all_idb1", "root": str(root), "size": [130, 97]})
    assert [cell.label for cell in large.cells()] == ["blast", "healthy", "healthy"]
    assert "2 of 5 pictures left out: another size than asked for" in large.notes
    assert not any("resolution" in note for note in large.notes)
    with pytest.raises(DatasetError, match=r"no picture in .* is 1×2, they are 86×68, 130×97"):
        open_dataset({"kind": "all_idb1", "root": str(root), "size": [1, 2]})


def test_all_idb1_s_points_are_held_against_the_labels(tmp_path: Path) -> None:
    root = all_idb1(tmp_path)
    (root / "ALL_IDB1/xyc/Im004_0.xyc").write_text("1\t2\n")
    assert "the label and the .xyc file of ALL_IDB1/im/Im004_0.jpg contradict each other" in notes("all_idb1", root)
    (root / "ALL_IDB1/xyc/Im003_1.xyc").write_text("12\t13\n\n14 x\n")
    with pytest.raises(DatasetError, match=r"Im003_1.xyc, line 2: expected a point `x y`, not '14 x'"):
        open_dataset({"kind": "all_idb1", "root": str(root)})


def test_all_idb1_works_without_the_points(tmp_path: Path) -> None:
    root = all_idb1(tmp_path)
    for path in (root / "ALL_IDB1/xyc").iterdir():
        path.unlink()
    assert len(cells("all_idb1", root)) == 5
    assert "probable blasts" not in notes("all_idb1", root)


def test_all_idb2_is_cells_in_tiffs_that_decode(tmp_path: Path) -> None:
    dataset = open_dataset({"kind": "all_idb2", "root": str(all_idb2(tmp_path))})
    assert (dataset.labels, dataset.malignant) == (("healthy", "blast"), ("blast",))
    found = list(dataset.cells())
    assert [cell.label for cell in found] == ["blast"] * 3 + ["healthy"] * 3
    assert (decode(found[1].image) == picture(2, 47, 47)).all()
    for cell in found:
        assert load_field(cell.image, Field(), cell.pixel_size_um).shape == (128, 128, 3)
    assert any("cut out of ALL-IDB1" in note for note in dataset.notes)


def test_all_idb2_s_copies_are_left_out_by_prepare_and_no_one_is_told_apart_by_them(tmp_path: Path) -> None:
    dataset = open_dataset({"kind": "all_idb2", "root": str(all_idb2(tmp_path / "set"))})
    done = prepare([dataset], ("healthy", "blast"), Field(32, 32, 8.0), tmp_path / "cells", quiet=True)
    assert done.summary["counts"] == {"healthy": 2, "blast": 3}
    assert done.summary["malignant"] == ["blast"]


@pytest.mark.parametrize("kind", ["all_idb1", "all_idb2"])
def test_the_set_s_own_folder_does_as_root_too(kind: str, tmp_path: Path) -> None:
    root = {"all_idb1": all_idb1, "all_idb2": all_idb2}[kind](tmp_path)
    own, inner = ("ALL_IDB1", "im") if kind == "all_idb1" else ("ALL_IDB2", "img")
    names = [Path(cell.source).name for cell in cells(kind, root)]
    assert [Path(cell.source).name for cell in cells(kind, root / own)] == names
    assert [Path(cell.source).name for cell in cells(kind, root / own / inner)] == names


def _gone(root: Path) -> tuple[Path, str]:
    return root / "nowhere", "there is no folder"


def _another_set(root: Path) -> tuple[Path, str]:
    (root / "other/fold_0").mkdir(parents=True)
    return root / "other", r"is not laid out like the set, expected ALL_IDB2/img/ImNNN_L.tif .* found fold_0/"


def _unknown_label(root: Path) -> tuple[Path, str]:
    (root / "ALL_IDB2/img/Im007_2.tif").write_bytes(lzw_tiff(picture(7)))
    return root, r"1 of 7 pictures in .*img are not named .* their label is unknown: Im007_2.tif"


def _foreign_name(root: Path) -> tuple[Path, str]:
    (root / "ALL_IDB2/img/holiday.jpg").write_bytes(b"")
    return root, "label is unknown: holiday.jpg"


def _empty(root: Path) -> tuple[Path, str]:
    for path in (root / "ALL_IDB2/img").iterdir():
        path.unlink()
    return root, "has no pictures"


@pytest.mark.parametrize("spoil", [_gone, _another_set, _unknown_label, _foreign_name, _empty])
def test_what_is_wrong_is_one_line_with_names_and_advice(
    spoil: Callable[[Path], tuple[Path, str]], tmp_path: Path
) -> None:
    root, words = spoil(all_idb2(tmp_path))
    with pytest.raises(DatasetError, match=words) as caught:
        open_dataset({"kind": "all_idb2", "root": str(root)})
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)
    assert "get the set again" in str(caught.value) or "ask its authors for a copy" in str(caught.value)


def test_a_file_that_cannot_be_read_is_named_when_its_turn_comes(tmp_path: Path) -> None:
    """Pictures are read as they are asked for: the first is there before the second turns out to be missing."""
    root = all_idb2(tmp_path)
    second = root / "ALL_IDB2/img/Im002_1.tif"
    second.unlink()
    second.symlink_to(tmp_path / "nowhere")
    stream = open_dataset({"kind": "all_idb2", "root": str(root)}).cells()
    assert next(stream).source == "all_idb2/ALL_IDB2/img/Im001_1.tif"
    with pytest.raises(DatasetError, match=r"Im002_1.tif cannot be read \(No such file or directory\)"):
        next(stream)


def test_a_jpeg_that_is_none_is_named(tmp_path: Path) -> None:
    root = all_idb1(tmp_path)
    (root / "ALL_IDB1/im/Im002_1.jpg").write_bytes(b"<html>not found</html>")
    with pytest.raises(DatasetError, match=r"Im002_1.jpg cannot be read as a picture"):
        open_dataset({"kind": "all_idb1", "root": str(root)})


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_tiffs_of_other_programs_decode(compression: str) -> None:
    pixels = np.ascontiguousarray(picture(1, 51, 51) // 64 * 64)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="TIFF", compression=compression, resolution=72)
    decoded = decode(buffer.getvalue()).astype(int)
    assert np.abs(decoded - pixels).mean() < (8 if compression == "jpeg" else 1e-9)


@pytest.mark.parametrize("predictor", [1, 2])
def test_lzw_tiffs_with_a_predictor_and_short_strips_decode(predictor: int) -> None:
    pixels = picture(4, 51, 51)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="TIFF", compression="tiff_lzw", tiffinfo={317: predictor, 278: 7})
    assert (decode(buffer.getvalue()) == pixels).all()


def test_the_two_sets_are_refused_together(tmp_path: Path) -> None:
    one = {"kind": "all_idb1", "root": str(all_idb1(tmp_path))}
    two = {"kind": "all_idb2", "root": str(all_idb2(tmp_path))}
    assert [dataset.name for dataset in open_datasets([two])] == ["all_idb2"]
    with pytest.raises(
        ConfigError, match="all_idb1 and all_idb2 cannot be used together: the cells of ALL-IDB2 were cut"
    ):
        open_datasets([two, one])
