"""Which cells are asked about: honest draws, bounded patients, the same list from the same seed."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from monitoring.choosing import DRIFTED, RANDOM, UNCERTAIN, Choice, Wish, choose, kept_share
from service.contract.pixels import PixelStore
from service.contract.reading import Asked
from service.contract.records import PredictionRecord
from service.contract.store import StoredPrediction
from service.retention import Retention
from service.settings import Settings
from tests.support.records import prediction

WISH = Wish(random=20, drifted=20, uncertain=20, per_patient=3, seed=1)


def _stored(records: list[PredictionRecord]) -> list[StoredPrediction]:
    return [StoredPrediction(number, record, disputed=False) for number, record in enumerate(records, start=1)]


def _cells(count: int = 300, patients: int = 30, **changes: Any) -> list[StoredPrediction]:
    """Answers of which every third patient's come from site-b; the margin grows with the number."""
    records = []
    for number in range(count):
        patient = number % patients
        sure = 0.5 + number / count / 2
        records.append(
            prediction(
                number,
                patient=f"{patient:032x}",
                site="site-b" if patient % 3 == 0 else "site-a",
                pixels_kept=True,
                probabilities={"healthy": 1 - sure, "L1": sure},
                **changes,
            )
        )
    return _stored(records)


def _choose(cells: list[StoredPrediction], wish: Wish = WISH, **changes: Any) -> Choice:
    given: dict[str, Any] = {"asked": {}, "read": set(), "shown": lambda name: True}
    given["in_slice"] = lambda item: item.record.site == "site-b"
    return choose(cells, wish, **{**given, **changes})


def _by_reason(choice: Choice) -> dict[str, list[StoredPrediction]]:
    found: dict[str, list[StoredPrediction]] = {}
    for item, reason in choice.cells:
        found.setdefault(reason, []).append(item)
    return found


def test_each_reason_gets_its_number_and_no_cell_two() -> None:
    choice = _choose(_cells())
    found = _by_reason(choice)
    assert {reason: len(items) for reason, items in found.items()} == {RANDOM: 20, DRIFTED: 20, UNCERTAIN: 20}
    assert len({item.record.record_id for item, _ in choice.cells}) == 60
    assert all(item.record.site == "site-b" for item in found[DRIFTED])
    assert choice.skipped == 0


def test_the_same_seed_gives_the_same_list_whatever_order_the_answers_came_in() -> None:
    cells = _cells()
    again = _choose(cells[::-1])
    assert [(item.record, why) for item, why in _choose(cells).cells] == [(i.record, why) for i, why in again.cells]
    other = _choose(cells, replace(WISH, seed=2))
    assert {item.seq for item, _ in other.cells} != {item.seq for item, _ in again.cells}


def test_a_patient_does_not_fill_the_list() -> None:
    cells = _cells(300, patients=4)
    found = _by_reason(_choose(cells, replace(WISH, random=0)))
    taken = Counter(item.record.patient for items in found.values() for item in items)
    assert max(taken.values()) == 3
    assert sum(taken.values()) == 12
    # Cells of nobody named are taken for cells of one person only where a specimen says so.
    nobody = _stored([replace(item.record, patient="", specimen_id="") for item in cells])
    assert len(_choose(nobody, replace(WISH, random=0, drifted=0)).cells) == 20
    specimen = _stored([replace(item.record, patient="", specimen_id="s-1") for item in cells])
    assert len(_choose(specimen, replace(WISH, random=0, drifted=0)).cells) == 3


def test_uncertain_cells_are_those_of_the_smallest_margins() -> None:
    (found,) = _by_reason(_choose(_cells(), Wish(0, 0, 20, 5, seed=1))).values()
    assert sorted(item.record.request_id for item in found) == sorted(f"request-{number}" for number in range(20))


def test_the_order_says_nothing_about_the_reason() -> None:
    reasons = [reason for _, reason in _choose(_cells()).cells]
    assert sum(one != other for one, other in pairwise(reasons)) > 20


def test_random_cells_are_not_drawn_from_those_that_were_kept_because_they_were_referred() -> None:
    """As the service keeps by default: referred cells, and 20 % of all by a hash of the record."""
    records = [item.record for item in _cells(2000)]
    records = [replace(record, refer=number % 2 == 0) for number, record in enumerate(records)]
    rule = Retention(Settings(image_retention="referred_and_sample", image_sample=0.2), PixelStore.__new__(PixelStore))
    kept = [
        replace(record, pixels_kept=rule.keeps(record.record_id, refer=record.refer, test=False)) for record in records
    ]
    rule.close()
    cells = _stored(kept)
    names = {record.pixels_sha256 for record in kept if record.pixels_kept}
    choice = _choose(cells, Wish(200, 0, 0, 1, seed=3), shown=names.__contains__)
    assert choice.share == pytest.approx(0.2, abs=0.01)
    assert choice.share == kept_share(cells) > 0.2  # the lowest that was not kept lies just above the service's share
    assert len(choice.cells) == 200
    assert 0.4 < sum(item.record.refer for item, _ in choice.cells) / 200 < 0.6  # among the kept it would be 0.83
    assert choice.skipped == 2000 - len(names)


def test_a_draw_goes_on_with_cells_that_were_read_and_never_with_those_that_were_drawn() -> None:
    cells = _cells(40)
    names = [item.record.pixels_sha256 for item in cells]
    ids = [item.record.record_id for item in cells]
    asked = {ids[0]: Asked((RANDOM,), 2), ids[1]: Asked((UNCERTAIN,), 2)}
    found = _by_reason(_choose(cells, Wish(100, 0, 100, 100, seed=1), asked=asked, read={names[1], names[2]}))
    drawn = {item.record.record_id for item in found[RANDOM]}
    assert drawn == set(ids[1:])
    found = _by_reason(_choose(cells, Wish(0, 0, 100, 100, seed=1), asked=asked, read={names[1], names[2]}))
    assert {item.record.record_id for item in found[UNCERTAIN]} == set(ids[3:])


def test_what_counts_for_nothing_or_cannot_be_shown_is_not_asked_about() -> None:
    cells = _cells(6)
    cells[0] = replace(cells[0], disputed=True)
    cells[1] = replace(cells[1], record=replace(cells[1].record, test=True))
    cells[2] = replace(cells[2], record=replace(cells[2].record, pixels_sha256=cells[3].record.pixels_sha256))
    gone = cells[4].record.pixels_sha256
    choice = _choose(cells, shown=lambda name: name != gone)
    assert sorted(item.seq for item, _ in choice.cells) == [3, 6]
    assert choice.skipped == 1
