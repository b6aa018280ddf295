"""A lease: one holder at a time across processes and hosts, kept in the store, taken over when its holder dies.

A holder renews it before its deadline; one that is silent for longer may be replaced. Each taking has a number of its
own, the fence, larger than all before: a ledger that is given the fence refuses whoever was replaced, in the
transaction that would have written, so that a holder which was only slow, or cut off, changes nothing any more
(Kleppmann, "How to do distributed locking", 2016).

Deadlines are read off one clock, the database's: hosts may disagree about the time by any amount. On SQLite that is
the clock of the one host that has the file. A clock that steps forward may end a lease early, and the fence holds then
too; one that steps back makes a dead holder's lease last longer by as much.
"""

import contextlib
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Row, insert, select, text, update

from service.contract.errors import ConfigError, Conflict, StoreUnavailable
from service.contract.schema import RETRAINING, open_database
from service.contract.schema import leases as _leases

__all__ = ["OWNER", "RETRAINING", "Held", "Lease", "Leases", "place", "renewed", "seconds_of"]

SECONDS: Final = "BLASTWATCH_RETRAINING_LEASE_S"
OWNER: Final = "BLASTWATCH_RETRAINING_OWNER"
"""The place that took the lease, for whoever renews it on another host."""
DEFAULT_S: Final = 120.0
"""Longer than a database takes to fail over, short against the hours of a retraining."""

_PLACE = "place.id"
_RENEWALS = 4
_CLOCK = {
    "sqlite": text("SELECT (julianday('now') - 2440587.5) * 86400.0"),
    "postgresql": text("SELECT extract(epoch FROM clock_timestamp())"),
}


@dataclass(frozen=True)
class Lease:
    """A lease as it was taken. `owner` is the place that may inherit it, `holder` says for people who has it."""

    name: str
    owner: str
    holder: str
    fence: int


@dataclass(frozen=True)
class Held:
    """A lease that somebody holds now, and the seconds until it may be taken over unless it is renewed."""

    lease: Lease
    left_s: float


class Leases:
    """The leases of a site. Every method raises StoreUnavailable when the database cannot be reached."""

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        """Open it; see schema.open_database for what it raises. The store or the ledger makes the tables."""
        self._database = open_database(url, create=False, timeout_s=timeout_s)

    def close(self) -> None:
        """Let go of idle connections."""
        self._database.close()

    def take(self, name: str, owner: str, holder: str, seconds: float) -> Lease | None:
        """Take it for that long, or None while another owner holds it.

        An owner is a place where only one can be at a time anyway (see `place`), so that whoever holds it by the same
        owner is dead, and is replaced at once.
        """
        with self._database.write() as connection:
            now, row = self._now(connection), self._row(connection, name)
            if row is not None and row.owner not in ("", owner) and row.deadline > now:
                return None
            fence = 1 if row is None else int(row.fence) + 1
            values = {"owner": owner, "holder": holder, "fence": fence, "deadline": now + seconds}
            if row is None:
                connection.execute(insert(_leases).values(name=name, **values))
            else:
                connection.execute(update(_leases).where(_leases.c.name == name).values(**values))
        return Lease(name, owner, holder, fence)

    def renew(self, lease: Lease, seconds: float) -> None:
        """Hold it for that long from now. Raises Conflict when it was taken over; a late renewal is none the worse."""
        with self._database.write() as connection:
            self._change(connection, lease, self._now(connection) + seconds)

    def release(self, lease: Lease) -> None:
        """Let go of it; nothing if it was taken over."""
        with self._database.write() as connection, contextlib.suppress(Conflict):
            self._change(connection, lease, 0.0, owner="")

    def held(self, name: str) -> Held | None:
        """Who holds it now; None when nobody does, or whoever did is overdue."""
        with self._database.read() as connection:
            now, row = self._now(connection), self._row(connection, name)
        if row is None or not row.owner or row.deadline <= now:
            return None
        return Held(Lease(name, str(row.owner), str(row.holder), int(row.fence)), float(row.deadline) - now)

    def _change(self, connection: Connection, lease: Lease, deadline: float, **values: str) -> None:
        same = (_leases.c.name == lease.name, _leases.c.fence == lease.fence, _leases.c.owner == lease.owner)
        if not connection.execute(update(_leases).where(*same).values(deadline=deadline, **values)).rowcount:
            raise Conflict(f"the lease {lease.name!r} of {lease.holder} was taken over: it may change nothing any more")

    def _row(self, connection: Connection, name: str) -> Row[tuple[str, str, str, int, float]] | None:
        return connection.execute(select(_leases).where(_leases.c.name == name)).first()

    def _now(self, connection: Connection) -> float:
        """Seconds since the epoch by the database's clock, not by when the transaction began: it may have waited."""
        return float(connection.execute(_CLOCK[self._database.dialect]).scalar_one())


@contextlib.contextmanager
def renewed(leases: Leases, lease: Lease, seconds: float, lost: Callable[[], None]) -> Iterator[None]:
    """Renew it in a thread while the block runs, and release it after. `lost` is called once if it was taken over.

    A database that is away is waited for: nobody can take the lease over meanwhile.
    """
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(seconds / _RENEWALS):
            try:
                leases.renew(lease, seconds)
            except Conflict:
                lost()
                return
            except StoreUnavailable:
                continue

    thread = threading.Thread(target=loop, name=f"lease {lease.name}", daemon=True)
    leases.renew(lease, seconds)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(StoreUnavailable):
            leases.release(lease)  # else it ends by itself


def place(folder: Path) -> str:
    """Names `folder` on this host, the same for all processes and restarts. Call it with the folder's lock held."""
    path = folder / _PLACE
    if not path.is_file():
        path.write_text(f"{secrets.token_hex(16)}\n")
    # A copied disk has the same number in it on another host.
    return f"{socket.gethostname()}:{path.read_text().strip()}"


def seconds_of(environ: Mapping[str, str]) -> float:
    """How long a lease is taken and renewed for. Raises ConfigError."""
    said = environ.get(SECONDS) or str(DEFAULT_S)
    try:
        seconds = float(said)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{SECONDS} = {said!r}: must be a number of seconds above 0")
    return seconds
