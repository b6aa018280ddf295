"""The gauges say what the last window said, and nothing of an earlier model."""

import math
import time
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from monitoring.findings import Finding, insufficient, judged
from monitoring.metrics import KINDS, Metrics, build_metrics
from monitoring.policy import CAUSES

PREFIX = "blastwatch_monitor_"


@pytest.fixture
def metrics() -> Metrics:
    return build_metrics(CollectorRegistry())


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(PREFIX + name, labels)


def drift() -> Finding:
    return judged(
        "embedding",
        "covariate",
        severity=1.5,
        figure=1.5,
        interval=None,
        threshold=1.0,
        cells=200,
        patients=12,
    )


def test_a_finding_is_a_row_of_gauges(metrics: Metrics) -> None:
    metrics.show_window([drift()], closed=1000.0)
    labels = {"finding": "embedding", "family": "covariate"}
    assert value(metrics, "finding_figure", **labels) == 1.5
    assert value(metrics, "finding_threshold", **labels) == 1.0
    assert value(metrics, "finding_severity", **labels) == 1.5
    assert value(metrics, "finding_cells", **labels) == 200
    assert value(metrics, "finding_patients", **labels) == 12
    states = {state: value(metrics, "finding_state", **labels, state=state) for state in ("ok", "drift", "unknown")}
    assert states == {"ok": 0, "drift": 1, "unknown": 0}
    assert value(metrics, "last_window_timestamp_seconds") == 1000.0
    assert (value(metrics, "last_window_age_seconds") or 0) > 1e9


def test_what_has_no_figure_is_not_a_zero(metrics: Metrics) -> None:
    metrics.show_window([insufficient("share_ood", "quality", 3, 1, "few")], closed=1.0)
    assert math.isnan(value(metrics, "finding_figure", finding="share_ood", family="quality") or 0.0)
    assert value(metrics, "finding_state", finding="share_ood", family="quality", state="insufficient") == 1


def test_the_next_window_replaces_the_last_one(metrics: Metrics) -> None:
    metrics.show_window([drift()], closed=1.0)
    metrics.show_window([insufficient("embedding", "covariate", 3, 1, "few")], closed=2.0)
    labels = {"finding": "embedding", "family": "covariate"}
    assert value(metrics, "finding_state", **labels, state="drift") == 0
    assert value(metrics, "finding_state", **labels, state="insufficient") == 1
    metrics.clear_window()
    assert value(metrics, "finding_state", **labels, state="insufficient") is None


def test_slices_have_gauges_of_their_own_and_those_that_are_gone_have_none(metrics: Metrics) -> None:
    slices = [replace(drift(), name="slice_embedding", family="slice", slice=f"site={name}") for name in ('"A"\n', "B")]
    metrics.show_window([drift(), *slices], closed=1.0)
    assert value(metrics, "finding_figure", finding="embedding", family="covariate") == 1.5
    assert value(metrics, "finding_figure", finding="slice_embedding", family="slice") is None
    labels = {"finding": "slice_embedding", "slice": "site=B", "planned": "false"}
    assert value(metrics, "slice_figure", **labels) == value(metrics, "slice_severity", **labels) == 1.5
    assert (value(metrics, "slice_cells", **labels), value(metrics, "slice_patients", **labels)) == (200, 12)
    assert value(metrics, "slice_state", **labels, state="drift") == 1
    assert b'slice="site=\\"A\\"\\n"' in generate_latest(metrics.registry)
    metrics.show_window([drift(), replace(slices[0], family="planned")], closed=2.0)
    assert value(metrics, "slice_figure", **labels) is None
    assert value(metrics, "slice_figure", finding="slice_embedding", slice='site="A"\n', planned="true") == 1.5
    metrics.clear_window()
    assert b'slice="' not in generate_latest(metrics.registry)


def test_one_kind_of_decision_at_a_time(metrics: Metrics) -> None:
    assert value(metrics, "decision", kind="none") == 1
    metrics.show_decision("retrain")
    assert {kind: value(metrics, "decision", kind=kind) for kind in KINDS} == {
        kind: float(kind == "retrain") for kind in KINDS
    }


def test_alarms_are_those_of_the_policy_and_no_others(metrics: Metrics) -> None:
    metrics.show_alarms(("covariate", "quality"), breaker=True)
    assert {cause: value(metrics, "alarm", cause=cause) for cause in CAUSES} == {
        cause: float(cause in ("covariate", "quality")) for cause in CAUSES
    }
    assert value(metrics, "breaker_open") == 1
    metrics.show_alarms((), breaker=False)
    assert [value(metrics, "alarm", cause=cause) for cause in CAUSES] == [0.0] * len(CAUSES)
    assert value(metrics, "breaker_open") == 0


def test_production_names_one_model(metrics: Metrics) -> None:
    metrics.show_production("a")
    metrics.show_production("b")
    assert value(metrics, "production", model_version="a") is None
    assert value(metrics, "production", model_version="b") == 1
    metrics.show_production(None)
    assert value(metrics, "production", model_version="b") is None


def test_every_state_has_a_series_before_the_first_window(metrics: Metrics) -> None:
    assert [value(metrics, "windows_total", state=state) for state in ("ok", "drift", "insufficient", "unknown")] == [
        0.0
    ] * 4
    assert math.isnan(value(metrics, "last_window_age_seconds") or 0.0)


def test_a_first_look_that_takes_long_is_not_taken_for_fifty_years(metrics: Metrics) -> None:
    assert time.time() - (value(metrics, "last_step_timestamp_seconds") or 0.0) < 3600


def test_what_is_not_known_of_a_retraining_is_not_a_zero(metrics: Metrics) -> None:
    assert math.isnan(value(metrics, "last_retraining_seconds") or 0.0)
    metrics.show_cost({"seconds": 60.0, "processor_seconds": 90.0, "peak_memory_bytes": 1024.0, "ended": 7.0})
    names = ("seconds", "processor_seconds", "peak_memory_bytes", "end_timestamp_seconds")
    assert [value(metrics, f"last_retraining_{name}") for name in names] == [60.0, 90.0, 1024.0, 7.0]
    metrics.show_cost({"seconds": 5.0, "ended": 8.0})  # it was killed
    assert value(metrics, "last_retraining_seconds") == 5.0
    assert math.isnan(value(metrics, "last_retraining_peak_memory_bytes") or 0.0)
