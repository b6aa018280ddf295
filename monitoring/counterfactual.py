"""What would have changed a decision: the policy is asked again with one thing changed. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from monitoring.findings import Finding
from monitoring.given import Given
from monitoring.policy import CAUSES, Cause, Decision, PastWindow, Reviewed, breaker_open, cause_of, close_breaker

Change = tuple[str, Given]


@dataclass(frozen=True)
class Otherwise:
    """`change` in words, and the decision that it would have brought."""

    change: str
    decision: Decision


def otherwise(given: Given) -> list[Otherwise]:
    """Changes that would have brought another decision: of kind, of causes, or of what kept it back."""
    actual = _said(given.decide())
    found = [Otherwise(change, changed.decide()) for change, changed in _changes(given)]
    found += _coming(given)
    return [item for item in found if _said(item.decision) != actual]


def utc(at: float) -> str:
    """A moment, in seconds since the epoch, for people."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def _said(decision: Decision) -> tuple[object, ...]:
    return decision.kind, decision.causes, decision.blocked_by


def _changes(given: Given) -> Iterator[Change]:
    """One thing changed at a time, and at last everything that keeps a retraining back."""
    window = given.window
    if window is not None:
        for finding in window.findings:
            if finding.out:
                yield f"without drift in {_named(finding)}", replace(given, window=_with(window, _quiet(finding)))
        for cause in CAUSES:
            out = [item for item in window.findings if item.out and cause_of(item) == cause]
            if len(out) > 1:
                yield f"without any drift in {cause}", replace(given, window=_with(window, *map(_quiet, out)))
    freed, lifts = given, 0
    for change, lifted in _lifts(given):
        yield change, lifted
        freed = replace(
            freed,
            now=max(freed.now, lifted.now),
            reviewed=lifted.reviewed if lifted.reviewed != given.reviewed else freed.reviewed,
            state=replace(
                freed.state,
                frozen=freed.state.frozen and lifted.state.frozen,
                breaker_closed_at=lifted.state.breaker_closed_at or freed.state.breaker_closed_at,
                runs=lifted.state.runs if lifted.state.runs != given.state.runs else freed.state.runs,
            ),
        )
        lifts += 1
    if lifts > 1:
        yield "with all of what might keep it back lifted", freed
    enough = given.settings.min_reviewed_cells
    if given.reviewed.cells >= enough:
        yield f"with fewer than {enough} reviewed cells", replace(given, reviewed=Reviewed(enough - 1, 0))


def _lifts(given: Given) -> Iterator[Change]:
    """What keeps a retraining back, or might, taken away one by one."""
    state, settings = given.state, given.settings
    if state.frozen:
        yield "if nobody had frozen the trigger", replace(given, state=replace(state, frozen=False))
    if state.runs and state.runs[-1].outcome == "running":
        ended = (*state.runs[:-1], replace(state.runs[-1], outcome="failed"))
        yield "once the retraining that runs has ended", replace(given, state=replace(state, runs=ended))
    if breaker_open(state, settings):
        yield "once a person has closed the breaker", replace(given, state=close_breaker(state, given.now))
    starts = sorted(run.started for run in state.runs)
    ends = {
        "budget": starts[-settings.budget_runs] + settings.budget_period_s
        if len(starts) >= settings.budget_runs
        else 0,
        "cooldown": starts[-1] + settings.cooldown_s if starts else 0,
    }
    for name, end in ends.items():
        if end > given.now:
            yield f"after the {name} ends at {utc(end)}", replace(given, now=end)
    cells = settings.min_reviewed_cells - given.reviewed.cells
    patients = settings.min_reviewed_patients - given.reviewed.patients
    if cells > 0 or patients > 0:
        more = [f"{cells} more reviewed cells"] if cells > 0 else []
        more += [f"reviews of {patients} more patients"] if patients > 0 else []
        there = Reviewed(given.reviewed.cells + max(cells, 0), given.reviewed.patients + max(patients, 0))
        yield f"with {' and '.join(more)}", replace(given, reviewed=there)


def _coming(given: Given) -> Iterator[Otherwise]:
    """How many windows to come, alike, bring another decision: of one cause out, or of nothing out."""
    window = given.window
    first = given.decide()
    if window is None or first.kind == "retrain":
        return
    most = max(given.settings.fire_of, given.settings.clear_windows)
    for cause in CAUSES:
        judged = next((item for item in window.findings if item.judged and cause_of(item) == cause), None)
        if judged is not None:
            yield from _after(given, first, _with(window, _out(judged)), f"with {cause} out", most, cause)
    clear = _with(window, *(_quiet(item) for item in window.findings if item.judged))
    yield from _after(given, first, clear, "in which nothing is out", most, None)


def _after(
    given: Given, first: Decision, coming: PastWindow, which: str, most: int, cause: Cause | None
) -> Iterator[Otherwise]:
    decision, history = first, [*given.history, *([given.window] if given.window else [])]
    for number in range(1, most + 1):
        window = replace(coming, closed=given.now + number)
        after = replace(given, window=window, history=tuple(history), state=decision.state, now=window.closed)
        decision = after.decide()
        history.append(window)
        news = decision.kind != first.kind and (cause is None or cause in decision.causes)
        if news and decision.kind != "watch":
            yield Otherwise(f"after {number} more window{'s' if number > 1 else ''} {which}", decision)
            return


def _with(window: PastWindow, *changed: Finding) -> PastWindow:
    new = {(item.family, item.title): item for item in changed}
    return replace(window, findings=tuple(new.get((item.family, item.title), item) for item in window.findings))


def _named(finding: Finding) -> str:
    return finding.name + (f" of {finding.slice}" if finding.slice else "")


def _quiet(finding: Finding) -> Finding:
    return replace(finding, state="ok", severity=0.0)


def _out(finding: Finding) -> Finding:
    return replace(finding, state="drift", severity=max(finding.severity or 0.0, 1.0))
