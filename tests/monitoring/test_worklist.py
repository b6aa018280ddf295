"""From answers to a reader's folder and back to reviews, through the command line and a real store."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monitoring import worklist
from monitoring.findings import judged
from monitoring.history import History
from monitoring.policy import Decision, PolicyState
from monitoring.verdict import judged_window
from monitoring.window import Window
from monitoring.worklist_files import COLUMNS
from service.contract.errors import ConfigError
from service.contract.ledger import Ledger
from service.contract.pixels import PixelStore
from service.contract.reading import EXPORTED, IMPORTED, asked_for, pictures
from service.contract.records import PredictionRecord
from service.contract.store import Store
from tests.support.images import smear
from tests.support.records import prediction, review

VERSION = "a" * 32


class Site:
    """A store of answers about 12 patients, of which every cell's pixels are kept, and the command."""

    def __init__(self, folder: Path, url: str, count: int = 36) -> None:
        self.folder, self.url = folder, url
        self.store, self.ledger = Store(url), Ledger(url)
        self.pixels = PixelStore(folder / "pixels")
        self.records = [self._answer(number, count) for number in range(count)]
        self.store.insert_predictions(self.records)

    def _answer(self, number: int, count: int) -> PredictionRecord:
        sure = 0.5 + number / count / 2
        return prediction(
            number,
            pixels_kept=True,
            pixels_sha256=self.pixels.save(smear(number, 32)),
            site="=site-b" if number % 2 else "site-a",
            label="L1",
            probabilities={"healthy": 1 - sure, "L1": sure, "L2": 0.0},
            patient=f"{number % 12:032x}",
        )

    def export(self, name: str, *options: str) -> list[dict[str, str]]:
        assert worklist.main(["export", "--out", str(self.folder / name), *options]) == 0
        return self.rows(name)

    def rows(self, name: str) -> list[dict[str, str]]:
        with (self.folder / name / "cells.csv").open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))

    def fill(self, name: str, label: Callable[[dict[str, str]], str]) -> Path:
        """A reader's copy of a list, filled in."""
        rows = self.rows(name)
        path = self.folder / f"{name}-filled.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows({**row, "label": label(row)} for row in rows)
        return path

    def take(self, path: Path, reader: str) -> int:
        return worklist.main(["import", str(path), "--reader", reader])

    def said(self) -> dict[str, str]:
        """{record id: how its readers stand}."""
        found = pictures(self.store, asked_for(self.ledger.rows(EXPORTED)))
        return {picture.stored.record.record_id: picture.reading.how for picture in found}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    monkeypatch.setenv("BLASTWATCH_STORE_URL", url)
    monkeypatch.setenv("BLASTWATCH_PIXELS_DIR", str(tmp_path / "pixels"))
    return Site(tmp_path, url)


TEN = ("--random", "4", "--drifted", "3", "--uncertain", "3", "--slice", "site==site-b")


def test_a_list_has_a_table_pictures_and_a_page_and_says_nothing_of_the_model(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = site.export("list", *TEN)
    shown = capsys.readouterr().out
    assert "10 cells" in shown
    assert "4 random, 3 drifted, 3 uncertain" in shown
    assert "skipped" not in shown
    assert tuple(rows[0]) == COLUMNS
    assert [row["number"] for row in rows] == [str(number) for number in range(1, 11)]
    by_id = {record.record_id: record for record in site.records}
    for row in rows:
        record = by_id[row["record_id"]]
        with Image.open(site.folder / "list" / row["picture"]) as picture:
            assert picture.size == (512, 512)
            small = np.asarray(picture.resize((32, 32), Image.Resampling.BOX), dtype=np.float64)
        assert np.abs(small - site.pixels.load(record.pixels_sha256)).mean() < 8
        # No spreadsheet takes what a client sent for a formula.
        assert row["site"] == ("'=site-b" if record.site == "=site-b" else "site-a")
        assert row["label"] == ""
    assert {row["site"] for row in rows if row["why"] == "drifted"} == {"'=site-b"}
    page = (site.folder / "list" / "index.html").read_text()
    assert page.count("<figure>") == 10
    table = (site.folder / "list" / "cells.csv").read_text(encoding="utf-8-sig")
    for record in by_id.values():
        numbers = [record.malignant_probability, *record.probabilities.values(), record.patient]
        assert not any(str(number) in table + page for number in numbers if str(number) not in ("0.0", "0.5", "1.0"))
    assert not re.search(r"\bL1\b", table)
    assert len(re.findall(r"\bL1\b", page)) == 1  # among the labels that there are


def test_what_was_asked_is_in_the_ledger_and_not_asked_again(site: Site) -> None:
    first = site.export("one", *TEN, "--by", "sre")
    (row,) = site.ledger.rows(EXPORTED)
    assert (row.body["list"], row.body["readers"], row.body["by"]) == (first[0]["list"], 2, "sre")
    listed = [record for records in row.body["cells"].values() for record in records]
    assert sorted(listed) == sorted(item["record_id"] for item in first)
    assert not any(record.patient in json.dumps(row.body) for record in site.records)
    again = site.export("two", *TEN)
    assert again[0]["list"] != first[0]["list"]
    why = {item["record_id"]: item["why"] for item in first}
    assert not any(item["record_id"] in why and item["why"] != "random" for item in again)
    assert not any(why.get(item["record_id"]) == "random" for item in again)


def test_the_same_store_and_seed_give_the_same_list(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = site.export("list", *TEN, "--seed", "7")
    other = Site(tmp_path / "other", f"sqlite:///{tmp_path / 'other.db'}")
    monkeypatch.setenv("BLASTWATCH_STORE_URL", other.url)
    assert other.export("list", *TEN, "--seed", "7") == rows


def test_the_newest_window_is_the_slice_if_it_drifted(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = ("--random", "0", "--uncertain", "0")
    with pytest.raises(ConfigError, match="nothing to ask about"):
        site.export("none", *nothing)
    cells = tuple(site.store.predictions())[12:24]
    window = Window(VERSION, cells[0].seq, cells[-1].seq, 0.0, 1.0, True, cells)
    finding = judged(
        "brightness", "covariate", severity=2, figure=3.0, interval=None, threshold=1.0, cells=12, patients=12
    )
    state = PolicyState(model_version=VERSION)
    history = History(site.url)
    history.record(judged_window(window, [finding]), Decision("watch", "because", (), None, state), state, 1.0)
    history.close()
    rows = site.export("drifted", *nothing)
    assert {row["record_id"] for row in rows} == {item.record.record_id for item in cells}
    assert "drifted ones are of window" in capsys.readouterr().out


def test_where_only_a_slice_of_it_drifted_its_cells_are(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    cells = tuple(site.store.predictions())[12:24]
    window = Window(VERSION, cells[0].seq, cells[-1].seq, 0.0, 1.0, True, cells)
    finding = judged(
        "slice_embedding", "slice", severity=2, figure=3.0, interval=None, threshold=1.0, cells=6, patients=6
    )
    planned = replace(finding, family="planned", slice="site=site-a")
    history = History(site.url)
    state = PolicyState(model_version=VERSION)
    verdict = judged_window(window, [replace(finding, slice="site==site-b"), planned])
    history.record(verdict, Decision("watch", "because", (), None, state), state, 1.0)
    history.close()
    rows = site.export("drifted", "--random", "0", "--uncertain", "0")
    wanted = {item.record.record_id for item in cells if item.record.site == "=site-b"}
    assert {row["record_id"] for row in rows} == wanted
    assert 0 < len(wanted) < len(cells)
    assert f"drifted ones are of window {verdict.window_id}, site==site-b" in capsys.readouterr().out


def test_cells_without_pixels_are_skipped_and_said(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    for record in site.records[:5]:
        site.pixels.remove(record.pixels_sha256)
    rows = site.export("list", "--random", "100")
    assert len(rows) == 31
    assert "5 of 36 answers skipped: their pixels are not kept" in capsys.readouterr().out


def test_two_readers_agree_wait_or_need_an_adjudicator(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole walk: export, two readers, agreement, adjudication, and what counts in the end."""
    site.export("list", *TEN)

    def one(row: dict[str, str]) -> str:
        return "L2"

    def two(row: dict[str, str]) -> str:
        return {"1": "L1", "2": "healthy", "3": ""}.get(row["number"], "L2")

    assert site.take(site.fill("list", one), "haematologist-1") == 0
    assert set(site.said().values()) == {"waiting"}
    assert site.take(site.fill("list", two), "haematologist-2") == 0
    assert capsys.readouterr().out.endswith(
        "9 reviews by haematologist-2 on record, 0 were already, 1 cells not read\n"
    )
    counts = sorted(site.said().values())
    assert counts == ["agreed"] * 7 + ["disagreed"] * 2 + ["waiting"]

    assert worklist.main(["agreement"]) == 0
    shown = capsys.readouterr().out
    assert "10 cells read: 7 agreed, 2 disagreed, 1 waiting" in shown
    assert "haematologist-1 and haematologist-2: 9 cells" in shown
    assert "1 × L2 / healthy" in shown

    assert worklist.main(["adjudicate", "--out", str(site.folder / "third")]) == 0
    third = site.rows("third")
    assert {row["number"] for row in site.rows("list") if row["record_id"] in {r["record_id"] for r in third}} == {
        "1",
        "2",
    }
    assert {row["why"] for row in third} == {"disagreement"}
    assert all(row["label"] == "" for row in third)
    decided = site.fill("third", lambda row: "L2")
    with pytest.raises(ConfigError, match="is an adjudicator's"):
        site.take(decided, "haematologist-3")
    assert site.take(decided, "adjudicator") == 0
    assert sorted(site.said().values()) == ["adjudicated"] * 2 + ["agreed"] * 7 + ["waiting"]
    with pytest.raises(ConfigError, match="disagree about no cell"):
        worklist.main(["adjudicate", "--out", str(site.folder / "fourth")])
    with pytest.raises(ConfigError, match="is not an adjudicator's"):
        site.take(site.fill("list", one), "adjudicator")


def test_drawn_cells_come_back_as_a_sample_and_others_do_not(site: Site) -> None:
    rows = site.export("list", *TEN)
    site.take(site.fill("list", lambda row: "L2"), "one")
    why = {row["record_id"]: row["why"] for row in rows}
    reviewed = site.store.reviewed()
    assert len(reviewed) == 10
    for stored, found in reviewed:
        assert found.sampled == (why[stored.record.record_id] == "random")
        assert (found.role, found.client) == ("one", "worklist")
    (row,) = site.ledger.rows(IMPORTED)
    assert (row.body["list"], row.body["reader"], row.body["reviews"]) == (rows[0]["list"], "one", 10)
    site.ledger.verify()


def test_a_second_import_adds_nothing_but_a_second_thought(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.export("list", *TEN)
    site.take(site.fill("list", lambda row: "L2"), "one")
    site.take(site.fill("list", lambda row: "L2"), "one")
    assert "0 reviews by one on record, 10 were already" in capsys.readouterr().out
    assert len(site.ledger.rows(IMPORTED)) == 1
    site.take(site.fill("list", lambda row: "L1" if row["number"] == "1" else "L2"), "one")
    assert "1 reviews by one on record, 9 were already" in capsys.readouterr().out
    assert sorted(len(reviews) for _, reviews in site.store.readings()) == [1] * 9 + [2]


def test_a_bad_row_is_one_line_and_nothing_is_taken_over(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.export("list", *TEN)
    path = site.fill("list", lambda row: {"1": "L4", "2": "l2"}.get(row["number"], "L2"))
    lines = path.read_text().splitlines()
    twice = lines[3].removesuffix("L2") + "L1"
    stranger = lines[4].replace(site.rows("list")[3]["record_id"], "f" * 32)
    path.write_text("\n".join([*lines, twice, stranger]))
    with pytest.raises(ConfigError, match="4 of 12 rows are wrong, so none was taken over"):
        site.take(path, "one")
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 4
    assert shown[0].endswith("line 2: label 'L4' is none of healthy, L1, L2")
    assert "line 3: label 'l2'" in shown[1]
    assert "line 12: " in shown[2]
    assert "'L2' in an earlier line" in shown[2]
    assert "line 13: record 'ffffffffffffffffffffffffffffffff' is not on this list" in shown[3]
    assert site.store.readings() == []
    assert site.ledger.rows(IMPORTED) == []


def test_a_record_that_came_into_dispute_or_was_deleted_is_refused(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    first = site.export("list", *TEN)[0]["record_id"]
    record = next(record for record in site.records if record.record_id == first)
    site.store.insert_predictions([prediction(pixels_sha256="e" * 64, request_id=record.request_id)])
    with pytest.raises(ConfigError, match="1 of 10 rows"):
        site.take(site.fill("list", lambda row: "L2"), "one")
    assert "came into dispute" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no column list, record_id, label"),
        ("record_id,label\r\nx,L1\r\n", "no column list"),
        ("list,record_id,label\r\n", "not of one work list"),
        ("list,record_id,label\r\nabc,x,L1\r\n", "not of one work list"),
        ("list,record_id,label\r\n\xff", "cannot be read"),
    ],
)
def test_a_file_that_is_no_filled_list_is_one_clear_line(site: Site, text: str, match: str) -> None:
    path = site.folder / "filled.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=match):
        site.take(path, "one")


def test_semicolons_are_read_as_well(site: Site) -> None:
    site.export("list", *TEN)
    path = site.fill("list", lambda row: "L2")
    path.write_text(path.read_text().replace(",", ";"))
    assert site.take(path, "one") == 0
    assert len(site.store.readings()) == 10


@pytest.mark.parametrize("reader", ["model", "AI", VERSION, "", " one", "one\ntwo", "x" * 65])
def test_a_model_or_nobody_is_no_reader(site: Site, reader: str) -> None:
    site.export("list", *TEN)
    with pytest.raises(ConfigError, match="--reader"):
        site.take(site.fill("list", lambda row: "L1"), reader)
    assert site.store.readings() == []


def test_one_picture_under_two_records_is_decided_once(site: Site) -> None:
    """Each reader met it under another record: apart they agree with themselves, together they disagree."""
    first = site.records[0]
    twin = prediction(99, pixels_kept=True, pixels_sha256=first.pixels_sha256, probabilities=first.probabilities)
    site.store.insert_predictions([twin])
    site.store.insert_reviews([review(first, "L1", role="one"), review(twin, "L2", role="two")])
    worklist.main(["adjudicate", "--out", str(site.folder / "third")])
    assert len(site.rows("third")) == 1
    site.take(site.fill("third", lambda row: "healthy"), "adjudicator")
    (picture,) = pictures(site.store, {})
    assert (picture.reading.how, picture.reading.decisive.label) == ("adjudicated", "healthy")


@pytest.mark.parametrize(
    ("options", "match"),
    [(["--slice", "ward=3"], "--slice ward=3"), (["--slice", "site"], "--slice site"), ([], "is there already")],
)
def test_a_list_that_cannot_be_made_says_why(site: Site, options: list[str], match: str) -> None:
    (site.folder / "list").mkdir()
    with pytest.raises(ConfigError, match=match):
        site.export("list", *options)
    assert site.ledger.rows(EXPORTED) == []
