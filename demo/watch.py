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


def until(what: str, seconds: float, probe: Callable[[], T | None], *, every: float = 0.5, check: Callable[[], None]) -> T:
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
