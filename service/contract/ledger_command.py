"""The ledger's command line: verify, show, approve, rollback."""

import json
import os
from dataclasses import asdict

from service.contract.errors import CommandParser
from service.contract.ledger import Ledger, Row

DEFAULT_URL = "sqlite:///var/store.db"
SHOWN = 400  # characters of a list or an object; `--json` has all of it


def main(argv: list[str] | None = None) -> int:
    """Run one command; raises BlastwatchError with a line that says what to do."""
    arguments = _parser().parse_args(argv)
    ledger = Ledger(arguments.store, create=False)
    match arguments.command:
        case "verify":
            ledger.verify(arguments.head)
            print(f"ok: {len(ledger.rows())} rows, head {ledger.head()}")
        case "show":
            rows = ledger.rows()
            if arguments.json:
                print(json.dumps([asdict(row) for row in rows], indent=2))
            else:
                _show(rows, ledger)
        case "approve":
            row = ledger.approve(arguments.version, by=arguments.by)
            print(f"{row.version} is approved by {row.body['by']}: `dvc repro promote` puts it in production")
        case "rollback":
            row = ledger.rollback(arguments.version, by=arguments.by)
            print(f"production is {row.body['to']} again; {row.version} needs a new approval to come back")
    return 0


def _show(rows: list[Row], ledger: Ledger) -> None:
    width = max((len(row.kind) for row in rows), default=4)
    for row in rows:
        rest = "  ".join(f"{name}={_text(value)}" for name, value in row.body.items() if name != "version")
        print(f"{row.seq:>4}  {row.time[:19]}Z  {row.kind:<{width}}  {row.version or '-':<32}  {rest}".rstrip())
    print(
        f"in production: {ledger.production() or 'nothing yet'}{'  (triggers are frozen)' if ledger.frozen() else ''}"
    )


def _text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if isinstance(value, str) or len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m service.contract.ledger",
        description="What happened to models: registered, refused, approved, promoted, rolled back, and why.",
    )
    parser.add_argument(
        "--store",
        metavar="URL",
        default=os.environ.get("BLASTWATCH_STORE_URL", DEFAULT_URL),
        help="the database (default: BLASTWATCH_STORE_URL, else %(default)s)",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    verify = commands.add_parser("verify", help="recompute the hash chain; fails on a changed, missing or moved row")
    verify.add_argument("--head", metavar="HASH", help="a head noted earlier, which must still be there")
    show = commands.add_parser("show", help="list all rows and the model in production")
    show.add_argument("--json", action="store_true", help="as JSON, with hashes")
    approve = commands.add_parser("approve", help="allow a registered model to be promoted")
    approve.add_argument("version", metavar="VERSION", help="as `show` lists it")
    approve.add_argument("--by", metavar="ROLE", required=True, help="who approves, as a role, not a name")
    rollback = commands.add_parser("rollback", help="go back to the model that was in production before")
    rollback.add_argument("version", metavar="VERSION", nargs="?", help="or to this one")
    rollback.add_argument("--by", metavar="ROLE", required=True, help="who rolls back, as a role, not a name")
    return parser
