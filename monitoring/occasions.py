"""What asks for a retraining apart from windows and people: a date, and reviews that came in. Both are off by default.

They ask at the same door as everybody, see monitoring/door.py. Pure.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

from monitoring.judge_settings import PolicySettings
from monitoring.policy import PolicyState, Reviewed

SCHEDULE: Final = "schedule"
REVIEWS: Final = "reviews"
DAY_S: Final = 86400.0


def occasions(
    state: PolicyState, settings: PolicySettings, now: float, since: float, reviewed: Callable[[], Reviewed]
) -> Iterator[tuple[str, str]]:
    """(who asks, why) for each occasion that has come.

    `since` is when the first model went into production, in seconds since the epoch: a schedule starts from there.
    `reviewed` is asked only where the answer counts.
    """
    last = max((run.started for run in state.runs), default=since)
    hour = datetime.fromtimestamp(now, UTC).hour
    if settings.schedule_days and settings.schedule_hour in (None, hour):
        days = (now - last) / DAY_S
        if days >= settings.schedule_days:
            yield SCHEDULE, f"{days:.0f} days since {'the last retraining' if state.runs else 'the first model'}"
    if settings.enough_reviews:
        there = reviewed()
        if there.cells >= settings.enough_reviews:
            yield REVIEWS, f"{there.cells} new reviewed cells of {there.patients} patients"
