"""Findings and history → a decision. Pure: the same input gives the same decision, and nothing happens here.

What counts. For each cause a window is `out` (a finding of that cause is drift), `clear` (every finding is below 70 %
of what drift asks), `between`, or `silent`: insufficient, or unknown without any drift. Silent windows count neither as
out nor as clear and take no place among the last five: a night with few patients must not wash an alarm away, and a
window that could not be judged is no evidence for either side.

A finding on the last windows together (long_view.py) fires alone: it is what the three of five are for, in one answer.

What follows.
  covariate, or concept (by sampled reviews), or imbalance with reviewed cells at hand  →  retrain
  label shift without any of these  →  recalibrate for the new case mix, once per alarm
  service quality, or readers who disagree with each other  →  page, once per alarm; no retraining by reviews
  a slice of the windows alone      →  page, once per alarm of that slice; its windows are those that judged it
  what a calendar announced         →  watch
  refused candidates in a row       →  breaker, once each time that they open it (monitoring/door.py)
A retraining that is due stays pending until there are enough reviewed cells, and is withdrawn when its alarm goes.
After a run only windows that closed since its start can ask for the next one: what led to the last run is no reason
for another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Final, Literal, Self, get_args

from monitoring.findings import LONG, Finding
from monitoring.judge_settings import PolicySettings

Kind = Literal["none", "watch", "pending", "recalibrate", "page", "retrain", "breaker"]
Cause = Literal["covariate", "concept", "imbalance", "label_shift", "quality", "slice", "planned"]
Outcome = Literal["running", "passed", "refused", "failed"]
Block = Literal["frozen", "running", "breaker", "budget", "cooldown", "reviews"]
Status = Literal["out", "clear", "between", "silent"]

CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)
CONCEPT: Final[Cause] = "concept"
QUALITY: Final[Cause] = "quality"
SLICE: Final[Cause] = "slice"
PLANNED: Final[Cause] = "planned"
RETRAINS: Final[tuple[Cause, ...]] = ("covariate", "concept", "imbalance")
PAGED_BLOCKS: Final[tuple[Block, ...]] = ("breaker", "budget")


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

    pending  causes of a retraining that is due and waits
    slices   slices that have an alarm, e.g. "scanner=P250"
    told     what a person was already told
    breaker_closed_at  when a person last closed the breaker: refusals of runs that started before no longer count
    """

    model_version: str = ""
    alarms: tuple[Cause, ...] = ()
    pending: tuple[Cause, ...] = ()
    told: tuple[str, ...] = ()
    runs: tuple[Run, ...] = ()
    breaker_closed_at: float | None = None
    frozen: bool = False
    slices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_json` back. Raises TypeError or KeyError for unknown or missing members."""
        values = {"slices": (), **values}
        lists = {name: tuple(values[name]) for name in ("alarms", "pending", "told", "slices")}
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
    if state.model_version != window.model_version:
        state = replace(state, model_version=window.model_version, alarms=(), pending=(), told=(), slices=())
    windows = [*(past for past in history if past.model_version == window.model_version), window]
    planned = {finding.slice for finding in window.findings if finding.family == PLANNED}
    slices = tuple(
        name
        for name in slices_judged(windows, window.closed - settings.slice_gone_s, settings)
        if name not in planned  # what was announced since is no alarm any more
        and _alarmed(SLICE, [of_slice(past, name) for past in windows], name in state.slices, settings)
    )
    alarmed = {cause: _alarmed(cause, windows, cause in state.alarms, settings) for cause in CAUSES}
    alarmed |= {SLICE: bool(slices), PLANNED: False}
    alarms = tuple(cause for cause in CAUSES if alarmed[cause])
    last_start = max((run.started for run in state.runs), default=float("-inf"))
    fresh = [past for past in windows if past.closed > last_start]
    due = tuple(
        cause
        for cause in RETRAINS
        if cause in alarms
        and (cause in state.pending or _fires(cause, fresh, settings))
        and (cause != "imbalance" or _enough(reviewed, settings))
        and (cause != CONCEPT or not _readers_differ(windows))
    )
    gone = {_told_of(name) for name in state.slices} - {_told_of(name) for name in slices}
    told = tuple(word for word in state.told if (word not in CAUSES or word in alarms) and word not in gone)
    out = tuple(cause for cause in CAUSES if status(window, cause, settings) == "out")
    return _act(replace(state, alarms=alarms, pending=due, told=told, slices=slices), settings, now, reviewed, out)


def reconsider(state: PolicyState, settings: PolicySettings, now: float, reviewed: Reviewed) -> Decision:
    """Decide between windows: reviews came in, the cooldown ended, or a person resumed."""
    return _act(state, settings, now, reviewed, ())


def status(window: PastWindow, cause: Cause, settings: PolicySettings) -> Status:
    """What a window says about a cause."""
    findings = [finding for finding in window.findings if cause_of(finding) == cause]
    if any(finding.out for finding in findings):
        return "out"
    severities = [finding.severity for finding in findings if finding.severity is not None]
    if not severities or any(finding.state == "unknown" and not finding.long for finding in findings):
        return "silent"
    return "clear" if max(severities) < settings.clear_below else "between"


def slices_judged(windows: Sequence[PastWindow], since: float, settings: PolicySettings) -> list[str]:
    """The slices of which windows that closed at `since` or later said anything, in order of their names."""
    recent = [past for past in windows if past.closed >= since]
    names = {finding.slice for past in recent for finding in past.findings if finding.family == SLICE}
    return sorted(name for name in names if _statuses(SLICE, [of_slice(past, name) for past in recent], settings))


def of_slice(window: PastWindow, name: str) -> PastWindow:
    """The window with the findings of that slice alone."""
    return replace(window, findings=tuple(item for item in window.findings if item.slice == name))


def cause_of(finding: Finding) -> Cause | None:
    """The cause that a finding speaks for.

    An estimate without reviews is blind to concept drift and can only page; reviews that were asked for are of the
    cells that were hard, and speak for nothing. That answers are surer than they are right alerts and starts nothing:
    where it costs anything the balanced accuracy of the same reviews says so. Readers who disagree with each other say
    nothing of the model: a person must ask them.
    Blurred, badly lit or faded pictures are mended at the microscope, and have an alert of their own; where the cells
    as a whole changed with them, the covariate findings say so.
    """
    if finding.name in _PICTURES:
        return None
    if finding.family != "performance":
        return finding.family
    return _PERFORMANCE.get(finding.name.removeprefix(LONG))


def run_finished(state: PolicyState, outcome: Outcome) -> PolicyState:
    """The last run came to an end. Raises ValueError when none is running."""
    if not state.runs or state.runs[-1].outcome != "running":
        raise ValueError("no retraining is running")
    return replace(state, runs=(*state.runs[:-1], replace(state.runs[-1], outcome=outcome)))


def breaker_open(state: PolicyState, settings: PolicySettings) -> bool:
    """Whether refusals in a row have opened the breaker. A run that failed had no candidate and changes nothing."""
    since = float("-inf") if state.breaker_closed_at is None else state.breaker_closed_at
    verdicts = [run.outcome for run in state.runs if run.started > since and run.outcome in ("passed", "refused")]
    last = verdicts[-settings.breaker_refusals :]
    return len(last) == settings.breaker_refusals and "passed" not in last


def close_breaker(state: PolicyState, now: float) -> PolicyState:
    """A person closes it."""
    return replace(state, breaker_closed_at=now)


def blocked(state: PolicyState, settings: PolicySettings, now: float, reviewed: Reviewed) -> Block | None:
    """What keeps a due retraining back, the strongest reason first; None when one may start."""
    starts = [run.started for run in state.runs]
    blocks: dict[Block, bool] = {
        "frozen": state.frozen,
        "running": bool(state.runs) and state.runs[-1].outcome == "running",
        "breaker": breaker_open(state, settings),
        "budget": sum(start > now - settings.budget_period_s for start in starts) >= settings.budget_runs,
        "cooldown": any(start > now - settings.cooldown_s for start in starts),
        "reviews": not _enough(reviewed, settings),
    }
    return next((name for name, holds in blocks.items() if holds), None)


def _statuses(cause: Cause, windows: Sequence[PastWindow], settings: PolicySettings) -> list[Status]:
    every = [status(window, cause, settings) for window in windows]
    return [one for one in every if one != "silent"]


def _fires(cause: Cause, windows: Sequence[PastWindow], settings: PolicySettings) -> bool:
    if windows and any(item.long and item.out and cause_of(item) == cause for item in windows[-1].findings):
        return True
    return _statuses(cause, windows, settings)[-settings.fire_of :].count("out") >= settings.fire_windows


def _readers_differ(windows: Sequence[PastWindow]) -> bool:
    """By the last window that says. What their reviews asked for before is then no reason for a retraining, either."""
    said = (item for past in reversed(windows) for item in past.findings if item.name == _READERS and item.judged)
    return any(item.out for item in islice(said, 1))


def _alarmed(cause: Cause, windows: Sequence[PastWindow], before: bool, settings: PolicySettings) -> bool:
    if not before:
        return _fires(cause, windows, settings)
    last = _statuses(cause, windows, settings)[-settings.clear_windows :]
    return not (len(last) == settings.clear_windows and set(last) == {"clear"})


def _enough(reviewed: Reviewed, settings: PolicySettings) -> bool:
    return reviewed.cells >= settings.min_reviewed_cells and reviewed.patients >= settings.min_reviewed_patients


def _act(
    state: PolicyState, settings: PolicySettings, now: float, reviewed: Reviewed, out: tuple[Cause, ...]
) -> Decision:
    block = blocked(state, settings, now, reviewed) if state.pending else None
    told = tuple(word for word in state.told if word not in PAGED_BLOCKS or word == block)
    state = replace(state, told=told)
    if state.pending and block is None:
        run = replace(state, pending=(), runs=(*state.runs, Run(now)))
        return Decision("retrain", f"{_names(state.pending)} called for it", state.pending, None, run)
    if block in PAGED_BLOCKS and block not in told:
        why = f"{_names(state.pending)} calls for retraining, but {_BLOCKED[block]}"
        return Decision("page", why, state.pending, block, replace(state, told=(*told, block)))
    if "quality" in state.alarms and "quality" not in told:
        why = "the service refers, or does not know, more cells than agreed, or readers disagree with each other"
        return Decision("page", why, ("quality",), block, replace(state, told=(*told, "quality")))
    # Where the window as a whole has an alarm that says as much, its slices would say it again.
    new = tuple(name for name in state.slices if _told_of(name) not in told)
    if new and not {"covariate", "concept", "label_shift"}.intersection(state.alarms):
        why = f"{' and '.join(new)} changed and the rest did not: ask there, before anything is learned from it"
        now_told = (*told, *(_told_of(name) for name in new))
        return Decision("page", why, (SLICE,), block, replace(state, told=now_told))
    # Label shift is only label shift while nothing says that the cells themselves changed; advice waits out a freeze.
    cells_changed = "covariate" in state.alarms or "concept" in state.alarms or "imbalance" in state.pending
    alone = "label_shift" in state.alarms and not cells_changed
    if alone and "label_shift" not in told and not state.frozen:
        why = "the case mix changed and the cells did not: recalibrate the priors"
        return Decision("recalibrate", why, ("label_shift",), None, replace(state, told=(*told, "label_shift")))
    if block == "reviews":
        wanted = f"{settings.min_reviewed_cells} of {settings.min_reviewed_patients} patients"
        why = f"{_names(state.pending)} calls for retraining: {reviewed.cells} reviewed cells of {reviewed.patients} "
        return Decision("pending", f"{why}patients, {wanted} are needed", state.pending, block, state)
    if block is not None:
        why = f"{_names(state.pending)} calls for retraining, but {_BLOCKED[block]}"
        return Decision("watch", why, state.pending, block, state)
    watched = tuple(cause for cause in CAUSES if cause in out or cause in state.alarms)
    if watched:
        return Decision("watch", f"{_names(watched)} is out, or was and has not cleared", watched, None, state)
    return Decision("none", "nothing is out", (), None, state)


_BLOCKED: Final[dict[Block, str]] = {
    "frozen": "a person froze the trigger",
    "running": "one is running",
    "breaker": "the breaker is open after refused candidates: a person must close it",
    "budget": "the budget of this period is spent",
    "cooldown": "the last one started too recently",
}
_PICTURES: Final = ("blurred", "exposure", "stain_faded")
_READERS: Final = "reviewer_disagreement"
_PERFORMANCE: Final[dict[str, Cause]] = {
    "reviewed_balanced_accuracy": CONCEPT,
    "estimated_accuracy": QUALITY,
    _READERS: QUALITY,
}
_WORDS: Final[dict[Cause, str]] = {SLICE: "a slice", PLANNED: "a planned change"}


def _told_of(name: str) -> str:
    return f"{SLICE} {name}"


def _names(causes: Sequence[Cause]) -> str:
    return " and ".join(_WORDS.get(cause, cause.replace("_", " ")) for cause in causes)
