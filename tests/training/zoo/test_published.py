"""The review's tables 4 and 5, as printed."""

import re

import pytest

from tests.support.realdata import data_folder
from training.zoo.published import Published, published, source


def of(table: str, classifier: str, reference: str) -> Published:
    (found,) = (
        row for row in published() if (row.table, row.classifier, row.reference) == (table, classifier, reference)
    )
    return found


def test_both_tables_have_their_seventeen_rows() -> None:
    for table, data in (("4", "ALL-IDB1"), ("5", "ALL-IDB2")):
        rows = [row for row in published() if row.table == table]
        assert len(rows) == 17
        assert {row.data for row in rows} == {data}
        assert [row.reference for row in rows] == ["[34]"] * 5 + ["[36]"] * 6 + ["[16]"] * 6
    assert "State-of-the-Art Review" in source()


def test_the_best_rows_are_those_that_the_review_names() -> None:
    best = of("5", "Mobile-Net v2+SVM", "[16]")
    assert (best.accuracy, best.sensitivity, best.specificity, best.precision, best.f1) == (
        98.21, 98.95, 97.61, 97.37, 0.9828,
    )  # fmt: skip
    assert max(published(), key=lambda row: (row.table == "5") * row.accuracy) == best
    hybrid = of("4", "Hybrid", "[36]")
    assert (hybrid.accuracy, hybrid.sensitivity, hybrid.f1) == (99.39, 99.55, 0.9944)
    assert of("4", "Mobile-Net v2+SVM", "[16]").sensitivity == 100
    assert of("5", "VGG19", "[34]").accuracy == 83.59


def test_no_figure_is_out_of_its_unit() -> None:
    for row in published():
        assert all(50 < value <= 100 for value in (row.accuracy, row.sensitivity, row.specificity, row.precision))
        assert 0.5 < row.f1 <= 1


@pytest.mark.realdata
def test_every_figure_is_the_reviews() -> None:
    review = data_folder("golub").parents[1] / "review.md"
    if not review.is_file():
        pytest.skip("the review is not beside the data")
    text = re.sub("</?b>", "", review.read_text())
    for table in ("4", "5"):
        part = text[text.index(f"**Table {table}: classification performance") :].split("**Figure")[0]
        printed = []
        reference = ""
        for line in part.splitlines():
            cells = [cell.strip().strip("*") for cell in line.strip().strip("|").split("|")]
            if len(cells) != 7 or not re.fullmatch(r"[\d.]+", cells[2]):
                continue
            reference = cells[0] or reference
            printed.append((reference, cells[1], *map(float, cells[2:])))
        ours = [
            (row.reference, row.classifier, row.accuracy, row.sensitivity, row.specificity, row.precision, row.f1)
            for row in published()
            if row.table == table
        ]
        assert ours == printed
