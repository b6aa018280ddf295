"""The one door to a retraining: whoever asks meets the same freeze, breaker, budget, cooldown and wish for reviews."""

from collections.abc import Sequence
from datetime import UTC, datetime

from monitoring.judge_settings import PolicySettings
from monitoring.policy import Decision, PolicyState, Reviewed, blocked, breaker_open
from monitoring.runs import policy_state
from service.contract.ledger import Row


def refusal(rows: Sequence[Row], settings: PolicySettings, now: float, reviewed: Reviewed | None) -> str | None:
    """Why no retraining may start now, and what to do about it; None when one may.

    `reviewed` None: it needs no reviewed cells, as a recalibration does not.
    """
    if reviewed is None:
        reviewed = Reviewed(settings.min_reviewed_cells, settings.min_reviewed_patients)
    state = policy_state(rows, PolicyState(), saved=float("inf"))
    starts = sorted(run.started for run in state.runs)
    match blocked(state, settings, now, reviewed):
        case None:
            return None
        case "frozen":
            return "triggers are frozen: `python -m monitoring.trigger resume --by ROLE` lets them go again"
        case "running":
            return "a retraining is running: wait for it to end"
        case "breaker":
            return (
                f"the last {settings.breaker_refusals} candidates were refused: see why (`python -m "
                "service.contract.ledger show`), then close the breaker: `python -m monitoring.trigger resume`"
            )
        case "budget":
            free = starts[-settings.budget_runs] + settings.budget_period_s
            return f"the budget of {settings.budget_runs} retrainings is spent: the next may start at {_utc(free)}"
        case "cooldown":
            return (
                f"the last one started at {_utc(starts[-1])}: the next may at {_utc(starts[-1] + settings.cooldown_s)}"
            )
        case "reviews":
            return (
                f"there are {reviewed.cells} new reviewed cells with pixels, of {reviewed.patients} patients, and "
                f"{settings.min_reviewed_cells} of {settings.min_reviewed_patients} are needed: review more"
            )


def asked(wish: str, state: PolicyState, settings: PolicySettings, now: float, reviewed: Reviewed) -> Decision:
    """What becomes of a wish for a retraining that no window's verdict led to. Pure."""
    block = blocked(state, settings, now, reviewed)
    if block is None:
        return Decision("retrain", wish, (), None, state)
    return Decision("pending" if block == "reviews" else "watch", wish, (), block, state)


def breaker_opened(state: PolicyState, settings: PolicySettings, told_at: float | None) -> Decision | None:
    """The decision that the breaker is open, once for each time that it opens. Pure.

    `told_at`: when that was last decided, in seconds since the epoch.
    """
    closed_at = state.breaker_closed_at
    told = told_at is not None and (closed_at is None or told_at > closed_at)
    if told or not breaker_open(state, settings):
        return None
    why = f"the last {settings.breaker_refusals} candidates were refused: nothing retrains until a person resumes"
    return Decision("breaker", why, (), "breaker", state)


def _utc(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
