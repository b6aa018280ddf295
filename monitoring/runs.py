"""What the ledger says about retrainings, as the policy wants it: the ledger is their only record."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from monitoring.policy import Outcome, PolicyState, Run
from service.contract.ledger import Row
from service.contract.reading import EXPORTED

STARTED: Final = "retraining_started"
FIRED: Final = "trigger_fired"
FINISHED: Final = "retraining_finished"
FAILED: Final = "retraining_failed"
REGISTERED: Final = "registered"
KINDS: Final = (FIRED, STARTED, FINISHED, FAILED, "frozen", "resumed", REGISTERED, EXPORTED)
"""The rows that the functions here, and reading.asked_for, read."""


@dataclass(frozen=True)
class Retraining:
    """One retraining: when it started (seconds since the epoch), and the row that ended it, if one did."""

    run: str
    started: float
    end: Row | None = None
    recalibrates: bool = False
    """Nothing was trained: the candidate is for another case mix."""

    @property
    def outcome(self) -> Outcome:
        """`failed` when there was no candidate."""
        if self.end is None:
            return "running"
        if self.end.kind == FAILED:
            return "failed"
        return "passed" if self.end.body.get("gate") == "passed" else "refused"

    @property
    def ended(self) -> float | None:
        """When it ended, in seconds since the epoch; None while it runs."""
        return None if self.end is None else seconds(self.end)


def retrainings(rows: Sequence[Row]) -> list[Retraining]:
    """Every retraining that started, in order."""
    ends = {str(row.body.get("run")): row for row in rows if row.kind in (FINISHED, FAILED)}
    found = []
    for row in rows:
        if row.kind == STARTED:
            run = str(row.body.get("run"))
            found.append(Retraining(run, seconds(row), ends.get(run), row.body.get("priors") is not None))
    return found


def open_runs(rows: Sequence[Row]) -> list[str]:
    """Runs that were announced or started, and have no end."""
    ended = {row.body.get("run") for row in rows if row.kind in (FINISHED, FAILED)}
    begun = [str(row.body.get("run")) for row in rows if row.kind in (FIRED, STARTED)]
    return [run for run in dict.fromkeys(begun) if run not in ended]


def policy_state(rows: Sequence[Row], memory: PolicyState, saved: float) -> PolicyState:
    """The policy's state: `memory` as of `saved`, and runs, breaker and freeze as the ledger has them.

    A retraining that was due is no longer so once one has started since: what led to that run led to one already.
    """
    every = retrainings(rows)
    resumed = [seconds(row) for row in rows if row.kind == "resumed"]
    switches = [row.kind for row in rows if row.kind in ("frozen", "resumed")]
    taken = any(item.started >= saved and not item.recalibrates for item in every)
    return replace(
        memory,
        pending=() if taken else memory.pending,
        runs=tuple(Run(item.started, item.outcome) for item in every),
        breaker_closed_at=max(resumed, default=None),
        frozen=bool(switches) and switches[-1] == "frozen",
    )


def used_until(rows: Sequence[Row]) -> float:
    """Reviews up to this moment (seconds since the epoch) went into a candidate; 0 when there was none."""
    ended = (item for item in retrainings(rows) if item.outcome in ("passed", "refused") and not item.recalibrates)
    return max((item.started for item in ended), default=0.0)


def learned_until(rows: Sequence[Row], version: str) -> float:
    """Reviews up to this moment (seconds since the epoch) may have gone into that model, and later ones cannot have.

    The start of the last training before the model was registered, whatever came of it: what one retraining takes, each
    later one takes again. 0 when there was none.
    """
    made = min(
        (seconds(row) for row in rows if row.kind == REGISTERED and row.version == version), default=float("inf")
    )
    before = (item.started for item in retrainings(rows) if item.started < made and not item.recalibrates)
    return max(before, default=0.0)


def outcomes(rows: Sequence[Row]) -> dict[str, int]:
    """{outcome: how many retrainings}."""
    counts: dict[str, int] = dict.fromkeys(("running", "passed", "refused", "failed"), 0)
    for item in retrainings(rows):
        counts[item.outcome] += 1
    return counts


def last_cost(rows: Sequence[Row]) -> dict[str, float]:
    """Of the retraining that ended last: seconds, ended (since the epoch); where known, processor_seconds and
    peak_memory_bytes. Empty when none has ended.
    """
    ended = [item for item in retrainings(rows) if item.end is not None]
    last = max(ended, key=lambda item: item.end.seq if item.end else 0, default=None)
    if last is None or last.end is None:
        return {}
    at = seconds(last.end)
    return {"seconds": at - last.started, **last.end.body.get("cost", {}), "ended": at}


def seconds(row: Row) -> float:
    """A row's time in seconds since the epoch."""
    return datetime.fromisoformat(row.time).timestamp()
