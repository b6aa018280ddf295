"""How entries lie in a journal file, so that a torn or damaged one is never taken for whole.

    4 bytes  mark      b"bwJ1"
    4 bytes  length    of the payload, unsigned, little-endian
    8 bytes  checksum  BLAKE2b over length and payload
    n bytes  payload   ["prediction" | "review", {…}] as UTF-8 JSON

The mark lets a reader find the next whole entry behind a damaged one. It cannot be forged from inside a payload: JSON
text has no zero byte, and the length of every entry has one.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from service.contract.records import PredictionRecord, ReviewRecord, parse_json

MARK = b"bwJ1"
MAX_PAYLOAD = 2**20
_HEADER = struct.Struct("<4sI8s")


@dataclass(frozen=True)
class Entry:
    """What goes on record: an answer or a review."""

    record: PredictionRecord | ReviewRecord

    @classmethod
    def prediction(cls, record: PredictionRecord) -> "Entry":
        """An answer that is about to leave."""
        return cls(record)

    @classmethod
    def review(cls, review: ReviewRecord) -> "Entry":
        """A reader's label."""
        return cls(review)


@dataclass(frozen=True)
class Split:
    """A file's whole payloads in order; the bytes lost before and between them; those after the last (a torn end)."""

    payloads: tuple[bytes, ...]
    damaged: int
    torn: int


def encode(entry: Entry) -> bytes:
    """One frame. Raises ValueError for numbers that are not finite, broken text, or more than 1 MiB."""
    kind = "prediction" if isinstance(entry.record, PredictionRecord) else "review"
    payload = f'["{kind}",{entry.record.to_json()}]'.encode()
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"an entry of {len(payload)} bytes is more than {MAX_PAYLOAD}")
    return _HEADER.pack(MARK, len(payload), _checksum(payload)) + payload


def decode(payload: bytes) -> Entry:
    """The entry of a whole payload. Raises ValueError for a form that only another release knows."""
    try:
        kind, values = parse_json(payload)
        if kind == "prediction":
            return Entry(PredictionRecord.from_dict(values))
        if kind == "review":
            return Entry(ReviewRecord(**values))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"an entry of another form: {error}") from error
    raise ValueError(f"an entry of the unknown kind {kind!r}")


def split(data: bytes) -> Split:
    """Find every whole entry of a file's bytes, also behind damage."""
    payloads: list[bytes] = []
    damaged = end = position = 0
    while position < len(data):
        payload = _payload_at(data, position)
        if payload is None:
            position = data.find(MARK, position + 1)
            if position < 0:
                break
        else:
            damaged += position - end
            end = position = position + _HEADER.size + len(payload)
            payloads.append(payload)
    return Split(tuple(payloads), damaged, len(data) - end)


def placed(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Every whole entry's payload and where it begins; what is damaged or not whole yet is passed over."""
    position = 0
    while 0 <= position < len(data):
        payload = _payload_at(data, position)
        if payload is None:
            position = data.find(MARK, position + 1)
        else:
            yield position + _HEADER.size, payload
            position += _HEADER.size + len(payload)


def _payload_at(data: bytes, position: int) -> bytes | None:
    if len(data) - position < _HEADER.size:
        return None
    mark, length, checksum = _HEADER.unpack_from(data, position)
    start = position + _HEADER.size
    if mark != MARK or length > MAX_PAYLOAD or start + length > len(data):
        return None
    payload = data[start : start + length]
    return payload if _checksum(payload) == checksum else None


def _checksum(payload: bytes) -> bytes:
    return hashlib.blake2b(struct.pack("<I", len(payload)) + payload, digest_size=8).digest()
