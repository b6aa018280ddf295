"""Every metric of the service, built in one function into the registry it is given.

Workers share their metrics through files (PROMETHEUS_MULTIPROC_DIR): counters and histograms are summed, and gauges sum
over the living. Labels that come from callers pass an allow-list, everything else is `other`.
"""

import contextlib
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from service.domain import ModelInfo
from service.settings import Settings

M = TypeVar("M", Counter, Histogram)

OTHER = "other"
STAGES = ("decode", "queue", "compute", "keep", "journal", "total")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Children(Generic[M]):
    """A metric's children, each looked up once: `labels` costs more than counting does."""

    def __init__(self, metric: M) -> None:
        self.metric: M = metric
        self._children: dict[tuple[str, ...], M] = {}

    def of(self, *values: str) -> M:
        """The child of these label values, in the order of the metric's label names."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self.metric.labels(*values)
        return child


@dataclass(frozen=True)
class Metrics:
    """The service's metrics and the allow-lists of their labels."""

    registry: CollectorRegistry
    requests: Children[Counter]
    answers: Children[Counter]
    refer_reasons: Children[Counter]
    reviews: Counter
    stage_seconds: Children[Histogram]
    batch_size: Histogram
    in_work: Gauge
    queue_depth: Gauge
    journal_pending: Gauge
    model_workers: Gauge
    beside_workers: Gauge
    shadow_answers: Counter
    shadow_dropped: Counter
    refer_all_workers: Gauge
    model_info: Gauge
    swaps: Counter
    rollbacks: Counter
    failed_loads: Counter
    ledger_unreachable: Counter
    store_unreachable: Counter
    rejected: Counter
    auth_failures: Counter
    tokens_refused: Counter
    certificates_refused: Counter
    audit_lost: Counter
    known_sites: frozenset[str] = field(default_factory=frozenset)
    known_stains: frozenset[str] = field(default_factory=frozenset)
    known_scanners: frozenset[str] = field(default_factory=frozenset)
    known_clients: frozenset[str] = field(default_factory=frozenset)

    def answered(
        self, *, label: str, refer: bool, site: str, stain: str, scanner: str, client: str, version: str
    ) -> None:
        """Counts one answer; values that callers choose pass the allow-lists."""
        self.answers.of(
            label,
            str(refer).lower(),
            known(site, self.known_sites),
            known(stain, self.known_stains),
            known(scanner, self.known_scanners),
            known(client, self.known_clients),
            version,
        ).inc()

    def serving(self, model: ModelInfo, value: int) -> None:
        """Says of a model that this worker serves it (1), or no longer (0)."""
        self.model_workers.labels(model.version).set(value)
        self.model_info.labels(model.version, model.created, str(len(model.labels))).set(value)

    def referred(self, reasons: Collection[str], *, version: str) -> None:
        """Counts each reason of one referred answer: an answer with two reasons counts under both."""
        for reason in reasons:
            self.refer_reasons.of(reason, version).inc()


def known(value: str, allowed: Collection[str]) -> str:
    """`value` where the operator listed it, else `other`: callers must not be able to make time series."""
    return value if value in allowed else OTHER


def build_metrics(registry: CollectorRegistry, settings: Settings) -> Metrics:
    """Builds every metric into `registry`; once a registry."""

    def counter(name: str, text: str, *labels: str) -> Counter:
        return Counter(f"blastwatch_{name}", text, labels, registry=registry)

    def gauge(name: str, text: str, *labels: str, mode: Literal["livesum", "livemax"] = "livesum") -> Gauge:
        return Gauge(f"blastwatch_{name}", text, labels, registry=registry, multiprocess_mode=mode)

    def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"blastwatch_{name}", text, labels, registry=registry, buckets=buckets)

    return Metrics(
        registry=registry,
        requests=Children(
            counter("requests", "Calls by transport, method and the status sent", "transport", "method", "code")
        ),
        answers=Children(
            counter(
                "answers",
                "Cells answered, without test traffic",
                *("label", "refer", "site", "stain", "scanner", "client", "model_version"),
            )
        ),
        refer_reasons=Children(
            counter(
                "refer_reasons",
                "Reasons that answers were referred for, without test traffic",
                *("reason", "model_version"),
            )
        ),
        reviews=counter("reviews", "Reviews taken, without test traffic", "label", "agrees", "sampled"),
        stage_seconds=Children(
            histogram("stage_seconds", "Latency of classify by stage, in seconds", SECONDS, "stage")
        ),
        batch_size=histogram("batch_size", "Cells computed together, one observation a cell", BATCHES),
        in_work=gauge("in_work", "Cells that were accepted and not yet answered"),
        queue_depth=gauge("queue_depth", "Cells that wait for their turn or for a batch"),
        journal_pending=gauge("journal_pending_bytes", "Journal that the store does not have yet, in bytes"),
        model_workers=gauge("model_workers", "Workers that serve this model version", "model_version"),
        beside_workers=gauge(
            "beside_workers", "Workers with this version as canary or shadow beside production", "role", "model_version"
        ),
        shadow_answers=counter("shadow_answers", "Cells that a shadow looked at, and whether it agrees", "agrees"),
        shadow_dropped=counter("shadow_dropped", "Cells that a shadow could not look at, or not put into the store"),
        refer_all_workers=gauge("refer_all_workers", "Workers whose kill switch is on: they refer every answer"),
        model_info=gauge(
            "model_info",
            "1 for a model that a worker serves, 0 for one that was: when it was made, and how many labels it knows",
            *("model_version", "created", "labels"),
            mode="livemax",
        ),
        swaps=counter("model_swaps", "Times that a worker took another model"),
        rollbacks=counter("model_rollbacks", "Times that a worker took another model because of a rollback"),
        failed_loads=counter("model_failed_loads", "Models that a worker refused to load"),
        ledger_unreachable=counter("ledger_unreachable", "Times that the ledger could not be read"),
        store_unreachable=counter("store_unreachable", "Times that the store could not be asked or written"),
        rejected=counter("rejected", "Errors that callers were told of, by transport and error", "transport", "reason"),
        auth_failures=counter(
            "auth_failures", "Calls that were not let in, by transport and why", "transport", "reason"
        ),
        tokens_refused=counter("tokens_file_refused", "Changes of the tokens file that made no sense"),
        certificates_refused=counter("certificates_refused", "Changes of the TLS files that made no sense"),
        audit_lost=counter("audit_lost", "Audit rows given up because the disk did not take them for long"),
        known_sites=frozenset(settings.known_sites),
        known_stains=frozenset(settings.known_stains),
        known_scanners=frozenset(settings.known_scanners),
        known_clients=frozenset(settings.known_clients),
    )


def expose(registry: CollectorRegistry) -> bytes:
    """The metrics of all workers as Prometheus text; of `registry` alone outside a multi-process server."""
    if shared_folder() is None:
        return generate_latest(registry)
    # A killed worker is replaced after some seconds, in a container never; its gauges must not wait for that.
    forget_dead_workers()
    everyone = CollectorRegistry()
    MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
    return generate_latest(everyone)


def forget_dead_workers() -> list[int]:
    """Drops the gauges of workers that are gone and returns their pids: a killed worker cannot take its own down."""
    folder = shared_folder()
    if folder is None:
        return []
    pids = {int(path.stem.rsplit("_", 1)[1]) for path in folder.glob("*_*.db") if path.stem.rsplit("_", 1)[1].isdigit()}
    dead = sorted(pid for pid in pids if not _alive(pid))
    for pid in dead:
        with contextlib.suppress(FileNotFoundError):  # another worker was faster
            mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
    return dead


def shared_folder() -> Path | None:
    """Where the workers of one server share their metrics, if they do."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(folder) if folder else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
