"""Reviewed cells: from the store into a folder that can be versioned, and back as a data set."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from service.contract.image import Pixels, pixels_sha256
from service.contract.ledger import Ledger
from service.contract.pixels import PixelStore
from service.contract.reading import EXPORTED, Asked
from service.contract.records import PredictionRecord, ReviewRecord
from service.contract.store import Store
from tests.support.images import smear
from tests.support.records import prediction, review
from training.datasets import DatasetError, open_dataset
from training.datasets.reviewed import COLUMNS, export, main
from training.io import read_parquet


class Site:
    """A store and kept pixels, with cells that were answered and reviewed."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'store.db'}"
        self.store = Store(self.url)
        self.pixels = PixelStore(folder / "pixels")

    def answered(self, number: int, *, pixels: Pixels | None = None, **changes: Any) -> PredictionRecord:
        picture = smear(number, 128) if pixels is None else pixels
        record = prediction(number, pixels_kept=True, pixels_sha256=self.pixels.save(picture), **changes)
        self.store.insert_predictions([record])
        return record

    def purge(self, record: PredictionRecord) -> None:
        (self.pixels.folder / record.pixels_sha256[:2] / f"{record.pixels_sha256}.png").unlink()

    def reviewed(self, number: int, read_as: str = "L2", **changes: Any) -> PredictionRecord:
        record = self.answered(number, **changes)
        self.store.insert_reviews([review(record, read_as)])
        return record


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def _exported(site: Site, out: Path) -> list[dict[Any, Any]]:
    export(site.store, site.pixels, out, field_um=20.0)
    return read_parquet(out / "cells.parquet").to_dict("records")


def test_a_reviewed_cell_comes_back_with_the_reader_s_label(site: Site, tmp_path: Path) -> None:
    record = site.reviewed(1, "L3", label="healthy", site="site-b", patient="c" * 32, scanner="scanner-b")
    assert export(site.store, site.pixels, tmp_path / "out", field_um=20.0) == (1, 0, 0, 0, 0)
    dataset = open_dataset({"kind": "reviewed", "root": str(tmp_path / "out")})
    (cell,) = dataset.cells()
    assert (cell.label, cell.patient, cell.site, cell.scanner) == ("L3", "c" * 32, "site-b", "scanner-b")
    assert cell.pixel_size_um == 20 / 128
    assert cell.fitted  # what the service kept is the field that it saw
    assert cell.source == f"reviewed/{record.record_id}"
    assert (dataset.labels, dataset.malignant, dataset.scale_known) == (("L3",), ("L3",), True)


def test_rows_say_where_a_label_comes_from_and_never_what_the_model_said(site: Site, tmp_path: Path) -> None:
    record = site.answered(1, label="healthy", probabilities={"healthy": 1.0})
    site.store.insert_reviews([review(record, "L1", role="haematologist", sampled=True)])
    (row,) = _exported(site, tmp_path / "out")
    assert tuple(row) == COLUMNS
    assert (row["record_id"], row["model_version"]) == (record.record_id, record.model_version)
    assert (row["role"], row["reviewed"], row["sampled"]) == ("haematologist", "2026-02-01T00:00:00.000000+00:00", True)
    assert "healthy" not in row.values()


def test_the_latest_review_of_a_record_wins(site: Site, tmp_path: Path) -> None:
    record = site.answered(1)
    early, late = "2026-02-01T00:00:00.000000+00:00", "2026-02-03T00:00:00.000000+00:00"
    site.store.insert_reviews([review(record, "L2", time=late), review(record, "L1", time=early)])
    assert [row["label"] for row in _exported(site, tmp_path / "out")] == ["L2"]


def test_one_picture_answered_twice_is_one_cell_with_the_newest_label(site: Site, tmp_path: Path) -> None:
    """Otherwise a reader's second thought would be one picture with two labels, which `prepare` refuses."""
    first, second = (site.answered(number, pixels=smear(7, 128)) for number in (1, 2))
    reviews: list[ReviewRecord] = [
        review(first, "L1", time="2026-02-03T00:00:00.000000+00:00"),
        review(second, "L2", time="2026-02-02T00:00:00.000000+00:00"),
    ]
    site.store.insert_reviews(reviews)
    assert [row["label"] for row in _exported(site, tmp_path / "out")] == ["L1"]


def test_test_traffic_disputed_and_unreviewed_cells_stay_out(site: Site, tmp_path: Path) -> None:
    kept = site.reviewed(1)
    site.reviewed(2, test=True)
    site.answered(3)
    site.reviewed(4, request_id="same")
    site.reviewed(5, request_id="same")
    assert [row["record_id"] for row in _exported(site, tmp_path / "out")] == [kept.record_id]


def test_cells_whose_pixels_are_gone_are_counted_not_exported(site: Site, tmp_path: Path) -> None:
    site.reviewed(1)
    site.purge(site.reviewed(2))
    assert export(site.store, site.pixels, tmp_path / "out", field_um=20.0) == (1, 0, 1, 0, 0)


def test_same_reviews_same_export_whatever_order_they_arrived_in(tmp_path: Path) -> None:
    exports = []
    for name, order in (("one", (1, 2, 3)), ("two", (3, 1, 2))):
        site = Site(tmp_path / name)
        for number in order:
            site.reviewed(number)
        out = tmp_path / name / "out"
        export(site.store, site.pixels, out, field_um=20.0)
        exports.append({path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert exports[0] == exports[1]
    assert len(exports[0]) == 5


def test_an_export_replaces_the_one_before(site: Site, tmp_path: Path) -> None:
    site.reviewed(1)
    _exported(site, tmp_path / "out")
    site.reviewed(2)
    rows = _exported(site, tmp_path / "out")
    assert len(rows) == len(list((tmp_path / "out" / "images").iterdir())) == 2
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]


def test_pictures_are_exact(site: Site, tmp_path: Path) -> None:
    record = site.reviewed(1)
    _exported(site, tmp_path / "out")
    (path,) = (tmp_path / "out" / "images").iterdir()
    pixels = PixelStore(tmp_path / "again").save(smear(1, 128))
    assert path.stem == record.pixels_sha256 == pixels == pixels_sha256(smear(1, 128))


def test_cells_without_a_scale_are_left_out_beside_others_and_said(site: Site, tmp_path: Path) -> None:
    site.reviewed(1)
    site.reviewed(2, pixel_size_um=0.0)
    _exported(site, tmp_path / "out")
    dataset = open_dataset({"kind": "reviewed", "root": str(tmp_path / "out")})
    assert dataset.scale_known
    assert len(list(dataset.cells())) == 1
    assert "1 reviewed cells left out" in dataset.notes[-1]


def test_a_set_without_any_scale_keeps_its_cells(site: Site, tmp_path: Path) -> None:
    site.reviewed(1, pixel_size_um=0.0)
    _exported(site, tmp_path / "out")
    dataset = open_dataset({"kind": "reviewed", "root": str(tmp_path / "out")})
    (cell,) = dataset.cells()
    assert (dataset.scale_known, cell.pixel_size_um) == (False, 0.0)


def test_the_command_exports_and_says_how_many(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site.reviewed(1)
    out = tmp_path / "deep" / "cells"
    arguments = ["export", "--store", site.url, "--pixels", str(site.pixels.folder), "--out", str(out)]
    assert main(arguments) == 0
    assert "1 reviewed cells" in capsys.readouterr().out
    assert (out / "cells.parquet").is_file()


def test_cells_of_an_earlier_export_outlive_their_pixels(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "out"
    old, again = site.reviewed(1, "L1"), site.reviewed(2, "L1")
    before = {row["record_id"]: row for row in _exported(site, out)}
    pictures = {path.name: path.read_bytes() for path in (out / "images").iterdir()}
    for record in (old, again):
        site.purge(record)
    site.reviewed(3, "L3")
    site.store.insert_reviews([review(again, "L2", time="2026-05-01T00:00:00.000000+00:00")])
    assert export(site.store, site.pixels, out, field_um=20.0) == (3, 2, 0, 0, 0)
    after = {row["record_id"]: row for row in read_parquet(out / "cells.parquet").to_dict("records")}
    assert after[old.record_id] == before[old.record_id]
    # A second thought about a cell whose pixels are gone counts all the same.
    assert after[again.record_id]["label"] == "L2"
    assert pictures.items() <= {path.name: path.read_bytes() for path in (out / "images").iterdir()}.items()


def test_a_store_that_forgot_its_records_takes_nothing_away_but_a_fresh_start_does(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "out"
    old = site.reviewed(1)
    _exported(site, out)
    other = Site(tmp_path / "other")
    new = other.reviewed(2)
    assert {row["record_id"] for row in _exported(other, out)} == {old.record_id, new.record_id}
    assert export(other.store, other.pixels, out, field_um=20.0, fresh=True) == (1, 0, 0, 0, 0)


def test_a_carried_cell_that_came_into_dispute_goes(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "out"
    site.reviewed(1, request_id="same")
    kept = site.reviewed(2)
    assert len(_exported(site, out)) == 2
    site.answered(3, request_id="same")
    assert [row["record_id"] for row in _exported(site, out)] == [kept.record_id]


def test_what_is_no_export_is_not_written_over(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "out"
    site.reviewed(1)
    _exported(site, out)
    read_parquet(out / "cells.parquet").drop(columns="label").to_parquet(out / "cells.parquet")
    with pytest.raises(DatasetError, match="--fresh"):
        export(site.store, site.pixels, out, field_um=20.0)
    assert export(site.store, site.pixels, out, field_um=20.0, fresh=True).written == 1


def test_a_carried_cell_without_its_picture_is_one_clear_line_and_nothing_changes(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "out"
    record = site.reviewed(1)
    _exported(site, out)
    site.purge(record)
    (picture,) = (out / "images").iterdir()
    picture.unlink()
    with pytest.raises(DatasetError, match="dvc checkout"):
        export(site.store, site.pixels, out, field_um=20.0)
    assert (out / "cells.parquet").is_file()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]


def test_pictures_of_the_test_set_keep_the_label_that_they_are_tested_under(site: Site, tmp_path: Path) -> None:
    """A reader has seen the model's answer; a test cell whose label follows it would flatter the next model."""
    theirs, ours, other = (site.reviewed(number, "L2") for number in (1, 2, 3))
    names = [record.pixels_sha256 for record in (theirs, ours, other)]
    paths = [f"cells/{name}.png" for name in names]
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    sources = ["synthetic/1", f"reviewed/{ours.record_id}", "synthetic/3"]
    pd.DataFrame({"path": paths, "pixels_sha256": names, "label": "L1", "source": sources}).to_parquet(
        prepared / "manifest.parquet"
    )
    pd.DataFrame({"path": paths, "split": ["test", "test", "train"]}).to_parquet(prepared / "split.parquet")
    out = tmp_path / "out"
    assert export(site.store, site.pixels, out, field_um=20.0, prepared=prepared) == (2, 0, 0, 1, 0)
    labels = {row["record_id"]: row["label"] for row in read_parquet(out / "cells.parquet").to_dict("records")}
    assert labels == {ours.record_id: "L1", other.record_id: "L2"}


def test_nothing_to_export_is_an_error_and_leaves_the_last_export(site: Site, tmp_path: Path) -> None:
    site.reviewed(1)
    _exported(site, tmp_path / "out")
    empty = Site(tmp_path / "empty")
    with pytest.raises(DatasetError, match="no reviewed cells with pixels"):
        export(empty.store, empty.pixels, tmp_path / "out", field_um=20.0, fresh=True)
    assert len(read_parquet(tmp_path / "out" / "cells.parquet")) == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]


@pytest.mark.parametrize("damage", ["folder", "table", "picture"])
def test_a_missing_or_damaged_export_is_one_clear_line(site: Site, tmp_path: Path, damage: str) -> None:
    site.reviewed(1)
    out = tmp_path / "out"
    _exported(site, out)
    if damage == "folder":
        (out / "cells.parquet").unlink()
    elif damage == "table":
        read_parquet(out / "cells.parquet").drop(columns="label").to_parquet(out / "cells.parquet")
    else:
        next((out / "images").iterdir()).unlink()
    with pytest.raises(DatasetError, match="export"):
        list(open_dataset({"kind": "reviewed", "root": str(out)}).cells())


def test_smears_of_the_fixture_differ() -> None:
    assert not np.array_equal(smear(1, 128), smear(2, 128))


def _entries(out: Path) -> dict[str, Any]:
    entries = [json.loads(line) for line in (out / "provenance.jsonl").read_text().splitlines()]
    return {entry["record_id"]: entry for entry in entries}


def test_each_cell_says_who_read_it_why_and_how_they_settled(site: Site, tmp_path: Path) -> None:
    alone, agreed, decided, split, waiting = (site.answered(number) for number in range(1, 6))
    reviews = [review(alone, "L1"), review(waiting, "L1", role="one")]
    reviews += [review(agreed, "L2", role=role, sampled=True) for role in ("one", "two")]
    reviews += [
        review(record, label, role=role)
        for record in (decided, split)
        for role, label in (("one", "L1"), ("two", "L2"))
    ]
    reviews.append(review(decided, "L3", role="adjudicator", time="2026-03-01T00:00:00.000000+00:00"))
    site.store.insert_reviews(reviews)
    twice = Asked(("random",), 2)
    asked = {record.record_id: twice for record in (agreed, decided, split, waiting)}
    out = tmp_path / "out"
    assert export(site.store, site.pixels, out, field_um=20.0, asked=asked) == (3, 0, 0, 0, 2)
    entries = _entries(out)
    table = {row["record_id"]: row for row in read_parquet(out / "cells.parquet").to_dict("records")}
    assert entries.keys() == table.keys() == {alone.record_id, agreed.record_id, decided.record_id}
    assert {key: entries[key]["label"] for key in entries} == {key: table[key]["label"] for key in table}
    assert entries[alone.record_id]["asked"] == ["unasked"]
    assert (entries[agreed.record_id]["how"], entries[agreed.record_id]["sampled"]) == ("agreed", True)
    last = entries[decided.record_id]
    assert (last["how"], last["label"], last["asked"]) == ("adjudicated", "L3", ["random"])
    said = [(one["reader"], one["label"]) for one in last["readers"]]
    assert sorted(said[:2]) == [("one", "L1"), ("two", "L2")]
    assert said[2] == ("adjudicator", "L3")
    assert last["pixels_sha256"] == decided.pixels_sha256


def test_a_planted_answer_of_the_model_never_becomes_a_label(site: Site, tmp_path: Path) -> None:
    """Under the version's own name, or as a later word over a reader's."""
    read, unread = site.reviewed(1, "L2", label="L1"), site.answered(2, label="L1")
    late = "2027-01-01T00:00:00.000000+00:00"
    site.store.insert_reviews(
        [review(record, record.label, role=record.model_version, time=late) for record in (read, unread)]
    )
    site.store.insert_reviews([review(unread, unread.label, role="model", time=late)])
    assert [(row["record_id"], row["label"]) for row in _exported(site, tmp_path / "out")] == [(read.record_id, "L2")]


def test_a_carried_cell_keeps_its_provenance_and_goes_when_readers_disagree(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, second, third = (site.reviewed(number) for number in (1, 2, 3))
    _exported(site, out)
    before = _entries(out)
    site.purge(first)
    site.store.insert_reviews([review(second, "L1", role="two")])
    assert export(site.store, site.pixels, out, field_um=20.0) == (2, 1, 0, 0, 1)
    assert _entries(out) == {key: before[key] for key in (first.record_id, third.record_id)}
    other = Site(tmp_path / "other")
    other.reviewed(4)
    export(other.store, other.pixels, out, field_um=20.0)
    assert _entries(out)[first.record_id] == before[first.record_id]
    (out / "provenance.jsonl").unlink()
    export(other.store, other.pixels, out, field_um=20.0)
    assert _entries(out)[first.record_id]["how"] == "unknown"
    (out / "provenance.jsonl").write_text("{}\n")
    with pytest.raises(DatasetError, match="damaged"):
        export(other.store, other.pixels, out, field_um=20.0)


def test_the_command_knows_from_the_ledger_who_was_to_read(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.reviewed(1)
    waiting = site.reviewed(2)
    ledger = Ledger(site.url)
    ledger.append(EXPORTED, cells={"uncertain": [waiting.record_id]}, readers=2)
    ledger.close()
    arguments = ["export", "--store", site.url, "--pixels", str(site.pixels.folder), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert capsys.readouterr().out.endswith("; 1 more wait for another reader or an adjudicator\n")
