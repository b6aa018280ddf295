"""Findings and history → a decision. Pure: the same input gives the same decision, and nothing happens here.

What counts. For each cause a window is `out` (a finding of that cause is drift), `clear` (every finding is ok and below 70 % of
what drift asks), `between`, or `silent`: insufficient, or unknown without any drift. Silent windows count neither as out nor as
clear and take no place among the last five: a night with few patients must not wash an alarm away, and a window that could
not be judged is no evidence for either side.

What follows.
  covariate, or concept (by sampled reviews), or imbalance with reviewed cells at hand  →  retrain
  label shift without a covariate alarm   →  recalibrate: advice for a person, once per alarm
  service quality                         →  page, once per alarm
A retraining that is due stays pending until there are enough reviewed cells, and is withdrawn when its alarm goes. After a run
only windows that closed since its start can ask for the next one: what led to the last run is no reason for another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, Self, get_args

from monitoring.findings import Finding
from monitoring.judge_settings import PolicySettings

Kind = Literal["none", "watch", "pending", "recalibrate", "page", "retrain"]
Cause = Literal["covariate", "concept", "imbalance", "label_shift", "quality"]
Outcome = Literal["running", "passed", "refused", "failed"]
Block = Literal["frozen", "running", "breaker", "cooldown", "budget", "reviews"]
Status = Literal["out", "clear", "between", "silent"]

CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)
RETRAINS: Final[tuple[Cause, ...]] = ("covariate", "concept", "imbalance")
PAGED_BLOCKS: Final[tuple[Block, ...]] = ("breaker", "budget")
CONCEPT_FINDING: Final = "reviewed_balanced_accuracy"


@dataclass(frozen=True)
class PastWindow:
    """A judged window; `closed` in seconds since the epoch."""

    model_version: str
    closed: float
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Reviewed:
    """Reviewed cells with pixels that no retraining has used yet, and their patients."""

    cells: int = 0
    patients: int = 0


@dataclass(frozen=True)
class Run:
    """A retraining: when it started, and what became of its candidate (`failed`: there was none)."""

    started: float
    outcome: Outcome = "running"


@dataclass(frozen=True)
class PolicyState:
    """What the policy remembers between windows. Alarms belong to `model_version`; runs, breaker and freeze do not.

    pending  causes of a retraining that is due and waits; told  what a person was already told
    breaker_closed_at  when a person last closed the breaker: refusals of runs up to then no longer count
    """

    model_version: str = ""
    alarms: tuple[Cause, ...] = ()
    pending: tuple[Cause, ...] = ()
    told: tuple[str, ...] = ()
    runs: tuple[Run, ...] = ()
    breaker_closed_at: float | None = None
    frozen: bool = False

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_json` back. Raises TypeError for unknown members."""
        lists = {name: tuple(values[name]) for name in ("alarms", "pending", "told")}
        return cls(**{**values, **lists, "runs": tuple(Run(**run) for run in values["runs"])})


@dataclass(frozen=True)
class Decision:
    """What to do, and why in a sentence; `blocked_by` says what kept a retraining back; `state` is the next state.

    After `retrain` the next state already holds the run as started now, so that nobody can start a second one on it.
    """

    kind: Kind
    why: str
    causes: tuple[Cause, ...]
    blocked_by: Block | None
    state: PolicyState


def decide(
    window: PastWindow,
    history: Sequence[PastWindow],
    state: PolicyState,
    settings: PolicySettings,
    now: float,
    reviewed: Reviewed,
) -> Decision:
    """Decide after a window. `history` is what came before it, oldest first; windows of other models are left out."""
    raise NotImplementedError


def reconsider(state: PolicyState, settings: PolicySettings, now: float, reviewed: Reviewed) -> Decision:
    """Decide between windows: reviews came in, the cooldown ended, or a person resumed."""
    raise NotImplementedError


def run_finished(state: PolicyState, outcome: Outcome) -> PolicyState:
    """The last run came to an end."""
    raise NotImplementedError


def breaker_open(state: PolicyState, settings: PolicySettings) -> bool:
    """Whether refusals in a row have opened the breaker."""
    raise NotImplementedError


def close_breaker(state: PolicyState, now: float) -> PolicyState:
    """A person closes it."""
    return replace(state, breaker_closed_at=now)
