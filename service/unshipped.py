"""What the workers of this host have on record and the store does not have yet, found by request.

A retry may meet another worker than the request did, or this one after a restart, in the moments before the shipper has
brought the record to the store, or in the hours of the store's outage. Each file is read once, as it grows; of each
entry only its request and its place are kept.
"""

import json
import logging
import os
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from service.contract.records import PredictionRecord
from service.frames import decode, placed
from service.journal import SUFFIX
from service.shipper import WORKER

logger = logging.getLogger(__name__)

Key = tuple[str, str]

# Inside a JSON text every quote is escaped, so that these can only be the fields themselves.
_FIELDS = {name: re.compile(rb'"%b":("(?:[^"\\]|\\.)*")' % name.encode()) for name in ("client", "request_id")}
_PREDICTION = b'["prediction",'


@dataclass
class _File:
    """How far a file was read, and where its answers lie."""

    read: int = 0
    keys: list[Key] = field(default_factory=list)


class Unshipped:
    """The journals below `root`. May be called from several threads."""

    def __init__(self, root: Path) -> None:
        self._root = Path(root)
        self._lock = threading.Lock()
        self._files: dict[Path, _File] = {}
        self._places: dict[Key, list[tuple[Path, int, int]]] = defaultdict(list)

    def find(self, client: str, request_id: str) -> list[PredictionRecord]:
        """The answers under a client's request id, in no order; a file that is shipped meanwhile is in the store."""
        with self._lock:
            self._follow()
            places = tuple(self._places.get((client, request_id), ()))
        return list(_records(places))

    def _follow(self) -> None:
        there = {}
        for path in _journals(self._root):
            try:
                there[path] = path.stat().st_size
            except OSError:
                continue  # shipped just now
        for path in self._files.keys() - there.keys():
            self._forget(path)
        for path, size in there.items():
            known = self._files.get(path)
            if known is not None and size < known.read:
                self._forget(path)  # cut back after a failure of the disk
                known = None
            if known is None or size > known.read:
                self._read(path, self._files.setdefault(path, _File()))

    def _read(self, path: Path, known: _File) -> None:
        try:
            with path.open("rb") as file:
                file.seek(known.read)
                data = file.read()
        except OSError:
            return
        start = known.read
        for offset, payload in placed(data):
            end = offset + len(payload)
            known.read = start + end
            key = _key(payload)
            if key is not None:
                known.keys.append(key)
                self._places[key].append((path, start + offset, len(payload)))

    def _forget(self, path: Path) -> None:
        for key in self._files.pop(path).keys:
            left = [place for place in self._places.get(key, ()) if place[0] != path]
            if left:
                self._places[key] = left
            else:
                self._places.pop(key, None)


def _journals(root: Path) -> Iterator[Path]:
    try:
        folders = [entry.path for entry in os.scandir(root) if WORKER.fullmatch(entry.name)]
    except FileNotFoundError:
        return
    for folder in folders:
        try:
            names = [entry.path for entry in os.scandir(folder) if entry.name.endswith(SUFFIX)]
        except OSError:
            continue
        yield from map(Path, names)


def _key(payload: bytes) -> Key | None:
    """The request of an answer, without parsing the whole of it; None for a review."""
    if not payload.startswith(_PREDICTION):
        return None
    found = [pattern.search(payload) for pattern in _FIELDS.values()]
    texts = [json.loads(match.group(1)) for match in found if match is not None]
    return (texts[0], texts[1]) if len(texts) == 2 else None


def _records(places: tuple[tuple[Path, int, int], ...]) -> Iterator[PredictionRecord]:
    for path, offset, length in places:
        try:
            with path.open("rb") as file:
                file.seek(offset)
                record = decode(file.read(length)).record
        except (OSError, ValueError):
            continue  # shipped just now, or of another release
        if isinstance(record, PredictionRecord):
            yield record
