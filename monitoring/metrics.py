"""Every metric of the monitor, built in one function into the registry it is given.

No label comes from callers but the names of slices (slice_metrics.py): findings, families, states and kinds are lists
of this program, and a model version is a hash that the ledger names.
"""

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from monitoring.findings import STATES, Finding
from monitoring.policy import CAUSES, Kind
from monitoring.slice_metrics import SliceGauges

KINDS: tuple[str, ...] = get_args(Kind)
ALERT_OUTCOMES = ("started", "refused", "repeated", "ignored")
WEBHOOK_REFUSALS = ("unauthorised", "not_configured", "bad_payload")


@dataclass(frozen=True)
class Metrics:
    """The monitor's metrics."""

    registry: CollectorRegistry
    finding_figure: Gauge
    finding_threshold: Gauge
    finding_severity: Gauge
    finding_state: Gauge
    finding_cells: Gauge
    finding_patients: Gauge
    windows: Counter
    last_window_timestamp: Gauge
    last_window_age: Gauge
    open_window_cells: Gauge
    open_window_patients: Gauge
    decision: Gauge
    pending: Gauge
    frozen: Gauge
    alarm: Gauge
    breaker_open: Gauge
    alerts: Counter
    webhook_refused: Counter
    store_up: Gauge
    store_failures: Counter
    last_seen_seq: Gauge
    last_step_timestamp: Gauge
    step_failures: Counter
    report_failures: Counter
    reference_missing: Gauge
    production: Gauge
    retraining_running: Gauge
    retrainings: Gauge
    last_retraining: dict[str, Gauge]
    slices: SliceGauges
    calendar_broken: Gauge

    def show_window(self, findings: Iterable[Finding], closed: float) -> None:
        """The gauges of the last window; `closed` in seconds since the epoch."""
        every = list(findings)
        self.slices.show(item for item in every if item.slice)
        for finding in (item for item in every if not item.slice):
            names = {"finding": finding.name, "family": finding.family}
            _set(self.finding_figure, finding.figure, names)
            _set(self.finding_threshold, finding.threshold, names)
            _set(self.finding_severity, finding.severity, names)
            self.finding_cells.labels(**names).set(finding.cells)
            self.finding_patients.labels(**names).set(finding.patients)
            for state in STATES:
                self.finding_state.labels(**names, state=state).set(state == finding.state)
        self.last_window_timestamp.set(closed)
        self.last_window_age.set_function(lambda: max(0.0, time.time() - closed))

    def clear_window(self) -> None:
        """Another model is watched: what the last one's window said says nothing of it."""
        for gauge in (
            self.finding_figure,
            self.finding_threshold,
            self.finding_severity,
            self.finding_state,
            self.finding_cells,
            self.finding_patients,
        ):
            gauge.clear()
        self.slices.clear()

    def show_decision(self, kind: str) -> None:
        """One of the kinds is 1, the others are 0."""
        for known in KINDS:
            self.decision.labels(kind=known).set(known == kind)

    def show_alarms(self, causes: Collection[str], *, breaker: bool) -> None:
        """What the policy has alarms for, and whether the breaker is open."""
        for cause in CAUSES:
            self.alarm.labels(cause=cause).set(cause in causes)
        self.breaker_open.set(breaker)

    def show_production(self, version: str | None) -> None:
        """The model whose answers are watched."""
        self.production.clear()
        if version is not None:
            self.production.labels(model_version=version).set(1)

    def show_retrainings(self, counts: Mapping[str, int]) -> None:
        """How many retrainings the ledger has, by what became of them."""
        for outcome, number in counts.items():
            self.retrainings.labels(outcome=outcome).set(number)

    def show_cost(self, cost: Mapping[str, float]) -> None:
        """What the last retraining took, as monitoring.runs.last_cost has it."""
        for name, gauge in self.last_retraining.items():
            gauge.set(cost.get(name, float("nan")))


def build_metrics(registry: CollectorRegistry) -> Metrics:
    """Builds every metric into `registry`; once a registry."""

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"blastwatch_monitor_{name}", text, labels, registry=registry)

    def counter(name: str, text: str, *labels: str) -> Counter:
        return Counter(f"blastwatch_monitor_{name}", text, labels, registry=registry)

    finding = ("finding", "family")
    metrics = Metrics(
        registry=registry,
        finding_figure=gauge("finding_figure", "The figure of the last window; NaN when there is none", *finding),
        finding_threshold=gauge("finding_threshold", "What the figure is held against; NaN for nothing", *finding),
        finding_severity=gauge(
            "finding_severity", "Share of the way to drift, 1 is there; NaN if not judged", *finding
        ),
        finding_state=gauge("finding_state", "1 for the state in the last window", *finding, "state"),
        finding_cells=gauge("finding_cells", "Cells that the figure rests on", *finding),
        finding_patients=gauge("finding_patients", "Patients that the figure rests on", *finding),
        windows=counter("windows", "Windows judged, by state, those before this process started included", "state"),
        last_window_timestamp=gauge("last_window_timestamp_seconds", "When the last window closed"),
        last_window_age=gauge("last_window_age_seconds", "How long ago the last window closed; NaN before the first"),
        open_window_cells=gauge("open_window_cells", "Cells in the window that is still open"),
        open_window_patients=gauge("open_window_patients", "Patients in the window that is still open"),
        decision=gauge("decision", "1 for the kind of the last decision", "kind"),
        pending=gauge("pending", "1 while a retraining is due and has not started"),
        frozen=gauge("frozen", "1 while a person has frozen the trigger"),
        alarm=gauge("alarm", "1 while the policy has an alarm for this cause: out in 3 of the last 5 windows", "cause"),
        breaker_open=gauge("breaker_open", "1 while refused candidates keep retraining off until a person resumes"),
        alerts=counter("alerts", "Firing alerts that the webhook took, by what became of them", "outcome"),
        webhook_refused=counter("webhook_refused", "Calls of the webhook that were turned away, by why", "reason"),
        store_up=gauge("store_up", "1 when store and ledger could be reached at the last look"),
        store_failures=counter("store_failures", "Looks at which store or ledger could not be reached"),
        last_seen_seq=gauge("last_seen_seq", "Last record that was read, and judged where it closed a window"),
        last_step_timestamp=gauge(
            "last_step_timestamp_seconds",
            "When the last look at the store ended, well or not; at first, when the monitor started",
        ),
        step_failures=counter("step_failures", "Looks that ended with an unforeseen error: see the log"),
        report_failures=counter("report_failures", "Reports of windows that could not be written: see the log"),
        reference_missing=gauge("reference_missing", "1 when production has no reference to judge against"),
        production=gauge("production", "1 for the model in production", "model_version"),
        retraining_running=gauge("retraining_running", "1 while a retraining runs"),
        retrainings=gauge("retrainings", "Retrainings in the ledger, by outcome", "outcome"),
        last_retraining={
            name: gauge(f"last_retraining_{unit}", f"{text} the retraining that ended last; NaN if not known")
            for name, unit, text in (
                ("seconds", "seconds", "How long it took:"),
                ("processor_seconds", "processor_seconds", "Processor seconds, of all its processes:"),
                ("peak_memory_bytes", "peak_memory_bytes", "Resident memory of its largest process:"),
                ("ended", "end_timestamp_seconds", "When it ended:"),
            )
        },
        slices=SliceGauges(registry),
        calendar_broken=gauge("calendar_broken", "1 while the calendar cannot be read: what it said before holds"),
    )
    metrics.last_window_age.set(float("nan"))
    metrics.last_step_timestamp.set_to_current_time()
    for state in STATES:
        metrics.windows.labels(state=state)
    metrics.show_decision("none")
    metrics.show_alarms((), breaker=False)
    for outcome in ALERT_OUTCOMES:
        metrics.alerts.labels(outcome=outcome)
    for reason in WEBHOOK_REFUSALS:
        metrics.webhook_refused.labels(reason=reason)
    metrics.show_cost({})
    return metrics


def _set(gauge: Gauge, value: float | None, names: Mapping[str, str]) -> None:
    gauge.labels(**names).set(float("nan") if value is None else value)
