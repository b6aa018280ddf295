"""The case mix that a recalibration is for: what the windows of the alarm say the labels' shares are now."""

from collections.abc import Iterable
from typing import Final

from monitoring.findings import Finding
from monitoring.long_view import LABEL_SHIFT

LEAST_SHARE: Final = 0.005
"""Of a label that none of a few hundred answers was: the change plan's own least. A share of 0 would forbid it."""


def case_mix(windows: Iterable[Iterable[Finding]]) -> dict[str, float] | None:
    """{label: share}, the mean by cells over those of the windows that found a label shift; None where none did.

    One window of a few hundred cells is off by several points; an alarm rests on at least three, or on the long view,
    whose shares are then the newest.
    """
    sums: dict[str, float] = {}
    total = 0
    for findings in windows:
        for finding in findings:
            if finding.name == LABEL_SHIFT and finding.out:
                sums, total = {}, 0  # it holds the windows before it
            if finding.family == "label_shift" and finding.out and "shares" in finding.detail:
                total += finding.cells
                for label, share in finding.detail["shares"].items():
                    sums[label] = sums.get(label, 0.0) + finding.cells * float(share)
    if total == 0:
        return None
    shares = {label: max(value / total, LEAST_SHARE) for label, value in sums.items()}
    whole = sum(shares.values())
    return {label: round(share / whole, 4) for label, share in shares.items()}
