"""A reader who corrects the label of a picture that is in the training data must not stop the next training."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from service.contract.image import Field
from tests.support.images import png
from training.datasets import DatasetError, SourceCell
from training.grouping import without_copies
from training.prepare import prepare
from training.relabel import readers_win


def table(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """Cells from (picture, label, source)."""
    cells = pd.DataFrame(list(rows), columns=["pixels_sha256", "label", "source"])
    return cells.assign(patient="")


def test_every_copy_of_a_picture_has_the_reader_s_label() -> None:
    before = table(
        ("a", "L1", "synthetic/1"), ("b", "L1", "synthetic/2"), ("a", "L1", "folder/7"), ("a", "L2", "reviewed/r")
    )
    after, notes = readers_win(before)
    assert after["label"].tolist() == ["L2", "L1", "L2", "L2"]
    assert notes == ["2 cells of other sources have the label that a reader gave their picture: 2 from L1 to L2"]
    assert before["label"].tolist() == ["L1", "L1", "L1", "L2"]
    kept, copies = without_copies(after)
    assert (kept["label"].tolist(), copies) == (["L2", "L1"], 2)


def test_where_nobody_corrected_anything_nothing_is_said() -> None:
    cells = table(("a", "L1", "synthetic/1"), ("a", "L1", "reviewed/r"), ("b", "L2", "reviewed/s"))
    after, notes = readers_win(cells)
    assert after is cells
    assert notes == []


@pytest.mark.parametrize(
    "rows",
    [
        [("a", "L1", "synthetic/1"), ("a", "L2", "folder/1")],
        [("a", "L1", "synthetic/1"), ("a", "L2", "reviewed/r"), ("a", "L3", "reviewed/s")],
    ],
    ids=["two sources", "two readers"],
)
def test_without_one_reader_s_word_two_labels_are_a_mistake(rows: list[tuple[str, str, str]]) -> None:
    after, notes = readers_win(table(*rows))
    assert notes == []
    with pytest.raises(DatasetError, match="same picture"):
        without_copies(after)


class Given:
    """A data set of the cells it is given."""

    name, malignant, scale_known, notes = "given", ("L1", "L2"), True, ()
    labels = ("healthy", "L1", "L2")

    def __init__(self, cells: list[SourceCell]) -> None:
        self._cells = cells

    def cells(self) -> Iterator[SourceCell]:
        return iter(self._cells)


def test_the_stage_takes_a_corrected_picture_and_says_so(tmp_path: Path) -> None:
    def cell(number: int, label: str, source: str) -> SourceCell:
        return SourceCell(png(number), label, f"p{number}", "site", "", "", 0.25, source)

    own = Given([cell(0, "healthy", "given/0"), cell(1, "L1", "given/1"), cell(2, "L1", "given/2")])
    read = Given([cell(2, "L2", "reviewed/r")])
    done = prepare([own, read], Given.labels, Field(32, 32, 8.0), tmp_path / "cells", quiet=True)  # type: ignore[list-item]
    assert done.manifest["label"].tolist() == ["healthy", "L1", "L2"]
    notes = done.summary["notes"]
    assert isinstance(notes, list)
    assert any("1 cells of other sources have the label that a reader gave" in note for note in notes)
