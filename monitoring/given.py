"""What a decision was made from, as the ledger keeps it: enough to make the decision again, or another one. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from monitoring.door import asked, breaker_opened
from monitoring.findings import Finding
from monitoring.judge_settings import PolicySettings
from monitoring.policy import (
    CAUSES,
    SLICE,
    Decision,
    PastWindow,
    PolicyState,
    Reviewed,
    Run,
    decide,
    of_slice,
    reconsider,
    slices_judged,
    status,
)

POLICY: Final = "policy"
BREAKER: Final = "breaker"
_BRIEF: Final = ("name", "family", "state", "severity", "slice")
_KEPT: Final = ("why", "planned")


@dataclass(frozen=True)
class Given:
    """Everything that goes into a decision.

    by       whose question it answers: the policy's own, that of an occasion (`schedule`, `reviews`), or whether the
             breaker is open (`breaker`)
    wish     what the occasion says; "" for the policy
    window   the window that was judged; None between windows
    history  the windows before it that can make a difference, oldest first; of findings only what the policy reads
    now      seconds since the epoch
    """

    window: PastWindow | None
    history: tuple[PastWindow, ...]
    state: PolicyState
    settings: PolicySettings
    now: float
    reviewed: Reviewed
    by: str = POLICY
    wish: str = ""

    def decide(self) -> Decision:
        """The decision that follows."""
        if self.by == BREAKER:
            nothing = Decision("none", "the breaker is closed", (), None, self.state)
            return breaker_opened(self.state, self.settings, told_at=None) or nothing
        if self.by != POLICY:
            return asked(self.wish, self.state, self.settings, self.now, self.reviewed)
        if self.window is None:
            return reconsider(self.state, self.settings, self.now, self.reviewed)
        return decide(self.window, self.history, self.state, self.settings, self.now, self.reviewed)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        window = self.window
        return {
            "by": self.by,
            "wish": self.wish,
            "now": self.now,
            "version": self.state.model_version if window is None else window.model_version,
            "closed": None if window is None else window.closed,
            "findings": [] if window is None else [_finding(item) for item in window.findings],
            "history": [_brief(past) for past in _considered(self)],
            "state": replace(self.state, runs=_runs(self)).to_json(),
            "reviewed": {"cells": self.reviewed.cells, "patients": self.reviewed.patients},
            "settings": self.settings.model_dump(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_json` back. Raises KeyError, TypeError or ValueError for anything else."""
        model = str(values["version"])
        findings = tuple(Finding.from_json(item) for item in values["findings"])
        return cls(
            window=None if values["closed"] is None else PastWindow(model, values["closed"], findings),
            history=tuple(
                PastWindow(model, past["closed"], tuple(_from_brief(item) for item in past["findings"]))
                for past in values["history"]
            ),
            state=PolicyState.from_json(values["state"]),
            settings=PolicySettings(**values["settings"]),
            now=float(values["now"]),
            reviewed=Reviewed(**values["reviewed"]),
            by=str(values["by"]),
            wish=str(values["wish"]),
        )


def _considered(given: Given) -> list[PastWindow]:
    """For each cause, and each slice, the last windows that said anything of it: the policy looks at no others."""
    window = given.window
    if window is None:
        return []
    past = [item for item in given.history if item.model_version == window.model_version]
    most = max(given.settings.fire_of, given.settings.clear_windows)
    wanted: set[int] = set()
    for cause in CAUSES:
        spoke = [number for number, item in enumerate(past) if status(item, cause, given.settings) != "silent"]
        wanted.update(spoke[-most:])
    for name in slices_judged(past, window.closed - given.settings.slice_gone_s, given.settings):
        mine = (status(of_slice(item, name), SLICE, given.settings) for item in past)
        spoke = [number for number, said in enumerate(mine) if said != "silent"]
        wanted.update(spoke[-most:])
    return [past[number] for number in sorted(wanted)]


def _runs(given: Given) -> tuple[Run, ...]:
    """Those that budget, cooldown or breaker can still count."""
    settings, runs = given.settings, given.state.runs
    since = given.now - max(settings.budget_period_s, settings.cooldown_s)
    verdicts = [number for number, run in enumerate(runs) if run.outcome in ("passed", "refused")]
    oldest = verdicts[-settings.breaker_refusals :]
    first = min([*oldest[:1], *(n for n, run in enumerate(runs) if run.started > since)], default=len(runs) - 1)
    return runs[max(first, 0) :]


def _finding(finding: Finding) -> dict[str, Any]:
    """All of it but the details for people, of which the reason of a missing answer and what was planned stay."""
    detail = {key: finding.detail[key] for key in _KEPT if key in finding.detail}
    return finding.to_json() | {"detail": detail}


def _brief(window: PastWindow) -> dict[str, Any]:
    findings = [[getattr(item, name) for name in _BRIEF] for item in window.findings]
    return {"closed": window.closed, "findings": findings}


def _from_brief(values: Sequence[Any]) -> Finding:
    name, family, state, severity, *rest = values  # without a slice where it is older than they are
    return Finding(name, family, state, None, None, None, 0, 0, {}, severity, *rest)
