"""The record store: every answer, every review, and which worker serves which model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import RowMapping, Select, exists, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from service.contract.cells import Cells, cells_of_rows, cells_query, packed
from service.contract.ledger import append_in
from service.contract.records import PredictionRecord, ReviewRecord, dump_json, parse_json
from service.contract.schema import heartbeats as _heartbeats
from service.contract.schema import open_database
from service.contract.schema import predictions as _predictions
from service.contract.schema import reviews as _reviews

_CHUNK = 500  # values in one IN (…): servers bound them
_MADE = {"seq", "disputed", "body", "embedding", "figures", "reasons"}  # not fields of a record
_COLUMNS = tuple(column.name for column in _predictions.c if column.name not in _MADE)
_RECORD = [column for column in _predictions.c if column.name in ("seq", "disputed", "body", "embedding")]


@dataclass(frozen=True)
class StoredPrediction:
    """A stored record: `seq` grows with arrival; `disputed` when its request id came with other pixels too."""

    seq: int
    record: PredictionRecord
    disputed: bool


class Store:
    """The one database of a site. Every method raises StoreUnavailable when it cannot be reached or stays locked."""

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        """Open `url` (SQLAlchemy's form), making the tables, and SQLite's folder, where there are none.

        Raises ConfigError for tables of another release, see schema.open_database.
        """
        self._database = open_database(url, timeout_s=timeout_s)
        self._insert = postgresql.insert if self._database.dialect == "postgresql" else sqlite.insert

    def close(self) -> None:
        """Let go of idle connections."""
        self._database.close()

    def insert_predictions(self, records: Iterable[PredictionRecord]) -> int:
        """Keep records, each once by its id, and say how many were new.

        Records of one client and request id with different pixels are all marked disputed.
        """
        unique = {record.record_id: record for record in records}
        with self._database.write() as connection:
            known: set[str] = set()
            for ids in _chunks(list(unique)):
                found = select(_predictions.c.record_id).where(_predictions.c.record_id.in_(ids))
                known.update(connection.execute(found).scalars())
            new = [record for record in unique.values() if record.record_id not in known]
            if not new:
                return 0
            statement = self._insert(_predictions).on_conflict_do_nothing(index_elements=["record_id"])
            connection.execute(statement, [_row(record) for record in new])
            for request_ids in _chunks(sorted({record.request_id for record in new})):
                connection.execute(_mark_disputed(request_ids))
            return len(new)

    def insert_reviews(self, reviews: Iterable[ReviewRecord], *, note: tuple[str, dict[str, Any]] | None = None) -> int:
        """Keep reviews, each once by its id, and say how many were new. Their records may arrive later.

        `note`: kind and body of a row that the ledger gets in the same transaction.
        """
        unique = {review.review_id: review for review in reviews}
        with self._database.write() as connection:
            known: set[str] = set()
            for ids in _chunks(list(unique)):
                found = select(_reviews.c.review_id).where(_reviews.c.review_id.in_(ids))
                known.update(connection.execute(found).scalars())
            new = [review for review in unique.values() if review.review_id not in known]
            if new:
                statement = self._insert(_reviews).on_conflict_do_nothing(index_elements=["review_id"])
                connection.execute(
                    statement,
                    [
                        {"review_id": r.review_id, "record_id": r.record_id, "time": r.time, "body": r.to_json()}
                        for r in new
                    ],
                )
            if note is not None:
                append_in(connection, *note)
            return len(new)

    def get(self, record_id: str) -> StoredPrediction | None:
        """The record of that id, if it is here."""
        found = self._read(select(*_RECORD).where(_predictions.c.record_id == record_id))
        return found[0] if found else None

    def by_request(self, client: str, request_id: str) -> list[StoredPrediction]:
        """What is on record for a client's request id, in order of arrival."""
        return self._read(
            select(*_RECORD)
            .where(_predictions.c.client == client, _predictions.c.request_id == request_id)
            .order_by(_predictions.c.seq)
        )

    def predictions(
        self,
        *,
        after_seq: int = 0,
        model_version: str | None = None,
        limit: int | None = None,
        include_test: bool = False,
    ) -> list[StoredPrediction]:
        """Records in order of arrival, after a number, of one model or all, at most `limit`; test traffic if asked."""
        query = select(*_RECORD).where(_predictions.c.seq > after_seq).order_by(_predictions.c.seq).limit(limit)
        if model_version is not None:
            query = query.where(_predictions.c.model_version == model_version)
        if not include_test:
            query = query.where(_predictions.c.test.is_(False))
        return self._read(query)

    def cells(self, model_version: str, *, after_seq: int = 0, limit: int | None = None) -> Cells:
        """Answers of a model as columns, in order of arrival, without test traffic and disputed answers.

        Raises ValueError for answers that no one model can have given.
        """
        with self._database.read() as connection:
            return cells_of_rows(connection.execute(cells_query(model_version, after_seq, limit)).all())

    def reviewed(
        self, *, with_pixels: bool | None = None, include_test: bool = False
    ) -> list[tuple[StoredPrediction, ReviewRecord]]:
        """Records with the latest review of each, in order of arrival, the disputed ones left out.

        `with_pixels` keeps only those whose pixels were kept (or were not); None keeps both.
        """
        order = func.row_number().over(
            partition_by=_reviews.c.record_id, order_by=(_reviews.c.time.desc(), _reviews.c.seq.desc())
        )
        ranked = select(_reviews.c.record_id, _reviews.c.body.label("review"), order.label("rank")).subquery()
        query = (
            select(*_RECORD, ranked.c.review)
            .join(ranked, ranked.c.record_id == _predictions.c.record_id)
            .where(ranked.c.rank == 1, _predictions.c.disputed.is_(False))
            .order_by(_predictions.c.seq)
        )
        if not include_test:
            query = query.where(_predictions.c.test.is_(False))
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        pairs = [(_stored(row), ReviewRecord.from_json(row["review"])) for row in rows]
        return [pair for pair in pairs if with_pixels is None or pair[0].record.pixels_kept == with_pixels]

    def readings(self, *, with_pixels: bool | None = None) -> list[tuple[StoredPrediction, tuple[ReviewRecord, ...]]]:
        """Records with all reviews of each, oldest first, in order of arrival; without the disputed ones and tests.

        `with_pixels` as in `reviewed`.
        """
        query = (
            select(_predictions)
            .where(
                _predictions.c.record_id.in_(select(_reviews.c.record_id)),
                _predictions.c.disputed.is_(False),
                _predictions.c.test.is_(False),
            )
            .order_by(_predictions.c.seq)
        )
        said = select(_reviews.c.record_id, _reviews.c.body).order_by(_reviews.c.time, _reviews.c.seq)
        by_record: dict[str, list[ReviewRecord]] = {}
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
            for record_id, body in connection.execute(said):
                by_record.setdefault(record_id, []).append(ReviewRecord.from_json(body))
        found = [_stored(row) for row in rows]
        return [
            (item, tuple(by_record[item.record.record_id]))
            for item in found
            if with_pixels is None or item.record.pixels_kept == with_pixels
        ]

    def latest_seq(self) -> int:
        """The number of the last record to arrive; 0 when there is none."""
        with self._database.read() as connection:
            return int(connection.execute(select(func.max(_predictions.c.seq))).scalar() or 0)

    def count(self) -> int:
        """How many records there are, test traffic included."""
        with self._database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(_predictions)).scalar_one())

    def heartbeat(self, worker: str, version: str, at: float) -> None:
        """Note that a worker served `version` at `at` (seconds since the epoch)."""
        statement = self._insert(_heartbeats).values(worker=worker, version=version, at=at)
        with self._database.write() as connection:
            connection.execute(
                statement.on_conflict_do_update(index_elements=["worker"], set_={"version": version, "at": at})
            )

    def workers(self, since: float) -> dict[str, str]:
        """{worker: version it serves} of those heard of at or after `since` (seconds since the epoch)."""
        query = select(_heartbeats.c.worker, _heartbeats.c.version).where(_heartbeats.c.at >= since)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(_heartbeats.c.worker)).all()
        return {str(worker): str(version) for worker, version in rows}

    def _read(self, query: Select[Any]) -> list[StoredPrediction]:
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [_stored(row) for row in rows]


def _row(record: PredictionRecord) -> dict[str, Any]:
    values = record.to_dict()
    embedding = np.array(values.pop("embedding"), dtype="<f4").tobytes()
    made = {"disputed": False, "body": dump_json(values), "embedding": embedding}
    return {name: values[name] for name in _COLUMNS} | made | packed(record)


def _stored(row: RowMapping) -> StoredPrediction:
    embedding = np.frombuffer(row["embedding"], dtype="<f4").tolist()
    record = PredictionRecord.from_dict({**parse_json(row["body"]), "embedding": embedding})
    return StoredPrediction(int(row["seq"]), record, bool(row["disputed"]))


def _mark_disputed(request_ids: Sequence[str]) -> Any:
    other = _predictions.alias("other")
    contradicts = exists().where(
        other.c.request_id == _predictions.c.request_id,
        other.c.client == _predictions.c.client,
        other.c.pixels_sha256 != _predictions.c.pixels_sha256,
    )
    return update(_predictions).where(_predictions.c.request_id.in_(request_ids), contradicts).values(disputed=True)


def _chunks(values: list[str]) -> list[list[str]]:
    return [values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK)]
