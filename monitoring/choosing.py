"""Which cells to ask a reader about. Pure; the same cells, wishes and seed give the same list.

random     drawn from all cells: what readers say of these speaks for all, so nothing else may have a hand in it,
           neither what the model answered nor whether somebody read the cell before
drifted    drawn from a slice that drifted, for a retraining to learn from
uncertain  the smallest margins between the two most probable labels (Settles 2009, Active Learning Literature
           Survey, section 3.1)
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final

from service.contract.reading import NEVER, Asked
from service.contract.store import StoredPrediction

RANDOM: Final = "random"
DRIFTED: Final = "drifted"
UNCERTAIN: Final = "uncertain"
DISAGREEMENT: Final = "disagreement"
"""Of the cells of an adjudicator's list: readers did not say the same."""


@dataclass(frozen=True)
class Wish:
    """How many cells of each reason; `per_patient` bounds those of one patient that are not drawn from all."""

    random: int
    drifted: int
    uncertain: int
    per_patient: int
    seed: int


@dataclass(frozen=True)
class Choice:
    """Cells with their reason, in the order of the list.

    share     of all cells that the random ones were drawn from: those whose pixels are kept whatever the answer
    skipped   cells that could not be shown, their pixels are not kept (or no longer)
    """

    cells: tuple[tuple[StoredPrediction, str], ...]
    share: float
    skipped: int


def choose(
    cells: Sequence[StoredPrediction],
    wish: Wish,
    *,
    asked: Mapping[str, Asked],
    read: Set[str],
    shown: Callable[[str], bool],
    in_slice: Callable[[StoredPrediction], bool],
) -> Choice:
    """Choose among the answers `cells`, each picture once, disputed answers and test traffic left out.

    asked: what was on earlier lists; read: names of pictures that a reader labelled; shown: whether the pixels of that
    name are there. The order is by a hash, so that a cell's place says nothing about its reason.
    """
    usable = [item for item in cells if not item.disputed and not item.record.test]
    share = kept_share(usable)
    pictures = {item.record.pixels_sha256: item for item in reversed(usable)}
    there = [item for name, item in pictures.items() if shown(name)]
    there.sort(key=lambda item: _rank(wish.seed, item))
    chosen: dict[str, tuple[StoredPrediction, str]] = {}

    pool = (item for item in there if _fraction(item) < share and RANDOM not in _reasons(item, asked))
    for item, _ in zip(pool, range(wish.random), strict=False):
        chosen[item.record.record_id] = item, RANDOM

    others = [item for item in there if not _reasons(item, asked) and item.record.pixels_sha256 not in read]
    drifted = [item for item in others if in_slice(item)] if wish.drifted else []
    taken: Counter[str] = Counter()
    for reason, ranked, number in (
        (DRIFTED, drifted, wish.drifted),
        (UNCERTAIN, sorted(others, key=_margin), wish.uncertain),
    ):
        for item in ranked:
            if number and item.record.record_id not in chosen and taken[_person(item)] < wish.per_patient:
                chosen[item.record.record_id] = item, reason
                taken[_person(item)] += 1
                number -= 1
    order = sorted(chosen.values(), key=lambda pair: _rank(wish.seed + 1, pair[0]))
    return Choice(tuple(order), share, len(pictures) - len(there))


def kept_share(cells: Sequence[StoredPrediction]) -> float:
    """The share of all cells whose pixels the service keeps whatever it answered, from what it kept.

    It keeps referred cells and, by the record's id, a random share of all. Cells that are kept because they were
    referred would make a sample of hard cells, so that the random ones come from below the lowest id that was not kept.
    """
    return min((_fraction(item) for item in cells if not item.record.pixels_kept), default=1.0)


def _fraction(item: StoredPrediction) -> float:
    """Where the record lies in the service's draw (service/retention.py), 0…1."""
    return int(item.record.record_id[:8], 16) / 2**32


def _reasons(item: StoredPrediction, asked: Mapping[str, Asked]) -> tuple[str, ...]:
    return asked.get(item.record.record_id, NEVER).reasons


def _rank(seed: int, item: StoredPrediction) -> bytes:
    return hashlib.sha256(f"{seed}:{item.record.record_id}".encode()).digest()


def _margin(item: StoredPrediction) -> float:
    first, second, *_ = sorted((*item.record.probabilities.values(), 0.0), reverse=True)
    return first - second


def _person(item: StoredPrediction) -> str:
    """Whose cell it is; of nobody named, as near as can be said."""
    record = item.record
    if record.patient:
        return f"patient {record.patient}"
    return f"specimen {record.specimen_id}" if record.specimen_id else f"record {record.record_id}"
