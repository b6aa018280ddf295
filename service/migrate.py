"""Brings the tables of a store up to this release: python -m service.migrate upgrade | current | check."""

import os
from pathlib import Path

from alembic import command
from alembic.config import Config

from service.contract import postgresql
from service.contract.database import Database
from service.contract.errors import CommandParser, ConfigError, run_command
from service.contract.ledger_command import DEFAULT_URL
from service.contract.schema import REVISIONS, UNNUMBERED, open_database, revision

FOLDER = Path(__file__).with_name("migrations")


def upgrade(url: str, to: str = REVISIONS[-1]) -> tuple[str | None, str]:
    """Runs the migrations that are missing, all or none, while no one else writes; gives the revisions from and to.

    Of several that start at once one runs them and the others find nothing to do. Raises ConfigError for tables of a
    newer release, StoreUnavailable.
    """
    database = Database(url)
    try:
        with database.write() as connection:
            found = revision(connection)
            if found not in (None, UNNUMBERED, *REVISIONS):
                raise ConfigError(
                    f"the tables of {database.name} are of a newer release (revision {found}, this one knows up to "
                    f"{REVISIONS[-1]}): run the release that made them"
                )
            if found != to:
                if database.dialect == "postgresql":
                    postgresql.lift_statement_timeout(connection)
                config = Config(attributes={"connection": connection})
                config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
                command.upgrade(config, to)
            return found, to
    finally:
        database.close()


def current(url: str) -> str | None:
    """The revision of the tables, see schema.revision. Raises StoreUnavailable, also when there is no SQLite file."""
    database = Database(url, create=False)
    try:
        with database.read() as connection:
            return revision(connection)
    finally:
        database.close()


def main(argv: list[str] | None = None) -> int:
    """Runs one command; raises BlastwatchError with a line that says what to do."""
    arguments = _parser().parse_args(argv)
    match arguments.command:
        case "upgrade":
            before, after = upgrade(arguments.store)
            print(
                f"revision {after}, nothing to do" if before == after else f"revision {after}, was {before or 'empty'}"
            )
        case "current":
            print(current(arguments.store) or "empty")
        case "check":
            open_database(arguments.store, create=False).close()
            print(f"revision {REVISIONS[-1]}, as this release wants it")
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m service.migrate", description="The tables of the store and their revision.")
    parser.add_argument(
        "--store",
        metavar="URL",
        default=os.environ.get("BLASTWATCH_STORE_URL", DEFAULT_URL),
        help="the database (default: BLASTWATCH_STORE_URL, else %(default)s)",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("upgrade", help="run the migrations that are missing; the service does so when it starts")
    commands.add_parser("current", help="show the revision of the tables")
    commands.add_parser("check", help="fail unless the tables are as this release wants them")
    return parser


if __name__ == "__main__":
    run_command(main)
