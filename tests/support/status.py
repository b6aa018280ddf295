"""Stories for the monitor's page: windows, decisions and ledger rows as a month of traffic would have left them."""

from dataclasses import replace

import numpy as np

from monitoring.findings import Finding, insufficient, judged
from monitoring.history import History
from monitoring.judge import FINDINGS
from monitoring.policy import Decision, Kind, PolicyState
from monitoring.verdict import JudgedWindow
from service.contract.ledger import Ledger

VERSION = "5a" * 16
DAY_S = 86400.0


def findings(rng: np.random.Generator, *, out: float = 0.0, site: str = "") -> tuple[Finding, ...]:
    """One of every kind; `out` > 1 puts the cells' look beyond its threshold, and leaves the case mix unknown."""
    found: list[Finding] = []
    for name, family in FINDINGS:
        figure = float(0.3 + 0.1 * rng.normal())
        if family == "covariate" and out:
            figure = out + float(0.1 * rng.normal())
        if family == "label_shift" and out > 1:
            found.append(Finding(name, family, "unknown", None, None, 0.1, 200, 12, {"why": "the cells changed"}))
        elif name.startswith("reviewed"):
            found.append(insufficient(name, family, 12, 4, "too few reviews"))
        else:
            found.append(
                judged(
                    name,
                    family,
                    severity=max(figure, 0.0),
                    figure=figure,
                    interval=(figure - 0.2, figure + 0.25),
                    threshold=1.0,
                    cells=200,
                    patients=12,
                    detail={"p": 0.2, "site": site} if site else {"p": 0.2},
                )
            )
    if site:
        whole = next(finding for finding in found if finding.name == "brightness")
        quiet = replace(whole, family="slice", name="slice_embedding", slice=f"site={site}", state="ok", severity=0.3)
        found += [quiet, replace(quiet, family="planned", state="drift", severity=1.2)]
    return tuple(found)


def window(number: int, closed: float, found: tuple[Finding, ...], version: str = VERSION) -> JudgedWindow:
    """The `number`th window, with the state that its findings give it."""
    states = {finding.state for finding in found}
    state = "drift" if "drift" in states else "unknown" if "unknown" in states else "ok"
    return JudgedWindow(
        window_id=f"{number:032x}",
        model_version=version,
        first_seq=200 * number + 1,
        last_seq=200 * (number + 1),
        opened=closed - DAY_S,
        closed=closed,
        complete=True,
        cells=200,
        patients=12,
        state=state,  # type: ignore[arg-type]
        findings=found,
    )


def tell(
    url: str,
    now: float,
    *,
    windows: int = 30,
    drifting: int = 0,
    refusals: int = 0,
    why: str = "nothing is out",
    site: str = "",
) -> None:
    """A model in production, `windows` daily windows of which the last `drifting` are out, and refused retrainings."""
    ledger, history = Ledger(url), History(url)
    ledger.append("registered", version=VERSION)
    ledger.promote(VERSION, None)
    rng = np.random.default_rng(0)
    state = PolicyState(VERSION)
    for number in range(windows):
        left = windows - number
        closed = now - DAY_S * (left - 0.5)
        bad = left <= drifting
        kind: Kind = "none" if not bad else "watch" if left > drifting - 2 else "pending"
        said = why if not bad else "covariate is out, or was and has not cleared"
        state = replace(state, alarms=("covariate",) if kind == "pending" else ())
        if site:
            state = replace(state, alarms=(*state.alarms, "slice"), slices=(f"site={site}",))
        decision = Decision(kind, said, ("covariate",) if bad else (), None, state)
        assert history.record(
            window(number, closed, findings(rng, out=1.6 if bad else 0.0, site=site)), decision, state, closed
        )
    for number in range(refusals):
        ledger.append("retraining_started", run=f"run-{number}", why="covariate called for it")
        ledger.append("retraining_finished", run=f"run-{number}", version=VERSION, gate="refused")
    ledger.close()
    history.close()
