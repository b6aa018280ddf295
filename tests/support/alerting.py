"""Service, monitor, Prometheus and Alertmanager as an operator starts them, on free ports, with short intervals."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import yaml

from service.client_http import HttpClient
from service.contract.pixels import PixelStore
from service.contract.records import PredictionRecord
from tests.service.process import Service, service
from tests.service.running import Site, eventually, free_ports
from tests.support.images import png, smear
from tests.support.monitoring import reviews, stream, watched_artifact, with_pixels
from tests.support.prometheus import ROOT, RULES, program

PATIENCE_S = 90.0

# What `python -m training.retrain` says about itself, without the hours that it takes.
RETRAIN = """
import os, sys
from service.contract.ledger import Ledger
run = sys.argv[sys.argv.index("--run") + 1]
Ledger(os.environ["BLASTWATCH_STORE_URL"]).append(
    "retraining_finished", run=run, gate="passed", version="", reasons=[], commit=""
)
"""


@dataclass
class Place:
    """Everything that runs, and one site's state."""

    site: Site
    version: str
    service: Service
    monitor: str
    prometheus: str
    alertmanager: str

    def send(self, windows: int, *, seed: int, shift: float = 0.0, reviewed: bool = False) -> None:
        """As many windows' worth of answers into the store; every fifth with a reader's label if `reviewed`."""
        sent: list[PredictionRecord] = []
        now = datetime.now(UTC).timestamp() - 600
        for number in range(windows):
            sent += stream(self.version, seed=seed + number, patients=10, cells=10, shift=shift, start=now)
        name = PixelStore(self.site.root / "var/pixels").save(smear(seed=1, size=32))
        sent = with_pixels(sent, [name] * len(sent))
        # Two scanners, each with half of the patients: slices.
        sent = [replace(one, scanner=f"scanner-{int(one.patient.rpartition('-')[2]) % 2}") for one in sent]
        store = self.site.store
        store.insert_predictions(sent)
        if reviewed:
            store.insert_reviews(reviews(sent[::5], time=datetime.now(UTC).isoformat(timespec="microseconds")))

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An instant query: [{metric: {label: value}, value: [time, text]}]."""
        reply = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": expression}, timeout=20).json()
        assert reply["status"] == "success", (expression, reply)
        return list(reply["data"]["result"])

    def value(self, expression: str) -> float | None:
        """Of the one series that it gives."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> set[str]:
        """The alerts that fire."""
        return {item["metric"]["alertname"] for item in self.query('ALERTS{alertstate="firing"}')}

    def received(self) -> set[str]:
        """The alerts that Alertmanager has."""
        reply = httpx.get(f"{self.alertmanager}/api/v2/alerts", timeout=20).json()
        return {item["labels"]["alertname"] for item in reply}

    def until(self, expression: str, value: float) -> None:
        """Until Prometheus knows that."""
        eventually(lambda: self.value(expression) == value, patience_s=PATIENCE_S)


@contextlib.contextmanager
def place(root: Path) -> Iterator[Place]:
    """All four on a site with a model in production; on leaving nothing of it is left."""
    site = Site(root)
    (root / "models").mkdir(parents=True)
    version = watched_artifact(root / "models").version
    site.promote(version)
    (root / "training").mkdir()
    (root / "training/__init__.py").touch()
    (root / "training/retrain.py").write_text(RETRAIN)
    _tokens(root)
    monitor, prometheus, alertmanager = free_ports()
    with contextlib.ExitStack() as stack:
        tokens = {"tokens_file": "var/keys/tokens", "image_retention": "none"}
        served = stack.enter_context(service(site, known_sites="site-a", **tokens))
        _process(stack, root, "monitor", [sys.executable, "-m", "monitoring"], _settings(site, monitor))
        ports = {3000: served.http.rpartition(":")[2], 9093: alertmanager, 9109: monitor}
        for folder in ("prometheus", "alertmanager"):
            _copy(root, folder, {str(port): str(ours) for port, ours in ports.items()})
        addresses = [f"127.0.0.1:{port}" for port in (prometheus, alertmanager)]
        line = [program("prometheus"), f"--config.file={root}/monitoring/prometheus/prometheus.yml"]
        line += [f"--storage.tsdb.path={root}/prometheus", f"--web.listen-address={addresses[0]}"]
        line += ["--rules.alert.resend-delay=1s"]  # the first one may come before Alertmanager is found
        _process(stack, root, "prometheus", line)
        line = [program("prometheus-alertmanager"), f"--config.file={root}/monitoring/alertmanager/alertmanager.yml"]
        line += [f"--storage.path={root}/alertmanager", f"--web.listen-address={addresses[1]}"]
        _process(stack, root, "alertmanager", [*line, "--cluster.listen-address="])
        served.wait()
        found = Place(site, version, served, *(f"http://{at}" for at in (f"127.0.0.1:{monitor}", *addresses)))
        for url in (f"{found.monitor}/healthz", f"{found.prometheus}/-/ready", f"{found.alertmanager}/-/ready"):
            eventually(lambda url=url: _answers(url), patience_s=PATIENCE_S)  # type: ignore[misc]
        yield found


def call(found: Place, name: str) -> None:
    """What the service's counters have to have seen: an answer, one that is referred, a review, two refusals."""
    token = (found.site.root / "var/keys/lis.token").read_text().strip()
    with HttpClient(found.service.http, token=token, attempts=1) as client:
        answer = client.classify(png(1), patient_id="1", site="site-a", pixel_size_um=0.6, request_id=f"{name}-1")
        client.classify(png(2), patient_id="2", site="site-a", request_id=f"{name}-2")
        client.review(answer.record_id, answer.label, sampled=True)
    for headers in ({}, {"authorization": f"Bearer {token}"}):
        httpx.post(f"{found.service.http}/v1/classify", content=b"no picture", headers=headers, timeout=20)


def tokens_block() -> str:
    """The commands that docs/operations.md has for the tokens."""
    section = (ROOT / "docs/operations.md").read_text().partition("\n## Alerts and dashboards\n")[2]
    return section.partition("```sh\n")[2].partition("```")[0]


def _tokens(root: Path) -> None:
    lines = tokens_block() + "python -m service.tokens add lis --role admin > var/keys/lis.token\n"
    environ = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "BLASTWATCH_TOKENS_FILE": "var/keys/tokens",
    }
    subprocess.run(["sh", "-euc", lines], cwd=root, env=environ, check=True)


def _settings(site: Site, port: int) -> dict[str, str]:
    return {
        "PYTHONPATH": str(ROOT),
        "BLASTWATCH_STORE_URL": site.url,
        "BLASTWATCH_MODELS_DIR": str(site.root / "models"),
        "BLASTWATCH_MONITOR_PORT": str(port),
        "BLASTWATCH_MONITOR_INTERVAL_S": "0.2",
        "BLASTWATCH_MONITOR_REPORTS": "false",
        "BLASTWATCH_MONITOR_TRIGGER": "alerts",
        "BLASTWATCH_MONITOR_TOKEN_FILE": "var/keys/alertmanager.sha256",
        "BLASTWATCH_MONITOR_JUDGE__MIN_CELLS": "100",
        "BLASTWATCH_MONITOR_JUDGE__BOOTSTRAPS": "100",
        "BLASTWATCH_MONITOR_JUDGE__SLICE_MIN_CELLS": "30",
        "BLASTWATCH_MONITOR_JUDGE__SLICE_MIN_PATIENTS": "4",
        "BLASTWATCH_MONITOR_POLICY__MIN_REVIEWED_CELLS": "20",
        "BLASTWATCH_MONITOR_POLICY__MIN_REVIEWED_PATIENTS": "4",
        # What keeps a second one from starting is then the webhook alone.
        "BLASTWATCH_MONITOR_POLICY__COOLDOWN_S": "0",
        "BLASTWATCH_MONITOR_POLICY__BUDGET_RUNS": "100",
    }


def _copy(root: Path, folder: str, ports: dict[str, str]) -> None:
    """The configuration as it is shipped, but for ports and for how long things take."""
    target = root / "monitoring" / folder
    target.mkdir(parents=True)
    for path in sorted((ROOT / "monitoring" / folder).glob("*.yml")):
        text = re.sub(r"127\.0\.0\.1:(\d+)", lambda found: f"127.0.0.1:{ports[found[1]]}", path.read_text())
        text = re.sub(r"(scrape_interval|evaluation_interval|group_wait|group_interval): \w+", r"\1: 500ms", text)
        text = re.sub(r"repeat_interval: \w+", "repeat_interval: 1s", text)
        (target / path.name).write_text(_quick(text) if path in RULES else text)


def _quick(rules: str) -> str:
    whole = yaml.safe_load(rules)
    for rule in (rule for group in whole["groups"] for rule in group["rules"] if "alert" in rule):
        rule |= {name: "1s" for name in ("for", "keep_firing_for") if name in rule}
        if rule["alert"] == "BlastwatchRetrainingDue":
            rule["keep_firing_for"] = "1h"  # so that Alertmanager sends it again after the retraining has started
    return yaml.safe_dump(whole, sort_keys=False)


def _process(
    stack: contextlib.ExitStack, root: Path, name: str, line: Sequence[str], settings: dict[str, str] | None = None
) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BLASTWATCH_")}
    log = stack.enter_context((root / f"{name}.log").open("wb"))
    process = subprocess.Popen(line, cwd=root, env=environ | (settings or {}), stdout=log, stderr=subprocess.STDOUT)
    stack.callback(process.wait)
    stack.callback(process.kill)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False
