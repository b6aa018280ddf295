"""What the demo looks at while the product works: the monitor's gauges, the ledger, the workers."""

import time
from collections.abc import Callable
from typing import TypeVar

import httpx
from prometheus_client.parser import text_string_to_metric_families

from service.contract.errors import BlastwatchError

T = TypeVar("T")
Gauges = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class TimedOut(BlastwatchError):
    """Something that the demo waits for did not happen in time."""


def until(
    what: str, seconds: float, probe: Callable[[], T | None], *, every: float = 0.5, check: Callable[[], None]
) -> T:
    """Wait until `probe` returns something true; `check` raises when waiting has become pointless.

    Raises:
        TimedOut: it did not, within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        check()
        if time.monotonic() > deadline:
            raise TimedOut(f"waited {seconds:.0f} s for {what}, in vain")
        time.sleep(every)


def answers(url: str) -> bool:
    """Does this address answer with 200?"""
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def gauges(monitor_url: str) -> Gauges:
    """The monitor's metrics by name and labels; empty while it cannot be reached."""
    try:
        text = httpx.get(f"{monitor_url}/metrics", timeout=5).text
    except httpx.HTTPError:
        return {}
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def pending(monitor_url: str) -> bool:
    """Has the policy decided to retrain, and waits?"""
    return gauges(monitor_url).get(("blastwatch_monitor_pending", ()), 0.0) == 1.0


def last_seen(monitor_url: str) -> float:
    """The last record that the monitor has read and judged; −1 while it cannot be reached."""
    return gauges(monitor_url).get(("blastwatch_monitor_last_seen_seq", ()), -1.0)


def windows(monitor_url: str) -> dict[str, float]:
    """How many windows the monitor judged, by state."""
    return {
        dict(labels)["state"]: value
        for (name, labels), value in gauges(monitor_url).items()
        if name == "blastwatch_monitor_windows_total"
    }


def findings(monitor_url: str) -> list[tuple[str, str, float, float]]:
    """The last window's findings: name, state, figure, threshold."""
    now = gauges(monitor_url)
    states = {
        dict(labels)["finding"]: dict(labels)["state"]
        for (name, labels), value in now.items()
        if name == "blastwatch_monitor_finding_state" and value == 1.0
    }

    def figure(metric: str, finding: str) -> float:
        return next(
            (v for (name, labels), v in now.items() if name == metric and dict(labels)["finding"] == finding),
            float("nan"),
        )

    return [
        (
            finding,
            state,
            figure("blastwatch_monitor_finding_figure", finding),
            figure("blastwatch_monitor_finding_threshold", finding),
        )
        for finding, state in sorted(states.items())
    ]
