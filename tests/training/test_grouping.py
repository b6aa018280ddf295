"""What hangs together: copies, near-duplicates, patients, pictures that cells were cut out of, blocks of files."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from service.contract.image import Field
from tests.support.images import encoded, jpeg, png, smear
from tests.training.test_prepare import Given, cell
from training.datasets import SourceCell
from training.grouping import components
from training.prepare import Prepared, prepare, twins

FIELD = Field(64, 64, 20.0)
NONE = np.zeros(0, dtype=np.int64)


def run(cells: Sequence[SourceCell], folder: Path, *, block: int = 1) -> Prepared:
    return prepare([Given(cells)], ("healthy", "L1"), FIELD, folder / "cells", block=block, quiet=True)


def nobody(number: int, label: str = "healthy", **changes: object) -> SourceCell:
    """A picture at the field's own size, of nobody named."""
    return cell(number, label, patient="", pixel_size_um=0.0, **{"image": png(number, 64), **changes})


def same(values: Iterable[object]) -> list[int]:
    """Equal values as equal numbers, in the order in which they come."""
    known: dict[object, int] = {}
    return [known.setdefault(value, len(known)) for value in values]


def noted(done: Prepared) -> list[str]:
    notes = done.summary["notes"]
    assert isinstance(notes, list)
    return notes


def test_near_duplicates_of_nobody_are_one_unit(tmp_path: Path) -> None:
    """The traps of ALL-IDB2 (a file twice) and of Taleqani (twins, re-encoded) in one small set."""
    moved = np.ascontiguousarray(np.pad(smear(1, 64), ((1, 0), (0, 0), (0, 0)), mode="edge")[:64])
    cells = [
        nobody(0), nobody(1, "L1"), nobody(2),
        nobody(0, source="given/byte-copy"),
        nobody(1, "L1", image=encoded(moved), source="given/moved"),
        nobody(2, image=jpeg(2, 64), source="given/jpeg"),
        nobody(3, "L1"),
    ]  # fmt: skip
    done = run(cells, tmp_path)
    assert done.manifest["source"].tolist() == [
        "given/0", "given/1", "given/2", "given/moved", "given/jpeg", "given/3",
    ]  # fmt: skip
    assert same(done.manifest["unit"]) == same(done.manifest["near"]) == [0, 1, 2, 1, 2, 3]
    assert done.manifest["group"].nunique() == 6
    assert (done.summary["units"], done.summary["near_duplicates"]) == (4, 4)
    notes = noted(done)
    assert any(note.startswith("1 exact copies left out") for note in notes)
    assert any(note.startswith("4 cells are near-duplicates of others, in 2 groups of up to 2") for note in notes)
    assert any("name no patient. Near-duplicates stay together, but cells of one person may" in note for note in notes)


def test_near_duplicates_with_different_labels_are_named(tmp_path: Path) -> None:
    cells = [nobody(0), nobody(1, "L1"), nobody(1, image=jpeg(1, 64), source="given/twin")]
    (note,) = [note for note in noted(run(cells, tmp_path)) if "different labels" in note]
    assert note.startswith("WARNING: 1 groups of near-duplicates have different labels")
    assert "given/1 (L1) and given/twin (healthy)" in note


def test_a_near_duplicate_of_two_patients_makes_them_one_unit(tmp_path: Path) -> None:
    """Otherwise one of them could test what the other trained."""
    cells = [
        cell(0, patient="b", image=png(0, 64), pixel_size_um=0.0), cell(1, "L1", patient="b"),
        cell(0, patient="a", image=jpeg(0, 64), pixel_size_um=0.0), cell(3, patient="a"), cell(4, patient="c"),
    ]  # fmt: skip
    done = run(cells, tmp_path)
    assert done.manifest["unit"].tolist() == ["a", "a", "a", "a", "c"]
    assert any("1 groups of near-duplicates are of different patients" in note for note in noted(done))


def test_cells_cut_out_of_one_picture_are_one_unit(tmp_path: Path) -> None:
    cells = [nobody(k, "L1" if k % 2 else "healthy", field=f"field-{k // 2}") for k in range(6)]
    done = run(cells, tmp_path, block=100)
    assert same(done.manifest["unit"]) == [0, 0, 1, 1, 2, 2]  # a field is better than a block of files
    assert any("so do cells cut out of one picture" in note for note in noted(done))


def test_fields_of_two_sets_are_two(tmp_path: Path) -> None:
    sets = [Given([nobody(0, field="1")]), Given([nobody(1, "L1", field="1")])]
    manifest = prepare(sets, ("healthy", "L1"), FIELD, tmp_path / "cells", quiet=True).manifest
    assert manifest["unit"].nunique() == 2


def test_blocks_are_of_consecutive_cells_of_one_label_without_a_patient(tmp_path: Path) -> None:
    labels = ["healthy", "healthy", "L1", "healthy", "L1", "L1", "healthy", "L1"]
    cells = [nobody(k, label) for k, label in enumerate(labels)]
    named = [cell(20 + k, "healthy", patient=f"p{k}") for k in range(2)]
    done = run([*cells, *named], tmp_path, block=2)
    assert same(done.manifest["unit"]) == [0, 0, 1, 2, 1, 3, 2, 3, 4, 5]
    assert done.manifest["unit"].tolist()[-2:] == ["p0", "p1"]
    assert any("so do 2 consecutive cells of a label" in note for note in noted(done))
    assert run([*cells, *named], tmp_path).manifest["unit"].nunique() == 10


def test_a_unit_has_the_name_of_its_first_member_and_members_keep_theirs(tmp_path: Path) -> None:
    cells = [nobody(0), nobody(1, "L1"), nobody(0, image=jpeg(0, 64), source="given/twin")]
    manifest = run(cells, tmp_path).manifest
    assert manifest["unit"][0] == manifest["near"][0] == min(manifest["group"][0], manifest["group"][2])
    assert manifest["unit"][1] == manifest["group"][1] == f"pixels:{manifest['pixels_sha256'][1][:32]}"


def test_components_follow_every_kind_of_link() -> None:
    patient, field = np.array([0, 0, -1, -1, 1, -1]), np.array([-1, 0, 0, -1, -1, -1])
    found = components(6, [patient, field], [(np.array([3]), np.array([4]))])
    assert same(found.tolist()) == [0, 0, 0, 1, 1, 2]
    assert same(components(3, [], []).tolist()) == [0, 1, 2]
    assert len(components(0, [NONE], [(NONE, NONE)])) == 0


@pytest.mark.parametrize("twin", [True, False])
def test_the_sheet_shows_near_duplicates_or_says_that_there_are_none(tmp_path: Path, twin: bool) -> None:
    extra = [nobody(0, image=jpeg(0, 64), source="given/twin")] if twin else []
    done = run([nobody(0), nobody(1, "L1"), *extra], tmp_path)
    from service.contract.image import decode

    assert decode(twins(done.manifest, tmp_path)).shape[0] > (100 if twin else 20)
