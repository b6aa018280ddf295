"""Gauges of slices: of those that the last window judged, and of no others.

Their names come from callers, the only labels here that do: each is of a site, stain, scanner or client with a large
part of a window's cells, and there are at most `max_slices` at a time, beside those that a person's calendar names.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Gauge

from monitoring.findings import STATES, Finding


class SliceGauges:
    """`blastwatch_monitor_slice_…`, by finding, slice, and whether the slice was planned."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *more: str) -> Gauge:
            labels = ("finding", "slice", "planned", *more)
            return Gauge(f"blastwatch_monitor_slice_{name}", text, labels, registry=registry)

        self._figure = gauge("figure", "The figure of a slice of the last window; NaN when there is none")
        self._threshold = gauge("threshold", "What the slice's figure is held against; NaN for nothing")
        self._severity = gauge("severity", "Share of the slice's way to drift, 1 is there; NaN if not judged")
        self._state = gauge("state", "1 for the slice's state in the last window", "state")
        self._cells = gauge("cells", "Cells that the slice's figure rests on")
        self._patients = gauge("patients", "Patients that the slice's figure rests on")

    def show(self, findings: Iterable[Finding]) -> None:
        """Those of the last window, in place of those before."""
        self.clear()
        for finding in findings:
            planned = str(finding.family == "planned").lower()
            names = {"finding": finding.name, "slice": finding.slice, "planned": planned}
            for gauge, value in (
                (self._figure, finding.figure),
                (self._threshold, finding.threshold),
                (self._severity, finding.severity),
                (self._cells, finding.cells),
                (self._patients, finding.patients),
            ):
                gauge.labels(**names).set(float("nan") if value is None else value)
            for state in STATES:
                self._state.labels(**names, state=state).set(state == finding.state)

    def clear(self) -> None:
        """None."""
        for gauge in (self._figure, self._threshold, self._severity, self._state, self._cells, self._patients):
            gauge.clear()
