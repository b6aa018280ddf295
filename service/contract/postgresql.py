"""What PostgreSQL needs beyond SQLAlchemy's own: bounded waits, one writer at a time, commits that outlive a crash.

No server may hold a worker up: connecting, waiting for a lock and running a statement all have an end, and the
operating system gives up a peer that answers no more.
"""

import math
from typing import Any

from sqlalchemy import URL, Connection, Engine, event, text
from sqlalchemy.exc import ArgumentError, DBAPIError

DRIVER = "postgresql+psycopg"
STATEMENT_TIMEOUT_S = 60.0

_LOCK_KEY = 0x626C6173  # any constant; the advisory lock that writers of one database share
_READ_ONLY = "25006"  # SQLSTATE read_only_sql_transaction: a standby, or a server being moved


def with_driver(url: URL) -> URL:
    """The URL with the driver spelled out. Raises ArgumentError for another driver or without a database."""
    if url.drivername not in ("postgresql", DRIVER):
        raise ArgumentError(f"the driver for PostgreSQL is psycopg, so a URL starts with {DRIVER}://")
    if not url.database:
        raise ArgumentError("it names no database")
    return url.set(drivername=DRIVER)


def options(timeout_s: float) -> dict[str, Any]:
    """Arguments of `create_engine`: a connection that died while idle is replaced before it is used."""
    whole_s = max(2, math.ceil(timeout_s))
    return {
        "pool_pre_ping": True,
        "connect_args": {
            "connect_timeout": whole_s,
            "keepalives_idle": whole_s,
            "keepalives_interval": whole_s,
            "keepalives_count": 3,
            "tcp_user_timeout": 3000 * whole_s,
            "application_name": "blastwatch",
        },
    }


def prepare(engine: Engine, timeout_s: float) -> Engine:
    """Set every new connection up, and return the engine for readers, which see one state of the database."""

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, record: Any) -> None:
        connection.autocommit = True
        bounds = {
            "lock_timeout": timeout_s,
            "statement_timeout": max(STATEMENT_TIMEOUT_S, timeout_s),
            "idle_in_transaction_session_timeout": max(STATEMENT_TIMEOUT_S, timeout_s),
        }
        for name, seconds in bounds.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, f"{math.ceil(seconds * 1000)}ms"))
        # The journal lets go of what is committed, so a commit must be on the server's disk. Stronger settings stay.
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
        connection.autocommit = False

    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def lock(connection: Connection) -> None:
    """Wait for other writers of this database; held until the transaction ends.

    Writers read at READ COMMITTED: a snapshot from before the wait would not show what the writer before committed.
    """
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})


def lift_statement_timeout(connection: Connection) -> None:
    """For this transaction only: a migration of a large table takes what it takes."""
    connection.execute(text("SET LOCAL statement_timeout = 0"))


def is_read_only(error: DBAPIError) -> bool:
    """Whether the server refuses every write for now."""
    return getattr(error.orig, "sqlstate", None) == _READ_ONLY
