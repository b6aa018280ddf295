"""C-NMC 2019: the patient in every name, and a split that goes by it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.contract.image import Field, load_field
from tests.support.images import bmp
from tests.support.layouts import c_nmc
from training.datasets import DatasetError, open_dataset
from training.prepare import prepare


@pytest.mark.parametrize("inside", ["", "C-NMC_training_data", "archive/C-NMC_Leukemia/training_data"])
def test_cells_have_the_patients_of_their_names(inside: str, tmp_path: Path) -> None:
    dataset = open_dataset({"kind": "c_nmc", "root": str(c_nmc(tmp_path, inside))})
    assert (dataset.labels, dataset.malignant, dataset.scale_known) == (("hem", "all"), ("all",), False)
    cells = list(dataset.cells())
    assert [(Path(cell.source).name, cell.label, cell.patient) for cell in cells] == [
        ("UID_11_1_1_all.bmp", "all", "c_nmc:11"),
        ("UID_11_2_1_all.bmp", "all", "c_nmc:11"),
        ("UID_11_10_1_all.bmp", "all", "c_nmc:11"),
        ("UID_H11_1_1_hem.bmp", "hem", "c_nmc:H11"),
        ("UID_6_1_1_all.bmp", "all", "c_nmc:6"),
        ("UID_H3_4_2_hem.bmp", "hem", "c_nmc:H3"),
        ("UID_H3_4_3_hem.bmp", "hem", "c_nmc:H3"),
    ]
    assert load_field(cells[0].image, Field(), 0.0).shape == (128, 128, 3)
    assert any("2 hem, 2 all" in note for note in dataset.notes)


def test_a_fold_inside_its_own_name_is_found(tmp_path: Path) -> None:
    root = c_nmc(tmp_path / "set")
    (root / "fold_0").rename(tmp_path / "inner")
    (root / "fold_0").mkdir()
    (tmp_path / "inner").rename(root / "fold_0/fold_0")
    cells = list(open_dataset({"kind": "c_nmc", "root": str(root)}).cells())
    assert len(cells) == 7
    assert cells[0].source == "c_nmc/fold_0/fold_0/all/UID_11_1_1_all.bmp"


def test_a_patient_is_one_unit_and_no_note_says_that_nobody_is_named(tmp_path: Path) -> None:
    dataset = open_dataset(
        {"kind": "c_nmc", "root": str(c_nmc(tmp_path / "set")), "labels": {"hem": "healthy", "all": "blast"}}
    )
    done = prepare([dataset], ("healthy", "blast"), Field(32, 32, 8.0), tmp_path / "cells", quiet=True)
    assert done.manifest.groupby("patient")["unit"].nunique().tolist() == [1, 1, 1, 1]
    assert done.summary["patients_by_label"] == {"healthy": 2, "blast": 2}
    assert done.summary["malignant"] == ["blast"]
    notes = done.summary["notes"]
    assert isinstance(notes, list)
    assert not any("no patient" in note for note in notes)


def _gone(root: Path) -> tuple[Path, str]:
    return root / "x", "there is no folder .*doi.org"


def _another_set(root: Path) -> tuple[Path, str]:
    (root / "other/im").mkdir(parents=True)
    return root / "other", "has no fold_N/all or fold_N/hem below it, found im/: .*doi.org"


def _no_patient(root: Path) -> tuple[Path, str]:
    (root / "fold_1/all/17.bmp").write_bytes(bmp())
    return root, "1 of 2 pictures in .*fold_1/all are not named .* their patient is unknown: 17.bmp"


def _other_label(root: Path) -> tuple[Path, str]:
    (root / "fold_1/all/UID_H9_1_1_hem.bmp").write_bytes(bmp())
    return root, "1 pictures in .*fold_1/all say another label in their names: UID_H9_1_1_hem.bmp"


def _no_pictures(root: Path) -> tuple[Path, str]:
    for path in root.rglob("*.bmp"):
        path.unlink()
    return root, "fold_0/all, fold_0/hem, fold_1/all, fold_1/hem in .* have no pictures"


@pytest.mark.parametrize("spoil", [_gone, _another_set, _no_patient, _other_label, _no_pictures])
def test_what_is_wrong_is_one_line_that_names_it(spoil: Callable[[Path], tuple[Path, str]], tmp_path: Path) -> None:
    root, words = spoil(c_nmc(tmp_path))
    with pytest.raises(DatasetError, match=words) as caught:
        open_dataset({"kind": "c_nmc", "root": str(root)})
    assert "\n" not in str(caught.value)
