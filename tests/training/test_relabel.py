"""A reader who corrects the label of a picture that is in the training data must not stop the next training."""

import pandas as pd
import pytest

from training.datasets import DatasetError
from training.grouping import without_copies
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
