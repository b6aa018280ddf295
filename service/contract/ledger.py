"""The ledger: what happened to models, append-only, each row hashed over its content and the row before.

The model in production is what the ledger says it is. A rollback is one more row, and a version that was rolled back
needs a new approval before it can be promoted again. No patient data ever goes in.
"""

import contextlib
import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from service.contract.artifact import canonical_json
from service.contract.errors import ConfigError, Conflict, LedgerError, NotFound, run_command
from service.contract.records import utc_now
from service.contract.schema import ledger as _ledger
from service.contract.schema import open_database, refuse_replaced

KINDS = (
    "registered",
    "gate_passed",
    "gate_refused",
    "approved",
    "promoted",
    "rolled_back",
    "decision",
    "trigger_fired",
    "retraining_started",
    "retraining_finished",
    "retraining_failed",
    "frozen",
    "resumed",
    "recalibration_advised",
    "alert_answered",
    "expired",
    "purged",
    "refer_all_on",
    "refer_all_off",
    "canary_started",
    "canary_ended",
    "shadow_started",
    "shadow_ended",
    "worklist_exported",
    "reviews_imported",
)
GENESIS = "0" * 64
FENCE = "BLASTWATCH_RETRAINING_FENCE"
"""The environment variable in which a retraining's stages get the number of its lease (service/contract/lease.py)."""


@dataclass(frozen=True)
class Row:
    """One row; `hash` covers all the rest, `prev_hash` is the hash of the row before (64 zeros for the first)."""

    seq: int
    time: str
    kind: str
    body: dict[str, Any]
    prev_hash: str
    hash: str

    @property
    def version(self) -> str:
        """The model it is about, or ""."""
        return str(self.body.get("version", ""))


class Ledger:
    """The ledger in a site's database. Every method raises StoreUnavailable when that cannot be reached."""

    def __init__(self, url: str, *, create: bool = True, timeout_s: float = 5.0) -> None:
        """Open it, making the tables where there are none; with `create=False` a SQLite file must be there.

        Raises ConfigError for tables of another release, see schema.open_database.
        """
        self._database = open_database(url, create=create, timeout_s=timeout_s)
        self._fence: int | None = None

    def fenced(self, fence: int | None) -> Self:
        """This ledger for whoever holds the lease of that number: each write raises Conflict once it was taken over."""
        other = copy.copy(self)
        other._fence = fence
        return other

    def close(self) -> None:
        """Let go of idle connections."""
        self._database.close()

    def append(self, kind: str, **body: Any) -> Row:
        """Add a row; appends of all processes come one after another.

        Raises ValueError for an unknown kind or a body that is not plain, finite JSON.
        """
        with self._write() as connection:
            return append_in(connection, kind, body)

    def rows(self, *kinds: str) -> list[Row]:
        """All rows, or those of some kinds, oldest first. Raises LedgerError when a row cannot be read."""
        with self._database.read() as connection:
            return _rows(connection, *kinds)

    def head(self) -> str:
        """The last row's hash (64 zeros when there is none). Noted elsewhere, it lets `verify` see a cut tail."""
        with self._database.read() as connection:
            return _last(connection)[1]

    def production(self) -> str | None:
        """The version in production."""
        with self._database.read() as connection:
            return _production(connection)

    def went_back(self) -> bool:
        """Whether production is what it is because of a rollback."""
        with self._database.read() as connection:
            rows = _rows(connection, "promoted", "rolled_back")
        return bool(rows) and rows[-1].kind == "rolled_back"

    def is_registered(self, version: str) -> bool:
        """Whether a `registered` row names the version."""
        with self._database.read() as connection:
            return _is_registered(connection, version)

    def is_approved(self, version: str) -> bool:
        """Whether the version has an approval that is newer than its last rollback."""
        with self._database.read() as connection:
            approved, rolled_back = _approval(connection, version)
        return approved > rolled_back

    def needs_approval(self, version: str) -> bool:
        """Whether the version was rolled back and not approved since, whatever the change plan says."""
        with self._database.read() as connection:
            return _needs_approval(connection, version)

    def approve(self, version: str, by: str) -> Row:
        """Note that `by` (a role) approves the version. Raises NotFound for one that was never registered."""
        if not by.strip():
            raise LedgerError("say who approves: --by ROLE")
        with self._write() as connection:
            if not _is_registered(connection, version):
                raise NotFound(f"no model {version} is registered: see `python -m service.contract.ledger show`")
            return append_in(connection, "approved", {"version": version, "by": by.strip()})

    def promote(self, version: str, expected: str | None, **why: Any) -> Row | None:
        """Put the version in production if production still is `expected`, in one transaction.

        Returns None, without a row, when it already is in production. Raises Conflict when production is another
        version than `expected`, LedgerError when the version was rolled back and not approved since.
        """
        with self._write() as connection:
            production = _production(connection)
            if production == version:
                return None
            if production != expected:
                raise Conflict(
                    f"production is {production or 'empty'}, not {expected or 'empty'} as the candidate was compared "
                    "with: run `dvc repro` again"
                )
            if _needs_approval(connection, version):
                raise LedgerError(
                    f"model {version} was rolled back: approve it again with "
                    f"`python -m service.contract.ledger approve {version} --by ROLE`"
                )
            return append_in(connection, "promoted", {**why, "version": version, "replaced": production})

    def rollback(self, to: str | None = None, *, by: str) -> Row:
        """Take the version in production back, to the one before it or to `to`, which must have been in production.

        Raises LedgerError when there is nothing to go back to, or when `to` was itself rolled back and not approved
        since.
        """
        if not by.strip():
            raise LedgerError("say who rolls back: --by ROLE")
        with self._write() as connection:
            history = _history(connection)
            if not history:
                raise LedgerError("no model is in production: there is nothing to roll back")
            current = history[-1]
            earlier = [v for v in history[:-1] if v != current and not _needs_approval(connection, v)]
            if to is None and not earlier:
                raise LedgerError(f"model {current} has no earlier one to go back to: name one, or promote another")
            if to is not None and to not in earlier:
                raise LedgerError(
                    f"cannot go back to {to}: it was not in production before {current}, or was rolled back"
                )
            return append_in(connection, "rolled_back", {"version": current, "to": to or earlier[-1], "by": by.strip()})

    def frozen(self) -> bool:
        """Whether triggers are stopped: the last of `frozen` and `resumed` is `frozen`."""
        with self._database.read() as connection:
            rows = _rows(connection, "frozen", "resumed")
        return bool(rows) and rows[-1].kind == "frozen"

    def verify(self, head: str | None = None) -> None:
        """Recompute the whole chain, and find `head` (a hash noted earlier) in it. Raises LedgerError."""
        with self._database.read() as connection:
            records = connection.execute(select(_ledger).order_by(_ledger.c.seq)).mappings().all()
        previous, seen = GENESIS, {GENESIS}
        for number, record in enumerate(records, start=1):
            if record["seq"] != number:
                raise LedgerError(f"the ledger is broken: row {number} is missing")
            if record["prev_hash"] != previous:
                raise LedgerError(f"the ledger is broken: row {number} does not follow the row before it")
            previous = _hash(record["seq"], record["time"], record["kind"], record["body"], record["prev_hash"])
            if record["hash"] != previous:
                raise LedgerError(f"the ledger is broken: row {number} was changed")
            seen.add(previous)
        if head is not None and head not in seen:
            raise LedgerError(f"the ledger was cut or replaced: it has no row with the hash {head}")

    @contextlib.contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._database.write() as connection:
            if self._fence is not None:
                refuse_replaced(connection, self._fence)
            yield connection


def fence_of(environ: Mapping[str, str]) -> int | None:
    """The lease's number that a retraining handed down; None outside of one. Raises ConfigError."""
    said = environ.get(FENCE)
    if said and not said.isdecimal():
        raise ConfigError(f"{FENCE} = {said!r} is no number: unset it, a retraining sets it for its own stages")
    return int(said) if said else None


def _hash(seq: int, time: str, kind: str, body: str, prev_hash: str) -> str:
    return hashlib.sha256(json.dumps([seq, time, kind, body, prev_hash]).encode()).hexdigest()


def append_in(connection: Connection, kind: str, body: dict[str, Any]) -> Row:
    """Add a row within a writing transaction, see `Ledger.append`: it is there only if that is committed."""
    if kind not in KINDS:
        raise ValueError(f"the ledger has no rows of kind {kind!r}")
    last, previous = _last(connection)
    seq, time, content = last + 1, utc_now(), canonical_json(body)
    digest = _hash(seq, time, kind, content, previous)
    values = {"seq": seq, "time": time, "kind": kind, "body": content, "prev_hash": previous, "hash": digest}
    try:
        connection.execute(insert(_ledger).values(values))
    except IntegrityError as error:
        raise Conflict("another process appended to the ledger at the same time: try again") from error
    return Row(seq, time, kind, json.loads(content), previous, digest)


def _last(connection: Connection) -> tuple[int, str]:
    query = select(_ledger.c.seq, _ledger.c.hash).order_by(_ledger.c.seq.desc()).limit(1)
    row = connection.execute(query).first()
    return (int(row[0]), str(row[1])) if row else (0, GENESIS)


def _rows(connection: Connection, *kinds: str) -> list[Row]:
    query = select(_ledger).order_by(_ledger.c.seq)
    if kinds:
        query = query.where(_ledger.c.kind.in_(kinds))
    try:
        return [
            Row(r["seq"], r["time"], r["kind"], json.loads(r["body"]), r["prev_hash"], r["hash"])
            for r in connection.execute(query).mappings()
        ]
    except ValueError as error:
        raise LedgerError("the ledger is broken: a row cannot be read, run its `verify`") from error


def _history(connection: Connection) -> list[str]:
    """Versions in production, oldest first, without those that a rollback undid; the last one is in production now."""
    history: list[str] = []
    for row in _rows(connection, "promoted", "rolled_back"):
        if row.kind == "promoted":
            history.append(row.version)
        else:
            to = str(row.body["to"])
            while history and history[-1] != to:
                history.pop()
            if not history:
                history.append(to)
    return history


def _production(connection: Connection) -> str | None:
    history = _history(connection)
    return history[-1] if history else None


def _is_registered(connection: Connection, version: str) -> bool:
    return any(row.version == version for row in _rows(connection, "registered"))


def _approval(connection: Connection, version: str) -> tuple[int, int]:
    """Numbers of the version's last approval and last rollback; 0 for never."""
    last = {"approved": 0, "rolled_back": 0}
    for row in _rows(connection, *last):
        if row.version == version:
            last[row.kind] = row.seq
    return last["approved"], last["rolled_back"]


def _needs_approval(connection: Connection, version: str) -> bool:
    approved, rolled_back = _approval(connection, version)
    return rolled_back > approved


if __name__ == "__main__":
    from service.contract.ledger_command import main

    run_command(main)
