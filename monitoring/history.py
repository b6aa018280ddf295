"""What was judged and decided, in tables of the store's database, so that a restart neither judges twice nor forgets.

A window, its findings, the decision on it and what the policy remembers are written in one transaction. The cells of an
open window are not kept here: they are in the store, after the last judged window's `last_seq`.
"""

import json
import time
from dataclasses import replace

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    func,
    insert,
    select,
    update,
)

from monitoring.findings import Finding
from monitoring.policy import Decision, PolicyState
from monitoring.verdict import JudgedWindow, PastDecision
from service.contract.database import Database

_metadata = MetaData()
_windows = Table(
    "monitoring_windows",
    _metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("window_id", String(32), nullable=False, unique=True),
    Column("model_version", String(32), nullable=False, index=True),
    Column("first_seq", Integer, nullable=False),
    Column("last_seq", Integer, nullable=False),
    Column("opened", Float, nullable=False),
    Column("closed", Float, nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("cells", Integer, nullable=False),
    Column("patients", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("findings", Text, nullable=False),
    Column("judged", Float, nullable=False),
    sqlite_autoincrement=True,
)
_decisions = Table(
    "monitoring_decisions",
    _metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("time", Float, nullable=False),
    Column("window_id", String(32)),
    Column("model_version", String(32), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("why", Text, nullable=False),
    Column("causes", Text, nullable=False),
    Column("blocked_by", String(16)),
    sqlite_autoincrement=True,
)
_memory = Table(
    "monitoring_memory",
    _metadata,
    Column("name", String(16), primary_key=True),
    Column("saved", Float, nullable=False),
    Column("body", Text, nullable=False),
)
_POLICY = "policy"


class History:
    """Windows, decisions and the policy's memory. Every method raises StoreUnavailable when they cannot be reached."""

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        """Open it, making the tables where they are missing."""
        self._database = Database(url, _metadata, timeout_s=timeout_s)

    def close(self) -> None:
        """Let go of idle connections."""
        self._database.close()

    def cursor(self, model_version: str) -> int:
        """The number of the last record in a judged window of that model; 0 when there is none."""
        query = select(func.max(_windows.c.last_seq)).where(_windows.c.model_version == model_version)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar() or 0)

    def windows(self, model_version: str | None = None, *, last: int | None = None) -> list[JudgedWindow]:
        """Judged windows in order, of one model or all; with `last` only that many of the newest."""
        query = select(_windows).order_by(_windows.c.number.desc()).limit(last)
        if model_version is not None:
            query = query.where(_windows.c.model_version == model_version)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [_window(row) for row in reversed(rows)]

    def counts(self) -> dict[str, int]:
        """{state: how many windows of all models}."""
        query = select(_windows.c.state, func.count()).group_by(_windows.c.state)
        with self._database.read() as connection:
            return {str(state): int(number) for state, number in connection.execute(query)}

    def decisions(self, *, last: int | None = None) -> list[PastDecision]:
        """Decisions in order; with `last` only that many of the newest."""
        query = select(_decisions).order_by(_decisions.c.number.desc()).limit(last)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [_decision(row) for row in reversed(rows)]

    def memory(self) -> tuple[PolicyState, float]:
        """What the policy remembers, and as of when; an empty state and 0 at first."""
        with self._database.read() as connection:
            return _memory_of(connection)

    def record(self, window: JudgedWindow, decision: Decision, memory: PolicyState, now: float) -> bool:
        """Keep a window, the decision on it and the memory after it, all or nothing.

        False, and nothing kept, when that window is on record already.
        """
        with self._database.write() as connection:
            taken = select(_windows.c.number).where(
                _windows.c.model_version == window.model_version, _windows.c.last_seq >= window.first_seq
            )
            if connection.execute(taken.limit(1)).first() is not None:
                return False
            values = {
                column.name: getattr(window, column.name)
                for column in _windows.c
                if column.name not in ("number", "findings", "judged")
            }
            findings = json.dumps([finding.to_json() for finding in window.findings], allow_nan=False)
            connection.execute(insert(_windows).values(**values, findings=findings, judged=now))
            _insert_decision(connection, decision, window.window_id, now)
            _remember(connection, memory, now)
            return True

    def decide(self, decision: Decision, memory: PolicyState, now: float | None = None) -> None:
        """Keep a decision between windows (unless the last one said the same) and the memory after it."""
        now = time.time() if now is None else now
        with self._database.write() as connection:
            last = (
                connection.execute(select(_decisions).order_by(_decisions.c.number.desc()).limit(1)).mappings().first()
            )
            if last is None or not _decision(last).same_as(decision):
                _insert_decision(connection, decision, None, now)
            _remember(connection, memory, now)


def _insert_decision(connection: Connection, decision: Decision, window: str | None, now: float) -> None:
    connection.execute(
        insert(_decisions).values(
            time=now,
            window_id=window,
            model_version=decision.state.model_version,
            kind=decision.kind,
            why=decision.why,
            causes=json.dumps(list(decision.causes)),
            blocked_by=decision.blocked_by,
        )
    )


def _memory_of(connection: Connection) -> tuple[PolicyState, float]:
    row = connection.execute(select(_memory).where(_memory.c.name == _POLICY)).mappings().first()
    if row is None:
        return PolicyState(), 0.0
    return PolicyState.from_json(json.loads(row["body"])), float(row["saved"])


def _remember(connection: Connection, memory: PolicyState, now: float) -> None:
    """Runs, breaker and freeze are left out: the ledger has them."""
    kept = replace(memory, runs=(), breaker_closed_at=None, frozen=False)
    values = {"saved": now, "body": json.dumps(kept.to_json(), sort_keys=True)}
    changed = connection.execute(update(_memory).where(_memory.c.name == _POLICY).values(**values))
    if not changed.rowcount:
        connection.execute(insert(_memory).values(name=_POLICY, **values))


def _window(row: RowMapping) -> JudgedWindow:
    findings = tuple(Finding.from_json(values) for values in json.loads(row["findings"]))
    values = {name: row[name] for name in JudgedWindow.__dataclass_fields__ if name != "findings"}
    return JudgedWindow(**values, findings=findings)


def _decision(row: RowMapping) -> PastDecision:
    values = {name: row[name] for name in PastDecision.__dataclass_fields__ if name != "causes"}
    return PastDecision(**values, causes=tuple(json.loads(row["causes"])))
