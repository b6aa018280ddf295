"""What leaves the store for good: rows older than their retention, and a patient's. Each deletion is in the ledger.

The ledger's row is written in the transaction that deletes, so that neither is there without the other. It has counts,
and of a patient a hash of the pseudonym that only who has the pseudonym can make again.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.engine import Connection

from service.contract.ledger import append_in
from service.contract.pixels import PixelStore
from service.contract.schema import open_database, predictions, reviews, shadow_answers

CHUNK = 5000  # rows of one transaction: writers wait no longer than that takes

TABLES = {table.name: table for table in (predictions, reviews, shadow_answers)}


@dataclass(frozen=True)
class Erased:
    """What a patient had: how many rows and pictures are gone, and the ids of records that a reader had labelled.

    `shared_pixels` counts pictures that stay because a record of somebody else has the same ones.
    """

    predictions: int
    reviews: int
    pixels: int
    shared_pixels: int
    reviewed: tuple[str, ...]


class Erasure:
    """Deletes in a site's database. Every method raises StoreUnavailable when that cannot be reached."""

    def __init__(self, url: str) -> None:
        """Open it; see schema.open_database for what it raises."""
        self._database = open_database(url)

    def close(self) -> None:
        """Let go of idle connections."""
        self._database.close()

    def expire(self, table: str, days: int, *, now: datetime | None = None) -> int:
        """Delete the rows of one of TABLES that are older, CHUNK at a time, and say how many."""
        rows = TABLES[table]
        limit = ((now or datetime.now(UTC)) - timedelta(days=days)).isoformat(timespec="microseconds")
        total = 0
        while True:
            with self._database.write() as connection:
                old = select(rows.c.seq).where(rows.c.time < limit).order_by(rows.c.seq).limit(CHUNK)
                gone = connection.execute(delete(rows).where(rows.c.seq.in_(old))).rowcount
                if gone:
                    append_in(connection, "expired", {"table": table, "rows": gone, "before": limit, "days": days})
            total += gone
            if gone < CHUNK:
                return total

    def purge(self, patient: str, pixels: PixelStore) -> Erased:
        """Delete the rows and the pixels of a pseudonym. Raises ValueError for the empty one: that is no patient."""
        if not patient:
            raise ValueError("the empty pseudonym stands for cells without a patient")
        with self._database.write() as connection:
            theirs = select(predictions.c.record_id).where(predictions.c.patient == patient)
            reviewed = connection.execute(
                select(reviews.c.record_id).where(reviews.c.record_id.in_(theirs)).distinct()
            ).scalars()
            labelled = tuple(sorted(reviewed))
            names = set(
                connection.execute(
                    select(predictions.c.pixels_sha256).where(predictions.c.patient == patient).distinct()
                ).scalars()
            )
            shared = {name for name in names if _is_elses(connection, name, patient)}
            # Before the rows that name them: after a crash in between, a second purge finds what is left.
            removed = sum(pixels.remove(name) for name in sorted(names - shared))
            connection.execute(delete(shadow_answers).where(shadow_answers.c.record_id.in_(theirs)))
            gone = connection.execute(delete(reviews).where(reviews.c.record_id.in_(theirs))).rowcount
            count = connection.execute(delete(predictions).where(predictions.c.patient == patient)).rowcount
            found = Erased(count, gone, removed, len(names & shared), labelled)
            append_in(
                connection,
                "purged",
                {
                    "patient_hash": patient_hash(patient),
                    "predictions": found.predictions,
                    "reviews": found.reviews,
                    "pixels": found.pixels,
                },
            )
        return found


def patient_hash(patient: str) -> str:
    """What the ledger calls a purged pseudonym, 64 hex characters."""
    return hashlib.sha256(b"blastwatch purged\0" + patient.encode()).hexdigest()


def _is_elses(connection: Connection, pixels_sha256: str, patient: str) -> bool:
    query = (
        select(func.count())
        .select_from(predictions)
        .where(predictions.c.pixels_sha256 == pixels_sha256, predictions.c.patient != patient)
    )
    return bool(connection.execute(query).scalar_one())
