"""Every call comes through here: who calls, whether that client may, and a row about it. No transports.

The visit under way is a context variable, so that what is deep inside a call can ask who its client is without every
function on the way passing it on.
"""

import logging
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from service.attempts import Attempts
from service.audit import Audit, AuditRow
from service.auth import LOCAL
from service.contract.errors import Forbidden, Unauthenticated
from service.contract.records import utc_now
from service.metrics import Metrics
from service.settings import Settings
from service.tokens import Entry, Role, by_certificate, by_token, read
from service.watched import Watched

log = logging.getLogger(__name__)

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


@dataclass
class Visit:
    """One call: who it is once the door has let it in, and what it is about once that is known."""

    transport: str
    method: str
    address: str
    client: str = ""
    request_id: str = ""
    silent: bool = field(default=False, repr=False)


_VISIT: ContextVar[Visit | None] = ContextVar("visit", default=None)


def client_now() -> str:
    """The client of the call under way; `local` outside a call."""
    visit = _VISIT.get()
    return visit.client if visit is not None and visit.client else LOCAL


def about(request_id: str) -> None:
    """Says which request the call under way is about, for its audit row."""
    visit = _VISIT.get()
    if visit is not None:
        visit.request_id = request_id


def part(method: str) -> Visit:
    """A visit of its own, by the same client, for one of several cells of the call under way; for the cell's task."""
    own = replace(_VISIT.get() or Visit("", method, ""), method=method, request_id="")
    _VISIT.set(own)
    return own


class Door:
    """Lets known clients in. Without a tokens file everyone is `local` and may do everything (on loopback)."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._metrics = metrics
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

    def leave(self, visit: Visit, code: str) -> None:
        """Puts the call on record with its outcome: an HTTP status, or the name of a gRPC one."""
        if not visit.silent:
            row = (utc_now(), visit.client, visit.address, visit.transport, visit.method, code, visit.request_id)
            self.audit.add(AuditRow(*row))

    def _failed(self, visit: Visit, reason: str) -> None:
        self._metrics.auth_failures.labels(visit.transport, reason).inc()
        level = logging.DEBUG if reason == "paused" else logging.WARNING
        log.log(level, "refused %s over %s from %s: %s", visit.method, visit.transport, visit.address, reason)


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
