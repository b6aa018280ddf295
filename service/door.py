"""Every call comes through here: who calls, whether that client may, and a row about it. No transports.

The visit under way is a context variable, so that what is deep inside a call can ask who its client is without every
function on the way passing it on.
"""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.attempts import Attempts
from service.audit import Audit, AuditRow
from service.auth import LOCAL
from service.contract.errors import BlastwatchError, Forbidden, Unauthenticated
from service.contract.records import utc_now
from service.metrics import Metrics
from service.settings import Settings
from service.tokens import Entry, Role, by_certificate, by_token, read
from service.watched import Watched

if TYPE_CHECKING:
    from service.tracing import Headers, Trace, Tracing

log = logging.getLogger(__name__)
access = logging.getLogger("service.access")
"""A line for each call, and for each cell of the methods that take many; silent unless `service.logs` opens it."""

MAX_TOKEN = 256
FAILURES_WINDOW_S = 60.0

ANYONE_KNOWN: frozenset[Role] = frozenset(Role)
INFER = frozenset({Role.INFER})
ROLES: dict[str, frozenset[Role]] = {
    "Classify": INFER,
    "ClassifyStream": INFER,
    "GetModel": INFER,
    "Review": frozenset({Role.REVIEW}),
    "ServerLive": INFER,
    "ServerReady": INFER,
    "ServerMetadata": INFER,
    "ModelReady": INFER,
    "ModelMetadata": INFER,
    "ModelInfer": INFER,
    "RepositoryIndex": INFER,
    "metrics": ANYONE_KNOWN,
    "openapi": ANYONE_KNOWN,
    "ServerReflectionInfo": ANYONE_KNOWN,
}
"""Method → roles of which one is needed, on every transport. A method that is not here needs `admin`."""
MANY = frozenset({"ModelInfer", "ClassifyStream"})
"""Methods that take many cells in one call; a cell of a stream is a visit of its own, see `part`."""
INTERNAL = "Internal"
"""What an error outside the tree counts as."""


@dataclass
class Visit:
    """One call: who it is once the door has let it in, and what it is about once that is known.

    route: the method as its transport names it, see `Tracing.begin`. started: a moment of time.monotonic().
    """

    transport: str
    method: str
    address: str
    route: str = ""
    client: str = ""
    request_id: str = ""
    record_id: str = ""
    cells: int = 0
    errors: Counter[str] = field(default_factory=Counter, repr=False)
    started: float = field(default_factory=time.monotonic, repr=False)
    trace: "Trace | None" = field(default=None, repr=False)
    silent: bool = field(default=False, repr=False)


_VISIT: ContextVar[Visit | None] = ContextVar("visit", default=None)
_CELL: ContextVar[tuple[str, str]] = ContextVar("cell", default=("", ""))
"""Request id and record id of the cell in work: a call may have many, each in a task of its own."""


def client_now() -> str:
    """The client of the call under way; `local` outside a call."""
    visit = _VISIT.get()
    return visit.client if visit is not None and visit.client else LOCAL


def about(request_id: str, record_id: str = "") -> None:
    """Says which request the call under way is about and, once it is answered, which record."""
    visit = _VISIT.get()
    if visit is None:
        return
    _CELL.set((request_id, record_id))
    visit.request_id, visit.record_id = request_id, record_id
    if record_id:
        visit.cells += 1
        if visit.method in MANY and access.isEnabledFor(logging.INFO):
            access.info("%s answered a cell", visit.method)


def called(request_id: str) -> None:
    """Says what the service calls a request that its client gave no name: for the log and the trace."""
    _CELL.set((request_id, ""))


def took(stage: str, seconds: float, *, ago_s: float = 0.0) -> None:
    """Says that a stage of the call under way has ended, `ago_s` seconds ago, and how long it took: for its trace."""
    visit = _VISIT.get()
    if visit is not None and visit.trace is not None:
        about_it = {"blastwatch.request_id": _CELL.get()[0]}
        visit.trace.stage(stage, seconds, time.monotonic() - ago_s, about_it)


def failed(error: Exception) -> None:
    """Says that the caller of the call under way is told of an error."""
    visit = _VISIT.get()
    if visit is not None:
        visit.errors[type(error).__name__ if isinstance(error, BlastwatchError) else INTERNAL] += 1


def known_now() -> dict[str, str]:
    """What a line in the log can say about the call under way; nothing outside a call."""
    visit = _VISIT.get()
    if visit is None:
        return {}
    request_id, record_id = _CELL.get()
    found = {"request_id": request_id, "record_id": record_id, "client": visit.client, "method": visit.method}
    if visit.trace is not None:
        found |= {"trace_id": visit.trace.trace_id, "span_id": visit.trace.span_id}
    return {name: value for name, value in found.items() if value}


def part(method: str) -> Visit:
    """A visit of its own, by the same client, for one of several cells of the call under way; for the cell's task."""
    whole = _VISIT.get() or Visit("", method, "")
    whole.cells += 1
    own = Visit(whole.transport, method, whole.address, client=whole.client, silent=whole.silent)
    if whole.trace is not None:
        own.trace = whole.trace.part(method, own.started)
    _VISIT.set(own)
    return own


class Door:
    """Lets known clients in. Without a tokens file everyone is `local` and may do everything (on loopback)."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._metrics = metrics
        self.tracing: Tracing | None = None
        path = settings.tokens_file
        self._entries: Watched[tuple[Entry, ...]] | None = None
        if path is not None:
            self._entries = Watched((path,), lambda: read(path), metrics.tokens_refused.inc)
        self._attempts = Attempts(
            limit=settings.auth_failures, window_s=FAILURES_WINDOW_S, pause_s=settings.auth_pause_s
        )
        self.audit = Audit(
            settings.audit_dir, retention_days=settings.audit_retention_days, on_loss=metrics.audit_lost.inc
        )

    def enter(self, visit: Visit, authorization: Sequence[str], certificate: Sequence[str] = ()) -> None:
        """Finds out who calls: by the `authorization` headers, else by the names of a verified certificate.

        Raises Unauthenticated and Forbidden, counted, and logged without what was presented.
        """
        _VISIT.set(visit)
        if self._entries is None:
            visit.client = LOCAL
            return
        pause = self._attempts.pause(visit.address)
        if pause > 0:
            visit.silent = True  # whoever knocks on and on would fill the disk with rows
            self._failed(visit, "paused")
            raise Unauthenticated(f"too many failed attempts from this address: try again in {pause:.0f} s")
        try:
            entry = _found(self._entries.get(), authorization, certificate)
        except Unauthenticated:
            self._attempts.failed(visit.address)
            self._failed(visit, "unknown" if authorization or certificate else "missing")
            raise
        visit.client = entry.client
        if Role.ADMIN not in entry.roles and not entry.roles & ROLES.get(visit.method, frozenset()):
            self._failed(visit, "role")
            raise Forbidden(f"{visit.client} has no role for {visit.method}: an operator can add one")

    def follow(self, visit: Visit, headers: "Headers") -> None:
        """Begins the trace of a call that was let in, where there are traces; the trace context is in `headers`."""
        if self.tracing is not None:
            visit.trace = self.tracing.begin(visit.transport, visit.route, visit.started, headers)

    @property
    def asks(self) -> bool:
        """Whether callers must say who they are."""
        return self._entries is not None

    def turned_away(self, visit: Visit, code: str, error: BlastwatchError) -> None:
        """Puts a call on record that was refused without a look: counted and audited, not logged or traced."""
        self._metrics.rejected.labels(visit.transport, type(error).__name__).inc()
        self._audit(visit, code)

    def leave(self, visit: Visit, code: str) -> None:
        """Puts the call on record with its outcome: an HTTP status, or the name of a gRPC one."""
        for reason, count in visit.errors.items():
            self._metrics.rejected.labels(visit.transport, reason).inc(count)
        if visit.trace is not None:
            visit.trace.end(visit.transport, code, _last(visit.errors), _attributes(visit))
        if not visit.silent:
            if access.isEnabledFor(logging.INFO):
                access.info("%s %s", visit.method, code, extra={"call": _summary(visit, code)})
            self._audit(visit, code)

    def _audit(self, visit: Visit, code: str) -> None:
        row = (utc_now(), visit.client, visit.address, visit.transport, visit.method, code, visit.request_id)
        self.audit.add(AuditRow(*row))

    def _failed(self, visit: Visit, reason: str) -> None:
        self._metrics.auth_failures.labels(visit.transport, reason).inc()
        level = logging.DEBUG if reason == "paused" else logging.WARNING
        log.log(level, "refused %s over %s from %s: %s", visit.method, visit.transport, visit.address, reason)


def _last(errors: Counter[str]) -> str:
    return next(reversed(errors), "")


def _attributes(visit: Visit) -> dict[str, str | int]:
    """What a trace says about a call when it is over; each stage names the request of its cell."""
    found: dict[str, str | int] = {"blastwatch.client": visit.client, "blastwatch.cells": visit.cells}
    if visit.method not in MANY and visit.request_id:
        found |= {"blastwatch.request_id": visit.request_id, "blastwatch.record_id": visit.record_id}
    return found


def _summary(visit: Visit, code: str) -> dict[str, str | int | float]:
    """What the line of a call says beside `known_now`."""
    found: dict[str, str | int | float] = {
        "transport": visit.transport,
        "status": code,
        "seconds": round(time.monotonic() - visit.started, 6),
    }
    if visit.errors:
        found["error"] = _last(visit.errors)
    if visit.method in MANY:
        found |= {"cells": visit.cells, "request_id": "", "record_id": ""}
    return found


def _found(entries: Sequence[Entry], authorization: Sequence[str], certificate: Sequence[str]) -> Entry:
    if authorization:
        kind, _, token = authorization[0].strip().partition(" ")
        token = token.strip()
        if len(authorization) > 1 or kind.lower() != "bearer" or not 0 < len(token) <= MAX_TOKEN:
            raise Unauthenticated("the authorization header must be one `Bearer TOKEN`")
        entry = by_token(entries, token)
        if entry is None:
            raise Unauthenticated("the token is not known: ask an operator for a new one")
        return entry
    if certificate:
        entry = by_certificate(entries, certificate)
        if entry is None:
            raise Unauthenticated("the certificate's name is not that of a client: ask an operator to add it")
        return entry
    raise Unauthenticated("who is calling? send a header `authorization: Bearer TOKEN`")
