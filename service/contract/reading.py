"""What readers together say about a cell, and how sure that is: one reading, an agreement, an adjudication, or nothing.

A reader is a role or an id that the operator gives (`haematologist-1`), and the last word of each is the one that
counts. A role that starts with `adjudicator` decides where others disagree. Models do not read: what comes under a
model's name is on record and never a label, since a model must not learn from itself.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from service.contract.ledger import Row
from service.contract.records import ReviewRecord
from service.contract.store import Store, StoredPrediction

How = Literal["single", "agreed", "adjudicated", "waiting", "disagreed"]

ADJUDICATOR: Final = "adjudicator"
EXPORTED: Final = "worklist_exported"
IMPORTED: Final = "reviews_imported"
UNASKED: Final = "unasked"
"""The reason of a cell that a reader labelled without a work list."""

_MODEL = re.compile(r"model|blastwatch|ai|auto(matic)?|[0-9a-f]{32}", re.IGNORECASE)  # the last is a model's version


@dataclass(frozen=True)
class Asked:
    """Why a cell is, or was, on work lists, in order and each reason once, and how many readers it needs."""

    reasons: tuple[str, ...] = ()
    readers: int = 1


NEVER: Final = Asked()


@dataclass(frozen=True)
class Reading:
    """All readers of one cell: the last review of each, in order of time; those of adjudicators among them.

    how       single, agreed or adjudicated: `label` is settled; waiting: another reader is needed; disagreed: an
              adjudicator is
    decisive  the review that settled it, or the newest one
    sampled   whether the cell was drawn at random to be read
    """

    how: How
    decisive: ReviewRecord
    readers: tuple[ReviewRecord, ...]
    sampled: bool

    @property
    def settled(self) -> bool:
        """Whether there is a label that counts."""
        return self.how in ("single", "agreed", "adjudicated")


Read = tuple[StoredPrediction, Reading]


class Picture(NamedTuple):
    """What readers said of a picture: the answer that the decisive review is of, the reading, and what was asked."""

    stored: StoredPrediction
    reading: Reading
    asked: Asked


def is_reader(role: str) -> bool:
    """Whether a person may stand behind that role; False for a model's name or version."""
    return not _MODEL.fullmatch(role.strip())


def is_adjudicator(role: str) -> bool:
    """Whether that role has the last word."""
    return role.startswith(ADJUDICATOR)


def read(reviews: Iterable[ReviewRecord], asked: Asked = NEVER) -> Reading | None:
    """The reviews of one cell → what they say together; None when no reader is among them.

    The newest adjudication holds, also over readings that came later. Otherwise as many readers as were asked for, and
    at least all who answered, must say the same.
    """
    last: dict[str, ReviewRecord] = {}
    sampled = False
    for review in sorted(reviews, key=lambda review: (review.time, review.review_id)):
        if is_reader(review.role):
            last[review.role] = review
            sampled |= review.sampled
    readers = tuple(sorted(last.values(), key=lambda review: (review.time, review.review_id)))
    if not readers:
        return None
    adjudications = [review for review in readers if is_adjudicator(review.role)]
    how: How
    if adjudications:
        return Reading("adjudicated", adjudications[-1], readers, sampled)
    if len({review.label for review in readers}) > 1:
        how = "disagreed"
    elif len(readers) < asked.readers:
        how = "waiting"
    else:
        how = "single" if len(readers) == 1 else "agreed"
    return Reading(how, readers[-1], readers, sampled)


def asked_for(rows: Sequence[Row]) -> dict[str, Asked]:
    """{record id: why and by how many it was to be read}, from all rows of the ledger, or those of kind EXPORTED."""
    found: dict[str, Asked] = {}
    for row in rows:
        if row.kind != EXPORTED:
            continue
        for reason, records in row.body["cells"].items():
            for record in records:
                known = found.get(record, NEVER)
                reasons = known.reasons if reason in known.reasons else (*known.reasons, reason)
                found[record] = Asked(reasons, max(known.readers, int(row.body["readers"])))
    return found


def readings(store: Store, asked: Mapping[str, Asked], *, with_pixels: bool | None = None) -> list[Read]:
    """Every answer that a reader labelled, in order of arrival; test traffic and disputed answers left out.

    `with_pixels` as in `Store.reviewed`. Raises StoreUnavailable.
    """
    found = []
    for stored, reviews in store.readings(with_pixels=with_pixels):
        reading = read(reviews, asked.get(stored.record.record_id, NEVER))
        if reading is not None:
            found.append((stored, reading))
    return found


def pictures(store: Store, asked: Mapping[str, Asked]) -> list[Picture]:
    """What readers said of each picture whose pixels were kept, ordered by `pixels_sha256`.

    Readers may have met the same pixels under several records: their reviews count together. Ordered by picture and not
    by arrival, so that the same reviews give the same from any store. Raises StoreUnavailable.
    """
    answers: dict[str, dict[str, StoredPrediction]] = {}
    reviews: dict[str, list[ReviewRecord]] = {}
    for stored, said in store.readings(with_pixels=True):
        name = stored.record.pixels_sha256
        answers.setdefault(name, {})[stored.record.record_id] = stored
        reviews.setdefault(name, []).extend(said)
    found = []
    for name in sorted(answers):
        together = _together([asked.get(record, NEVER) for record in answers[name]])
        reading = read(reviews[name], together)
        if reading is not None:
            found.append(Picture(answers[name][reading.decisive.record_id], reading, together))
    return found


def _together(asked: Sequence[Asked]) -> Asked:
    reasons = dict.fromkeys(reason for one in asked for reason in one.reasons)
    return Asked(tuple(reasons), max(one.readers for one in asked))
