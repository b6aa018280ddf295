"""Deletes rows of the store that are older than the settings allow: in the service every hour, and by a command.

`python -m service.expiry` does it once; without a retention setting nothing is deleted.
"""

import logging

from service.contract.erasure import Erasure
from service.contract.errors import CommandParser, StoreUnavailable, run_command
from service.periodic import Periodic
from service.settings import Settings, load_settings

log = logging.getLogger(__name__)

PERIOD_S = 3600.0
AWAY_S = 60.0


def expire(settings: Settings) -> dict[str, int]:
    """{table: rows deleted} of the tables that have a retention. Raises StoreUnavailable."""
    wanted = {
        "shadow_answers": settings.prediction_retention_days,  # first: they are nothing without their records
        "predictions": settings.prediction_retention_days,
        "reviews": settings.review_retention_days,
    }
    limits = {table: days for table, days in wanted.items() if days is not None}
    if not limits:
        return {}
    erasure = Erasure(settings.store_url)
    try:
        return {table: erasure.expire(table, days) for table, days in limits.items()}
    finally:
        erasure.close()


def expiring(settings: Settings) -> Periodic:
    """The service's job. Several workers may run it: each row is deleted, and counted, once."""

    def work() -> float:
        try:
            gone = expire(settings)
        except StoreUnavailable as error:
            log.warning("old rows cannot be deleted: %s", error)
            return AWAY_S
        for table, rows in gone.items():
            if rows:
                log.info("deleted %d rows of %s older than their retention", rows, table)
        return PERIOD_S

    return Periodic("expiry", work)


def main(argv: list[str] | None = None) -> int:
    """Deletes once and says what; raises BlastwatchError with a line that says what to do."""
    CommandParser(prog="python -m service.expiry", description="Deletes rows older than their retention.").parse_args(
        argv
    )
    gone = expire(load_settings())
    for table, rows in gone.items():
        print(f"{table}: {rows} rows deleted")
    if not gone:
        print("nothing has a retention: set BLASTWATCH_PREDICTION_RETENTION_DAYS or BLASTWATCH_REVIEW_RETENTION_DAYS")
    return 0


if __name__ == "__main__":
    run_command(main)
