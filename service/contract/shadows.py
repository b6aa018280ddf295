"""The answers of a shadow, in the store beside the records that they are about, and never anywhere else.

No patient is in a row but through its record: where that is not, or not any more, there is no row.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from service.contract.records import PredictionRecord
from service.contract.schema import open_database
from service.contract.schema import predictions as _predictions
from service.contract.schema import shadow_answers as _shadows


@dataclass(frozen=True)
class ShadowAnswer:
    """What a shadow says of a cell on record. compute_ms: for this cell alone; live cells are computed in batches."""

    record_id: str
    version: str
    time: str
    label: str
    probabilities: dict[str, float]
    malignant_probability: float
    refer: bool
    refer_reasons: tuple[str, ...]
    ood_score: float
    compute_ms: float


@dataclass(frozen=True)
class Pair:
    """Two answers to one cell."""

    live: PredictionRecord
    shadow: ShadowAnswer


class Shadows:
    """The shadows' answers of a site. Every method raises StoreUnavailable when the database cannot be reached."""

    def __init__(self, url: str) -> None:
        """Open it; see schema.open_database for what it raises. Made it is by the store, never here."""
        # Opened first in an outage, this would put a new and empty database where the real one is missing.
        self._database = open_database(url, create=False)
        self._insert = postgresql.insert if self._database.dialect == "postgresql" else sqlite.insert

    def close(self) -> None:
        """Let go of idle connections."""
        self._database.close()

    def insert(self, answers: Sequence[ShadowAnswer]) -> list[ShadowAnswer]:
        """Keep those whose record is in the store, each once, and give the others back."""
        if not answers:
            return []
        with self._database.write() as connection:
            ids = [answer.record_id for answer in answers]
            query = select(_predictions.c.record_id).where(_predictions.c.record_id.in_(ids))
            there = set(connection.execute(query).scalars())
            rows = [_row(answer) for answer in answers if answer.record_id in there]
            if rows:
                statement = self._insert(_shadows).on_conflict_do_nothing(index_elements=["record_id", "version"])
                connection.execute(statement, rows)
        return [answer for answer in answers if answer.record_id not in there]

    def pairs(self, version: str, *, since: str = "") -> list[Pair]:
        """Both answers to each cell that `version` saw at or after `since` (ISO 8601, UTC), in order of arrival.

        Disputed records are left out: it is not sure which picture either answer is about.
        """
        query = (
            select(_predictions.c.body.label("live"), _shadows)
            .join(_predictions, _predictions.c.record_id == _shadows.c.record_id)
            .where(_shadows.c.version == version, _shadows.c.time >= since, _predictions.c.disputed.is_(False))
            .order_by(_shadows.c.seq)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [
            Pair(
                PredictionRecord.from_dict({**json.loads(row["live"]), "embedding": []}),
                _answer(row["record_id"], row["version"], row["time"], json.loads(row["body"])),
            )
            for row in rows
        ]


def _row(answer: ShadowAnswer) -> dict[str, str]:
    body = asdict(answer)
    keys = {name: body.pop(name) for name in ("record_id", "version", "time")}
    return {**keys, "body": json.dumps(body, separators=(",", ":"), allow_nan=False)}


def _answer(record_id: str, version: str, time: str, body: dict[str, Any]) -> ShadowAnswer:
    return ShadowAnswer(
        record_id=record_id, version=version, time=time, **{**body, "refer_reasons": tuple(body["refer_reasons"])}
    )
