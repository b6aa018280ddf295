"""Stage `champion`: which model is in production, as a file, so that the gate reruns if, and only if, that changes."""

from service.contract.errors import CommandParser, run_command
from service.contract.ledger import Ledger
from training.io import write_json
from training.places import CHAMPION, store_url


def champion(ledger: Ledger) -> dict[str, str | None]:
    """The content of champion.json: the version in production, or null when there is none yet.

    Raises:
        StoreUnavailable: the ledger cannot be read; that is not the same as having no champion.
        LedgerError: the ledger is broken.
    """
    return {"version": ledger.production()}


def main(argv: list[str] | None = None) -> int:
    """Read the ledger (BLASTWATCH_STORE_URL) and write build/champion.json."""
    CommandParser(prog="python -m training.champion", description=main.__doc__).parse_args(argv)
    found = champion(Ledger(store_url()))
    write_json(CHAMPION, found)
    print(f"in production: {found['version'] or 'no model yet'}")
    return 0


if __name__ == "__main__":
    run_command(main)
