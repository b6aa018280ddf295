"""What is kept of every answer and of every review. No patient identifier, only a pseudonym."""

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Self

from pydantic_core import from_json, to_json


def utc_now() -> str:
    """The time as ISO 8601 in UTC with microseconds: such strings sort like the moments they name."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def record_id(client: str, request_id: str, pixels_sha256: str, model_version: str) -> str:
    """The id of an answer, 32 hex characters: a retry of the same request is the same record while the model is."""
    return _id("record", client, request_id, pixels_sha256, model_version)


def review_id(record_id: str, role: str, label: str, time: str) -> str:
    """The id of a review, 32 hex characters."""
    return _id("review", record_id, role, label, time)


@dataclass(frozen=True)
class PredictionRecord:
    """One answer that left: what was asked, by whom, of which model, and what was said.

    `embedding` holds float32 values; `pixel_size_um` is 0 when unknown; `patient` is a pseudonym under `key_id`, or "";
    `latency_ms` is by stage.
    """

    record_id: str
    time: str
    request_id: str
    model_version: str
    runtime: str
    batch_size: int
    transport: str
    client: str
    test: bool
    site: str
    stain: str
    scanner: str
    pixel_size_um: float
    patient: str
    key_id: str
    specimen_id: str
    image_sha256: str
    pixels_sha256: str
    label: str
    probabilities: dict[str, float]
    malignant_probability: float
    refer: bool
    refer_reasons: tuple[str, ...]
    ood_score: float
    embedding: tuple[float, ...]
    statistics: dict[str, float]
    latency_ms: dict[str, float]
    pixels_kept: bool

    @property
    def key(self) -> tuple[str, str]:
        """(client, request id): what a client means by "the same request"."""
        return self.client, self.request_id

    def to_json(self) -> str:
        """One line of JSON. Raises ValueError for numbers that are not finite."""
        return dump_json(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, not copied: not to be changed."""
        return {name: getattr(self, name) for name in _names(type(self))}

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read `to_json` back. Raises ValueError for anything else."""
        return cls.from_dict(_parse(text))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """From the JSON object's members. Raises ValueError for missing or unknown ones."""
        _check_names(cls, values)
        values = values | {
            "refer_reasons": tuple(values["refer_reasons"]),
            "embedding": tuple(values["embedding"]),
        }
        return cls(**values)


@dataclass(frozen=True)
class ReviewRecord:
    """A reader's label for an answered cell; `sampled` when the cell was drawn at random to be read."""

    review_id: str
    record_id: str
    label: str
    role: str
    time: str
    client: str
    sampled: bool

    def to_json(self) -> str:
        """One line of JSON."""
        return dump_json(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read `to_json` back. Raises ValueError for anything else."""
        values = _parse(text)
        _check_names(cls, values)
        return cls(**values)


def _id(kind: str, *parts: str) -> str:
    # As a JSON array, so that no part can run into the next.
    return hashlib.sha256(json.dumps([kind, *parts]).encode()).hexdigest()[:32]


def dump_json(values: dict[str, Any]) -> str:
    """One line of JSON. Raises ValueError for numbers that are not finite, and broken text."""
    # Several times faster than `json`: this runs for every answer.
    text = to_json(values, inf_nan_mode="constants").decode()
    if "NaN" in text or "Infinity" in text:
        json.dumps(values, allow_nan=False)  # a number, or a word in somebody's text?
    return text


def parse_json(text: str | bytes) -> Any:
    """What `dump_json` wrote. Raises ValueError for anything that is not JSON."""
    return from_json(text)


def _parse(text: str | bytes) -> dict[str, Any]:
    values = parse_json(text)
    if not isinstance(values, dict):
        raise ValueError("a record is a JSON object")
    return values


def _check_names(cls: type[Any], values: dict[str, Any]) -> None:
    wanted = _names(cls)
    if values.keys() != set(wanted):
        raise ValueError(f"a {cls.__name__} without or with other fields: {sorted(set(wanted) ^ values.keys())}")


def _names(cls: type[Any]) -> tuple[str, ...]:
    return tuple(cls.__dataclass_fields__)
