"""The tables of the store and the ledger, and which revision of them a database has.

A new database is made as they stand here. One of an earlier release is brought up by `service.migrate`, which the
service calls when it starts; whoever else opens it is told so. A change here needs a migration beside it
(service/migrations/versions), whose number joins REVISIONS: a test holds both against each other.
"""

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    insert,
    inspect,
    select,
)

from service.contract.database import Database, create_missing
from service.contract.errors import ConfigError, Conflict, StoreOutdated

REVISIONS = ("0001", "0002", "0003", "0004", "0005")
UNNUMBERED = "unnumbered"
RETRAINING = "retraining"

metadata = MetaData()

predictions = Table(
    "predictions",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("record_id", String(32), nullable=False, unique=True),
    Column("time", String(40), nullable=False),
    Column("site", Text, nullable=False),
    Column("stain", Text, nullable=False),
    Column("scanner", Text, nullable=False),
    Column("patient", String(32), nullable=False),
    Column("label", Text, nullable=False),
    Column("refer", Boolean, nullable=False),
    Column("ood_score", Float, nullable=False),
    Column("model_version", String(32), nullable=False),
    Column("test", Boolean, nullable=False),
    Column("client", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("pixels_sha256", String(64), nullable=False),
    Column("disputed", Boolean, nullable=False),
    Column("body", Text, nullable=False),
    Column("embedding", LargeBinary, nullable=False),
    Column("figures", LargeBinary),  # these two as cells.packed has them; none in rows of earlier releases
    Column("reasons", Text),
    Index("predictions_by_request", "request_id", "client"),
    Index("predictions_by_model", "model_version", "seq"),
    Index("predictions_by_patient", "patient"),
    Index("predictions_by_time", "time"),
    sqlite_autoincrement=True,  # a number is never given twice: monitoring remembers how far it has read
)

reviews = Table(
    "reviews",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("review_id", String(32), nullable=False, unique=True),
    Column("record_id", String(32), nullable=False),
    Column("time", String(40), nullable=False),
    Column("body", Text, nullable=False),
    Index("reviews_by_record", "record_id"),
    Index("reviews_by_time", "time"),
    sqlite_autoincrement=True,
)

shadow_answers = Table(
    "shadow_answers",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("record_id", String(32), nullable=False),
    Column("version", String(32), nullable=False),
    Column("time", String(40), nullable=False),
    Column("body", Text, nullable=False),
    UniqueConstraint("record_id", "version"),
    Index("shadow_answers_by_version", "version", "seq"),
    Index("shadow_answers_by_time", "time"),
    sqlite_autoincrement=True,
)

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("worker", String(64), primary_key=True),
    Column("version", String(64), nullable=False),
    Column("at", Float, nullable=False),
)

ledger = Table(
    "ledger",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("time", String(40), nullable=False),
    Column("kind", String(40), nullable=False),
    Column("body", Text, nullable=False),
    Column("prev_hash", String(64), nullable=False, unique=True),
    Column("hash", String(64), nullable=False, unique=True),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("owner", String(128), nullable=False),
    Column("holder", Text, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("deadline", Float, nullable=False),
)

# The table in which Alembic notes the revision.
_revision = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


def open_database(url: str, *, create: bool = True, timeout_s: float = 5.0) -> Database:
    """The database with these tables in it, made where there are none; see Database for the arguments.

    Raises ConfigError for a revision that this release does not know, StoreOutdated (a ConfigError) for an earlier one,
    StoreUnavailable when the database cannot be reached.
    """
    database = Database(url, create=create, timeout_s=timeout_s)
    try:
        with database.read() as connection:
            found = revision(connection)
        if found is None:
            with database.write() as connection:
                # Another process may have made them since.
                found = revision(connection) or _make(connection)
        _check(found, database.name)
    except BaseException:
        database.close()
        raise
    return database


def refuse_replaced(connection: Connection, fence: int) -> None:
    """Raises Conflict unless that is the number of the lease by which somebody retrains now."""
    query = select(leases.c.owner).where(leases.c.name == RETRAINING, leases.c.fence == fence, leases.c.owner != "")
    if connection.execute(query).first() is None:
        raise Conflict(
            f"this retraining lost its lease (number {fence}): another may have taken its place, so that it may change "
            "nothing any more"
        )


def revision(connection: Connection) -> str | None:
    """What the database says it is; None without any of the tables, UNNUMBERED before revisions were noted."""
    names = set(inspect(connection).get_table_names())
    if _revision.name in names and (found := connection.execute(select(_revision.c.version_num)).scalar()):
        return str(found)
    return UNNUMBERED if names & metadata.tables.keys() else None


def _make(connection: Connection) -> str:
    create_missing(connection, metadata)
    create_missing(connection, _revision.metadata)
    connection.execute(insert(_revision).values(version_num=REVISIONS[-1]))
    return REVISIONS[-1]


def _check(found: str, name: str) -> None:
    if found == REVISIONS[-1]:
        return
    if found in (*REVISIONS, UNNUMBERED):
        raise StoreOutdated(
            f"the tables of {name} are of an earlier release ({found}, not {REVISIONS[-1]}): "
            "start the service, or run `python -m service.migrate upgrade`"
        )
    raise ConfigError(
        f"the tables of {name} are of a newer release (revision {found}, this one knows up to {REVISIONS[-1]}): "
        "run the release that made them"
    )
