"""A filled work list → reviews, all of it or nothing, with a row of the ledger in the same transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from monitoring.choosing import DISAGREEMENT, RANDOM
from monitoring.worklist_files import Filled
from service.contract.errors import ConfigError
from service.contract.ledger import Row
from service.contract.reading import ADJUDICATOR, IMPORTED, is_adjudicator, is_reader
from service.contract.records import ReviewRecord, review_id
from service.contract.store import Store

CLIENT: Final = "worklist"
MAX_ROLE: Final = 64


class BadRows(ConfigError):
    """Rows of a filled list make no sense; `problems` has one line for each."""

    def __init__(self, problems: Sequence[str], rows: int) -> None:
        super().__init__(
            f"{len(problems)} of {rows} rows are wrong, so none was taken over: correct them, import again"
        )
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Taken:
    """How many rows became reviews, were on record already, and had no label."""

    new: int
    known: int
    unread: int


def take(store: Store, exported: Sequence[Row], rows: Sequence[Filled], reader: str, time: str, digest: str) -> Taken:
    """Put what `reader` wrote on record, at `time`; what was said before and is said again is not on record twice.

    exported: the ledger's rows of kind EXPORTED; digest: SHA-256 of the file, for the ledger. Raises BadRows,
    ConfigError for a reader who is none for this list, StoreUnavailable; nothing is on record then.
    """
    check_reader(reader)
    lists = {str(row.body["list"]): row.body for row in exported}
    names = {row.list_id for row in rows}
    if len(names) != 1 or not names <= lists.keys():
        raise ConfigError("the rows are not of one work list that this store knows: give the filled table of one list")
    (name,) = names
    reasons = {record: reason for reason, records in lists[name]["cells"].items() for record in records}
    deciding = DISAGREEMENT in reasons.values()
    if deciding != is_adjudicator(reader):
        raise ConfigError(
            f"list {name} {'is' if deciding else 'is not'} an adjudicator's: lists of `worklist adjudicate`, and only "
            f"these, are for a --reader that starts with {ADJUDICATOR!r}"
        )
    drawn = {record for row in exported for record in row.body["cells"].get(RANDOM, ())}
    before = _last_words(store, reader)
    reviews: dict[str, ReviewRecord] = {}
    problems: list[str] = []
    said: dict[str, str] = {}
    for row in rows:
        if not row.label:
            continue
        if problem := _problem(store, row, reasons, said):
            problems.append(f"line {row.line}: {problem}")
            continue
        said[row.record_id] = row.label
        sampled = row.record_id in drawn
        if before.get(row.record_id) != (row.label, sampled):
            reviews[row.record_id] = ReviewRecord(
                review_id=review_id(row.record_id, reader, row.label, time),
                record_id=row.record_id,
                label=row.label,
                role=reader,
                time=time,
                client=CLIENT,
                sampled=sampled,
            )
    if problems:
        raise BadRows(problems, len(rows))
    unread = sum(not row.label for row in rows)
    body = {"list": name, "reader": reader, "reviews": len(reviews), "unread": unread, "file_sha256": digest}
    if reviews:
        store.insert_reviews(reviews.values(), note=(IMPORTED, body))
    return Taken(len(reviews), len(said) - len(reviews), unread)


def check_reader(reader: str) -> None:
    """Raises ConfigError for what is no role of a person."""
    if not reader.strip() or reader != reader.strip() or len(reader) > MAX_ROLE or not reader.isprintable():
        raise ConfigError(f"--reader takes a role or an id of one line, at most {MAX_ROLE} characters: haematologist-1")
    if not is_reader(reader):
        raise ConfigError(f"--reader {reader}: a model is no reader, its answers never become labels")


def _problem(store: Store, row: Filled, reasons: dict[str, str], said: dict[str, str]) -> str:
    if row.record_id not in reasons:
        return f"record {row.record_id!r} is not on this list"
    if said.get(row.record_id, row.label) != row.label:
        return f"record {row.record_id} has the label {said[row.record_id]!r} in an earlier line"
    stored = store.get(row.record_id)
    if stored is None:
        return f"record {row.record_id} is no longer in the store: leave its label empty"
    if stored.disputed:
        return f"record {row.record_id} came into dispute and counts for nothing: leave its label empty"
    if row.label not in stored.record.probabilities:
        return f"label {row.label!r} is none of {', '.join(stored.record.probabilities)}"
    return ""


def _last_words(store: Store, reader: str) -> dict[str, tuple[str, bool]]:
    """{record id: label and whether it was drawn} of that reader's newest reviews."""
    return {
        item.record.record_id: (theirs[-1].label, theirs[-1].sampled)
        for item, reviews in store.readings()
        if (theirs := [review for review in reviews if review.role == reader])
    }
