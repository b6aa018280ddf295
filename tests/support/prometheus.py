"""What monitoring/prometheus and monitoring/grafana say, read for tests; and Debian's Prometheus and Alertmanager."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry

import monitoring.metrics
import service.metrics
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "monitoring/prometheus"
GRAFANA = ROOT / "monitoring/grafana"
RULES = tuple(sorted(path for path in FOLDER.glob("*.yml") if path.name != "prometheus.yml"))
HOW = "is missing: run `make servers` (as root), or install Debian's packages prometheus and prometheus-alertmanager"

_WORD = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}")
_TEXT = re.compile(r'"[^"]*"')


def program(name: str) -> str:
    """Where a program of the system is; fails when it is not installed."""
    found = shutil.which(name)
    assert found is not None, f"{name} {HOW}"
    return found


def rules(kind: str) -> Iterator[dict[str, Any]]:
    """Every rule of a kind, `alert` or `record`."""
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from (rule for rule in group["rules"] if kind in rule)


def boards() -> dict[str, dict[str, Any]]:
    """{file's name without its ending: a dashboard}."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}


def queries() -> dict[str, str]:
    """{dashboard, panel, legend: PromQL} of every panel."""
    return {
        f"{board}: {panel['title']}: {target['legendFormat']}": target["expr"]
        for board, whole in boards().items()
        for panel in whole["panels"]
        for target in panel["targets"]
    }


def samples() -> dict[str, set[str]]:
    """{name of a sample that the code exposes: the labels that it has, without those of a scrape}."""
    found: dict[str, set[str]] = {}
    for registry in (
        service.metrics.build_metrics(CollectorRegistry(), Settings()).registry,
        monitoring.metrics.build_metrics(CollectorRegistry()).registry,
    ):
        for collector in list(registry._collector_to_names):
            labels = set(collector._labelnames)  # type: ignore[attr-defined]
            kind = collector._type  # type: ignore[attr-defined]
            name = collector._name  # type: ignore[attr-defined]
            endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(kind, ("",))
            found |= {name + ending: labels | ({"le"} if ending == "_bucket" else set()) for ending in endings}
    return found


def names_in(expression: str) -> set[str]:
    """Our metrics and recorded series that a PromQL expression speaks of."""
    return {word for word in _WORD.findall(_TEXT.sub('""', expression)) if "blastwatch_" in word}


def labels_in(expression: str) -> Iterator[tuple[str, set[str]]]:
    """(series, the labels that it is selected by)."""
    for name, inside in _SELECTOR.findall(expression):
        yield name, set(_WORD.findall(_TEXT.sub("", inside)))
