"""Answers as columns: what judging needs of many of them, without making an object of each.

A record's body is JSON, for whoever wants to know all about one answer. A window wants few numbers of many answers:
these are stored a second time, as bytes (`packed`), and read as they are. Rows of a release that did not pack them are
read from their body.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Row, Select, case, select

from service.contract.records import PredictionRecord
from service.contract.schema import predictions as _predictions
from service.contract.statistics import STATISTICS

Texts = npt.NDArray[np.object_]

_SEPARATOR = ","
_TEXTS = ("patient", "site", "stain", "scanner", "client", "label")


@dataclass(frozen=True, eq=False)
class Cells:
    """n answers in order of arrival; E embedding dimensions, C labels.

    seq            int64 [n]
    time           float64 [n], seconds since the epoch
    patient, site, stain, scanner, client, label   n strings; patient is a pseudonym, or ""
    refer          bool [n]
    reasons        n strings: the reasons to refer, with commas between them
    statistics     float64 [n, 5], in the order of STATISTICS
    probabilities  float64 [n, C], in the alphabetical order of the labels
    embedding      float32 [n, E]
    """

    seq: npt.NDArray[np.int64]
    time: npt.NDArray[np.float64]
    patient: Texts
    site: Texts
    stain: Texts
    scanner: Texts
    client: Texts
    label: Texts
    refer: npt.NDArray[np.bool_]
    reasons: Texts
    statistics: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64]
    embedding: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.seq)

    def part(self, start: int, stop: int) -> "Cells":
        """Cells start … stop − 1, not copied."""
        return Cells(**{name: getattr(self, name)[start:stop] for name in COLUMNS})


COLUMNS = tuple(item.name for item in fields(Cells))


def joined(parts: Sequence[Cells]) -> Cells:
    """One after the other. Raises ValueError for answers of different models."""
    return Cells(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS})


def packed(record: PredictionRecord) -> dict[str, Any]:
    """The columns `figures` and `reasons` of a record; no figures where its statistics are not those of this release.

    figures: float64 [5 + C], the statistics in the order of STATISTICS, then the probabilities by name of the label.
    """
    known = record.statistics.keys() == set(STATISTICS)
    return {
        "figures": _figures(record.statistics, record.probabilities) if known else None,
        "reasons": _SEPARATOR.join(record.refer_reasons),
    }


def cells_of_records(numbers: Sequence[int], records: Sequence[PredictionRecord]) -> Cells:
    """Records at hand, with their numbers, as columns. Raises ValueError for records that do not fit each other."""
    return _cells(
        (
            number,
            record.time,
            *(getattr(record, name) for name in _TEXTS),
            record.refer,
            _SEPARATOR.join(record.refer_reasons),
            _figures(record.statistics, record.probabilities),
            np.array(record.embedding, dtype="<f4").tobytes(),
            None,
        )
        for number, record in zip(numbers, records, strict=True)
    )


def cells_query(model_version: str, after_seq: int, limit: int | None) -> Select[Any]:
    """What `cells_of_rows` reads: answers of a model after a number, without test traffic and disputed answers."""
    table = _predictions.c
    return (
        select(
            table.seq,
            table.time,
            *(table[name] for name in _TEXTS),
            table.refer,
            table.reasons,
            table.figures,
            table.embedding,
            case((table.figures.is_(None), table.body)).label("body"),
        )
        .where(table.model_version == model_version, table.seq > after_seq)
        .where(table.test.is_(False), table.disputed.is_(False))
        .order_by(table.seq)
        .limit(limit)
    )


def cells_of_rows(rows: Sequence[Row[Any]]) -> Cells:
    """Rows of `cells_query` as columns. Raises ValueError for answers that do not fit each other."""
    return _cells(_unpacked(row) if row.body is not None else row for row in rows)


def _unpacked(row: Row[Any]) -> tuple[Any, ...]:
    body = json.loads(row.body)
    reasons = _SEPARATOR.join(body["refer_reasons"])
    figures = _figures(body["statistics"], body["probabilities"])
    return (*row[:-4], reasons, figures, row.embedding, None)


def _cells(rows: Iterable[Sequence[Any]]) -> Cells:
    columns = list(zip(*rows, strict=True)) or [()] * (2 + len(_TEXTS) + 5)
    seq, time, *texts, refer, reasons, figures, embedding, _ = columns
    same: dict[str, str] = {}
    numbers = _matrix(figures, "<f8", "statistics and probabilities")
    return Cells(
        seq=np.array(seq, dtype=np.int64),
        time=np.array([datetime.fromisoformat(at).timestamp() for at in time], dtype=np.float64),
        **{name: _texts(column, same) for name, column in zip(_TEXTS, texts, strict=True)},
        refer=np.array(refer, dtype=np.bool_),
        reasons=_texts(reasons, same),
        statistics=numbers[:, : len(STATISTICS)],
        probabilities=numbers[:, len(STATISTICS) :],
        embedding=_matrix(embedding, "<f4", "embedding"),
    )


def _texts(values: Sequence[str], same: dict[str, str]) -> Texts:
    """Equal strings as one object: of a million cells few have a site of their own."""
    column = np.empty(len(values), dtype=np.object_)
    column[:] = [same.setdefault(value, value) for value in values]
    return column


def _matrix(blobs: Sequence[bytes], kind: str, name: str) -> npt.NDArray[Any]:
    sizes = {len(blob) for blob in blobs}
    if len(sizes) > 1:
        raise ValueError(f"the answers of one model have a {name} of {len(sizes)} different sizes")
    width = max(sizes, default=0) // np.dtype(kind).itemsize
    return np.frombuffer(b"".join(blobs), dtype=kind).reshape(len(blobs), width)


def _figures(statistics: Mapping[str, float], probabilities: Mapping[str, float]) -> bytes:
    """Raises ValueError without one of STATISTICS."""
    if absent := [name for name in STATISTICS if name not in statistics]:
        raise ValueError(f"an answer without the statistics {', '.join(absent)}: another release made it")
    values = [statistics[name] for name in STATISTICS] + [probabilities[label] for label in sorted(probabilities)]
    return np.array(values, dtype="<f8").tobytes()
