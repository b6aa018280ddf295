"""The calendar: what it says is taken exactly, what makes no sense is one line, and a broken edit changes nothing."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from monitoring.planned import Calendar, Entry, read_calendar
from service.contract.cells import Cells, cells_of_records
from service.contract.errors import ConfigError
from service.contract.statistics import STATISTICS
from tests.support.records import prediction

TOML = """
[[planned]]
what = "scanner"
value = "P250"
from = 2026-03-01T09:00:00+01:00
until = 2026-03-15T08:00:00Z
why = "a new slide scanner in room 3"
who = "laboratory management"
"""
ENTRY = {
    "what": "scanner",
    "value": "P250",
    "from": "2026-03-01T08:00:00+00:00",
    "until": "2026-03-15T08:00:00+00:00",
    "why": "a new slide scanner in room 3",
    "who": "laboratory management",
}


def write(path: Path, text: str) -> Path:
    """As an editor does: another file in its place."""
    aside = path.with_suffix(".new")
    aside.write_text(text)
    return aside.replace(path)


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    toml = read_calendar(write(tmp_path / "calendar.toml", TOML))
    assert toml == read_calendar(write(tmp_path / "calendar.json", json.dumps({"planned": [ENTRY]})))
    (entry,) = toml
    assert entry.name == "scanner=P250"
    assert entry.to_json() == ENTRY
    assert Entry.model_validate(entry.to_json()) == entry
    assert read_calendar(write(tmp_path / "empty.toml", "")) == ()


def test_an_entry_is_of_its_value_and_its_time() -> None:
    entry = Entry.model_validate(ENTRY)

    def cells(*rows: tuple[str, datetime]) -> Cells:
        records = [
            prediction(
                number,
                scanner=scanner,
                time=at.isoformat(timespec="microseconds"),
                statistics=dict.fromkeys(STATISTICS, 0.5),
            )
            for number, (scanner, at) in enumerate(rows)
        ]
        return cells_of_records(range(len(records)), records)

    first, last = datetime(2026, 3, 1, 8, tzinfo=UTC), datetime(2026, 3, 15, 8, tzinfo=UTC)
    before = datetime(2026, 3, 1, 7, 59, 59, tzinfo=UTC)
    covered = entry.covers(cells(("P250", before), ("P250", first), ("P251", first), ("P250", last)))
    np.testing.assert_array_equal(covered, [False, True, False, False])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"scanner"', '"ward"', "entry 1, what: Input should be 'site', 'stain', 'scanner' or 'client'"),
        ("08:00:00Z", "08:00:00", "entry 1, until: name the time zone, e.g. 2026-03-01T08:00:00Z"),
        ("2026-03-15", "2026-02-15", "entry 1: until must be later than from"),
        ('value = "P250"', "", "entry 1, value: Field required"),
        ('"P250"', '""', "entry 1, value: String should have at least 1 character"),
        ("who", "whom", "entry 1, whom: Extra inputs are not permitted"),
        ("[[planned]]", "[[plans]]", "plans: Extra inputs are not permitted"),
        ("[[planned]]", "[[planned]", "is no toml: "),
    ],
)
def test_what_makes_no_sense_is_one_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = write(tmp_path / "calendar.toml", TOML.replace(old, new))
    with pytest.raises(ConfigError) as refused:
        read_calendar(path)
    assert says in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"[[planned]]\nwhat = 1"])
def test_a_bad_file_stops_the_start(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "calendar.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"calendar\.toml"):
        Calendar(path)


def test_a_changed_file_is_read_again_and_a_broken_edit_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "calendar.toml", TOML)
    calendar = Calendar(path)
    first = list(calendar.entries)
    assert calendar.refresh() is None
    write(path, TOML + TOML.replace("P250", "P500"))
    assert calendar.refresh() is None
    assert [entry.value for entry in calendar.entries] == ["P250", "P500"]
    write(path, TOML.replace("until", "till"))
    for _ in range(2):  # for as long as it is broken
        assert "entry 1, until: Field required" in (calendar.refresh() or "")
        assert len(calendar.entries) == 2
    path.unlink()
    assert "No such file" in (calendar.refresh() or "")
    assert len(calendar.entries) == 2
    write(path, TOML)
    assert calendar.refresh() is None
    assert list(calendar.entries) == first
    os.utime(path, ns=(0, 0))
    assert calendar.refresh() is None
    assert list(calendar.entries) == first


def test_without_a_file_nothing_is_planned() -> None:
    calendar = Calendar(None)
    assert (calendar.refresh(), calendar.entries) == (None, ())
