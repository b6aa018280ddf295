"""A window with its verdict, and a decision, as they are kept."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from monitoring.findings import Finding, State
from monitoring.policy import Decision, PastWindow
from monitoring.window import Window


@dataclass(frozen=True)
class JudgedWindow:
    """A window as it was judged; times in seconds since the epoch."""

    window_id: str
    model_version: str
    first_seq: int
    last_seq: int
    opened: float
    closed: float
    complete: bool
    cells: int
    patients: int
    state: State
    findings: tuple[Finding, ...]

    @property
    def past(self) -> PastWindow:
        """What the policy wants to know of it."""
        return PastWindow(self.model_version, self.closed, self.findings)


@dataclass(frozen=True)
class PastDecision:
    """A decision as it was made; `window_id` is None for one between windows."""

    time: float
    window_id: str | None
    model_version: str
    kind: str
    why: str
    causes: tuple[str, ...]
    blocked_by: str | None

    def same_as(self, decision: Decision) -> bool:
        """Whether `decision` says nothing new."""
        return (self.kind, self.causes, self.blocked_by) == (decision.kind, decision.causes, decision.blocked_by)


def window_id(window: Window) -> str:
    """32 hex characters, the same for the same window whoever cuts it."""
    text = json.dumps([window.model_version, window.first_seq, window.last_seq])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def state_of(window: Window, findings: Sequence[Finding]) -> State:
    """Drift if any finding is, else unknown if any is; insufficient if it expired or nothing was judged.

    What a planned change does was expected and says nothing against the window.
    """
    states = {finding.state for finding in findings if finding.family != "planned"}
    if not window.complete:
        return "insufficient"
    return next((state for state in ("drift", "unknown", "ok") if state in states), "insufficient")


def judged_window(window: Window, findings: Sequence[Finding]) -> JudgedWindow:
    """The window with its verdict."""
    return JudgedWindow(
        window_id=window_id(window),
        model_version=window.model_version,
        first_seq=window.first_seq,
        last_seq=window.last_seq,
        opened=window.opened,
        closed=window.closed,
        complete=window.complete,
        cells=len(window.cells),
        patients=window.patients,
        state=state_of(window, findings),
        findings=tuple(findings),
    )
