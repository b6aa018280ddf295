"""One way to open the database that store and ledger share: SQLite in WAL mode, or PostgreSQL when hosts share it.

Tables are written in SQLAlchemy Core; what differs between the two is here and in service/contract/postgresql.py.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, MetaData, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    DisconnectionError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.schema import CreateIndex, CreateTable

from service.contract import postgresql
from service.contract.errors import ConfigError, StoreUnavailable

_WRITE = "blastwatch_write"
_URLS = "use sqlite:///path/to/store.db or postgresql+psycopg://user:password@host/database"


class Database:
    """Short transactions, readers beside one writer at a time.

    What hinders reaching it (away, locked, full, stopping) is a StoreUnavailable; any other trouble (a statement that
    makes no sense, a row that the tables refuse) stays the SQLAlchemyError that it is.
    """

    def __init__(
        self, url: str, metadata: MetaData | None = None, *, create: bool = True, timeout_s: float = 5.0
    ) -> None:
        """Open and make the missing tables of `metadata` (and SQLite's folder).

        With `create=False` a SQLite file must be there. `timeout_s` is how long to wait for a connection and for a
        lock. Raises ConfigError for a URL that makes no sense, StoreUnavailable when the database cannot be reached.
        """
        options: dict[str, Any] = {}
        try:
            parsed = make_url(url)
            match parsed.get_backend_name():
                case "sqlite":
                    parsed = _with_file(parsed)
                case "postgresql":
                    parsed, options = postgresql.with_driver(parsed), postgresql.options(timeout_s)
                case other:
                    raise ArgumentError(f"{other} is not known here")
            # Errors go to logs, where no record belongs: they come without the values of their statement.
            self._engine = create_engine(parsed, pool_timeout=timeout_s, hide_parameters=True, **options)
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise ConfigError(f"{_shown(url)!r} is no usable store URL ({error}): {_URLS}") from error
        self.name = parsed.render_as_string(hide_password=True)
        self.dialect = self._engine.dialect.name
        if self.dialect == "sqlite":
            self._reader = self._engine
            _prepare_sqlite(self._engine, Path(str(parsed.database)), timeout_s, create=create)
        else:
            self._reader = postgresql.prepare(self._engine, timeout_s)
        self._writer = self._engine.execution_options(**{_WRITE: True})
        if metadata is not None:
            with self.write() as connection:
                create_missing(connection, metadata)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database."""
        with self._errors(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that no other writer runs beside, from before its first read to its commit."""
        with self._errors(), self._writer.begin() as connection:
            if self.dialect == "postgresql":
                postgresql.lock(connection)
            yield connection

    def close(self) -> None:
        """Let go of idle connections."""
        self._engine.dispose()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, DisconnectionError, PoolTimeout, OSError) as error:
            if not _is_away(error):
                raise
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            raise StoreUnavailable(f"the store {self.name} cannot be reached: {reason}") from error


def create_missing(connection: Connection, metadata: MetaData) -> None:
    """Make the tables and indexes that are not there."""
    for table in metadata.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=True))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            connection.execute(CreateIndex(index, if_not_exists=True))


def _is_away(error: Exception) -> bool:
    """Whether the database is the trouble, and not what was asked of it."""
    if not isinstance(error, DBAPIError) or error.connection_invalidated:
        return True
    if isinstance(error.orig, sqlite3.DatabaseError):
        # SQLite calls a missing table "operational" too, with the code of every error in a statement.
        code = getattr(error.orig, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_NOTADB or code == sqlite3.SQLITE_CORRUPT:
            return True
        return isinstance(error, OperationalError) and code != sqlite3.SQLITE_ERROR
    return isinstance(error, (OperationalError, InterfaceError)) or postgresql.is_read_only(error)


def _shown(url: str) -> str:
    """The URL without its password, if it is one."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


def _with_file(url: URL) -> URL:
    """The URL with an absolute path: the process may change its folder later. Raises ConfigError without a file."""
    if not url.database or url.database == ":memory:" or url.query:
        raise ConfigError(f"{url} names no plain file: {_URLS}")
    return url.set(database=str(Path(url.database).absolute()))


def _prepare_sqlite(engine: Engine, path: Path, timeout_s: float, *, create: bool) -> None:
    if not path.is_file():
        if not create:
            raise StoreUnavailable(f"there is no store at {path}: start the service once, or name another with --store")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"the store {path} cannot be made: {error.strerror}") from error

    @event.listens_for(engine, "do_connect")
    def _refuse_to_create(dialect: Any, record: Any, arguments: Any, parameters: Any) -> None:
        # SQLite would make an empty file where the store was moved away; records must wait for the real one.
        if not path.is_file():
            raise OperationalError("connect", {}, FileNotFoundError(f"{path} is missing"))

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, record: Any) -> None:
        record.info["inode"] = path.stat().st_ino
        connection.isolation_level = None  # the driver's own BEGIN comes too late to lock before the first read
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(timeout_s * 1000)}")
        # A committed record outlives a power cut: the journal lets go of it then.
        cursor.execute("PRAGMA synchronous = FULL")
        _enter_wal(cursor, timeout_s)
        cursor.close()

    @event.listens_for(engine, "checkout")
    def _still_that_file(connection: Any, record: Any, proxy: Any) -> None:
        # A pooled connection to a file that was since deleted or replaced would swallow what is written to it.
        if not path.is_file() or path.stat().st_ino != record.info["inode"]:
            raise DisconnectionError(f"{path} is another file now")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get(_WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _enter_wal(cursor: sqlite3.Cursor, timeout_s: float) -> None:
    """Switch to WAL; SQLite does not wait for a lock here when several processes open a new file at once."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if cursor.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal":
                return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise sqlite3.OperationalError(
                "the file system does not allow SQLite's WAL mode: keep the store on a local disk"
            )
        time.sleep(0.02)
