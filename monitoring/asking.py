"""What a look does beside the windows: says once that the breaker opened, lets a date or reviews ask at the door."""

import logging
from collections.abc import Sequence
from functools import cache

from monitoring.door import breaker_opened
from monitoring.given import BREAKER, Given
from monitoring.judge_settings import PolicySettings
from monitoring.occasions import occasions
from monitoring.policy import Decision, Reviewed, blocked
from monitoring.reviews import unused
from monitoring.runs import policy_state, seconds, used_until
from monitoring.site import Site
from monitoring.trigger import Reason
from service.contract.errors import Conflict
from service.contract.ledger import Row
from service.contract.reading import asked_for

_logger = logging.getLogger(__name__)


def ask(site: Site, settings: PolicySettings, rows: Sequence[Row], now: float) -> list[Decision]:
    """Decide and act on what has come, with the ledger's `rows` of now; → decisions that are news, in order.

    Raises StoreUnavailable.
    """

    @cache
    def reviewed() -> Reviewed:
        return unused(site.store, site.pixels, used_until(rows), asked_for(rows))

    state = policy_state(rows, *site.history.memory())
    made = []
    opened = breaker_opened(state, settings, site.decisions.told_of_breaker())
    if opened is not None:
        _logger.warning("a person is needed: %s", opened.why)
        site.decisions.record(Given(None, (), state, settings, now, reviewed(), BREAKER, opened.why), opened)
        site.history.decide(opened, state, now)
        made.append(opened)
    if not settings.schedule_days and not settings.enough_reviews:
        return made
    since = next((seconds(row) for row in site.ledger.rows("promoted")), now)
    for by, why in occasions(state, settings, now, since, reviewed):
        if blocked(state, settings, now, reviewed()) == "running":
            continue  # what it asks for is under way
        decision = _fire(site, Given(None, (), state, settings, now, reviewed(), by, why))
        if decision is not None:
            made.append(decision)
            break
    return made


def _fire(site: Site, given: Given) -> Decision | None:
    """The decision, where it started a retraining."""
    decision = given.decide()
    number = site.decisions.record(given, decision)
    if decision.kind != "retrain":
        return None
    site.history.decide(decision, given.state, given.now)
    try:
        run = site.trigger.fire(Reason(given.wish, by=given.by, decision=number), given.reviewed)
    except Conflict as error:
        _logger.warning("a retraining was asked for (%s: %s) and did not start: %s", given.by, given.wish, error)
        return None
    return None if run is None else decision
