"""Metrics: callers cannot make time series, and dead workers leave none behind."""

import os
import subprocess
import sys
from contextvars import copy_context
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service.client import AnyClient, Client, HttpClient
from service.contract.errors import BadImage, NotFound, StoreUnavailable
from service.door import Door, Visit, failed
from service.metrics import build_metrics, expose, forget_dead_workers
from service.settings import load_settings
from tests.service.running import Site, Worker, eventually, working
from tests.support.images import png


def answered(count: int, registry: CollectorRegistry) -> str:
    metrics = build_metrics(registry, load_settings(known_sites=("site-a",)))
    for number in range(count):
        metrics.answered(
            label="L1",
            refer=False,
            site="site-a" if number == 0 else f"site {number}",
            stain=f"stain {number}",
            scanner=f"scanner {number}",
            client="local",
            version="v",
        )
    return expose(registry).decode()


def test_values_that_callers_choose_make_no_series() -> None:
    text = answered(50, CollectorRegistry())
    series = [line for line in text.splitlines() if line.startswith("blastwatch_answers_total{")]
    assert len(series) == 2
    assert any('site="site-a"' in line and line.endswith(" 1.0") for line in series)
    assert any('site="other"' in line and line.endswith(" 49.0") for line in series)


def test_two_builds_into_fresh_registries_do_not_meet() -> None:
    answered(1, CollectorRegistry())
    assert 'site="site-a"' in answered(1, CollectorRegistry())


def test_an_answer_with_two_reasons_counts_under_both() -> None:
    registry = CollectorRegistry()
    metrics = build_metrics(registry, load_settings())
    metrics.referred(("uncertain", "unknown_scale"), version="v")
    metrics.referred(("uncertain",), version="v")
    metrics.referred((), version="v")
    lines = expose(registry).decode().splitlines()
    assert [line for line in lines if line.startswith("blastwatch_refer_reasons_total{")] == [
        'blastwatch_refer_reasons_total{model_version="v",reason="uncertain"} 2.0',
        'blastwatch_refer_reasons_total{model_version="v",reason="unknown_scale"} 1.0',
    ]


def sample(worker: Worker, name: str, **labels: str) -> float:
    return worker.engine.metrics.registry.get_sample_value(f"blastwatch_{name}", labels) or 0.0


def test_what_callers_are_told_of_is_counted_by_the_errors_name(live: Site) -> None:
    with working(live.settings()) as worker, Client(worker.grpc) as one, HttpClient(worker.http) as two:
        callers: list[tuple[str, AnyClient]] = [("grpc", one), ("http", two)]
        for transport, client in callers:
            client.classify(png(1))
            for _ in range(2):
                with pytest.raises(BadImage):
                    client.classify(b"nonsense")
            with pytest.raises(NotFound):
                client.review("0" * 32, "L1")
            eventually(lambda name=transport: sample(worker, "rejected_total", transport=name, reason="NotFound") == 1)  # type: ignore[misc]
            assert sample(worker, "rejected_total", transport=transport, reason="BadImage") == 2
        text = expose(worker.engine.metrics.registry).decode()
    assert text.count("blastwatch_rejected_total{") == 4


def test_an_error_outside_the_tree_has_no_name_of_its_own() -> None:
    metrics = build_metrics(CollectorRegistry(), load_settings())
    door, visit = Door(load_settings(), metrics), Visit("http", "Classify", "127.0.0.1")

    def call() -> None:
        door.enter(visit, ())
        for error in (ValueError("odd"), StoreUnavailable("away")):
            failed(error)
        door.leave(visit, "500")

    copy_context().run(call)
    lines = expose(metrics.registry).decode().splitlines()
    assert [line for line in lines if line.startswith("blastwatch_rejected_total{")] == [
        'blastwatch_rejected_total{reason="Internal",transport="http"} 1.0',
        'blastwatch_rejected_total{reason="StoreUnavailable",transport="http"} 1.0',
    ]


def test_which_model_it_is_and_that_it_was_rolled_back(site: Site) -> None:
    first, second = site.add(seed=1), site.add(seed=2)
    site.promote(first.version)

    def info(version: str) -> float:
        return sample(worker, "model_info", model_version=version, created=first.manifest.created, labels="4")

    with working(site.settings()) as worker:
        eventually(lambda: info(first.version) == 1)
        site.promote(second.version)
        eventually(lambda: info(second.version) == 1)
        assert info(first.version) == 0
        assert sample(worker, "model_rollbacks_total") == 0
        site.ledger.rollback(by="sre")
        eventually(lambda: info(first.version) == 1)
        assert sample(worker, "model_rollbacks_total") == 1
        assert sample(worker, "model_swaps_total") == 3


WORKER = """
import os, sys
from prometheus_client import CollectorRegistry
from service.metrics import build_metrics
from service.settings import load_settings
metrics = build_metrics(CollectorRegistry(), load_settings())
metrics.in_work.set(3)
metrics.swaps.inc(2)
print(os.getpid())
"""

READER = """
from prometheus_client import CollectorRegistry
from service.metrics import expose, forget_dead_workers
text = expose(CollectorRegistry()).decode()
print(forget_dead_workers())
print(text)
"""


def test_workers_are_summed_and_the_gauges_of_the_dead_go(tmp_path: Path) -> None:
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    def run(program: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
        ).stdout

    pids = sorted(int(run(WORKER)) for _ in range(2))
    dead, _, text = run(READER).partition("\n")
    assert dead == str(pids)
    assert "blastwatch_model_swaps_total 4.0" in text
    assert "blastwatch_in_work 3.0" not in text
    assert "blastwatch_in_work 6.0" not in text


def test_alone_there_is_nobody_to_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    assert forget_dead_workers() == []
