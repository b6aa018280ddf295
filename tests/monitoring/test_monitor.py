"""`python -m monitoring` as a process: it starts, answers, stops when told, and refuses what cannot work."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.contract.ledger import Ledger
from service.contract.store import Store
from tests.support.monitoring import stream, watched_artifact

PATIENCE_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    token = tmp_path / "token.sha256"
    token.write_text(hashlib.sha256(b"the token").hexdigest())
    return os.environ | {
        "BLASTWATCH_ROOT": str(tmp_path),
        "BLASTWATCH_STORE_URL": f"sqlite:///{tmp_path}/store.db",
        "BLASTWATCH_MODELS_DIR": str(tmp_path / "models"),
        "BLASTWATCH_MONITOR_PORT": str(free_port()),
        "BLASTWATCH_MONITOR_INTERVAL_S": "0.1",
        "BLASTWATCH_MONITOR_REPORTS": "false",
        "BLASTWATCH_MONITOR_TOKEN_FILE": str(token),
    }


@pytest.fixture
def monitor(environment: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    line = [sys.executable, "-m", "monitoring"]
    with subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def until_sample(process: "subprocess.Popen[str]", environment: dict[str, str], wanted: str) -> None:
    url = f"http://127.0.0.1:{environment['BLASTWATCH_MONITOR_PORT']}/metrics"
    deadline = time.monotonic() + PATIENCE_S
    text = ""
    while f"\n{wanted}\n" not in text:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline, f"no {wanted} in:\n{text}"
        time.sleep(0.05)
        try:
            text = httpx.get(url, timeout=5).text
        except httpx.HTTPError:
            text = ""


def test_it_watches_and_stops_when_told(
    monitor: "subprocess.Popen[str]", environment: dict[str, str], tmp_path: Path
) -> None:
    artifact = watched_artifact(tmp_path / "models")
    ledger = Ledger(environment["BLASTWATCH_STORE_URL"])
    ledger.append("registered", version=artifact.version)
    ledger.promote(artifact.version, None)
    until_sample(monitor, environment, f'blastwatch_monitor_production{{model_version="{artifact.version}"}} 1.0')
    sent = stream(artifact.version, seed=1, patients=10, cells=5, start=time.time() - 60)
    Store(environment["BLASTWATCH_STORE_URL"]).insert_predictions(sent)
    until_sample(monitor, environment, "blastwatch_monitor_last_seen_seq 50.0")
    until_sample(monitor, environment, "blastwatch_monitor_open_window_cells 50.0")
    address = f"http://127.0.0.1:{environment['BLASTWATCH_MONITOR_PORT']}"
    assert httpx.get(f"{address}/healthz").json()["alive"]
    assert "No window has closed yet" in httpx.get(f"{address}/reports/").text
    status = httpx.get(f"{address}/")
    assert (status.status_code, "50 of 200 cells" in status.text) == (200, True)
    assert artifact.version[:12] in status.text

    twin = subprocess.run(
        [sys.executable, "-m", "monitoring"],
        env=environment | {"BLASTWATCH_MONITOR_PORT": str(free_port())},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (twin.returncode, twin.stderr.count("\n")) == (2, 1)
    assert "another monitor works in" in twin.stderr

    monitor.send_signal(signal.SIGTERM)
    assert monitor.wait(PATIENCE_S) == 0
    assert monitor.stderr is not None
    assert "Traceback" not in monitor.stderr.read()


def test_an_alert_is_answered_by_the_loop_and_put_on_record(
    monitor: "subprocess.Popen[str]", environment: dict[str, str], tmp_path: Path
) -> None:
    until_sample(monitor, environment, "blastwatch_monitor_store_up 1.0")
    address = f"http://127.0.0.1:{environment['BLASTWATCH_MONITOR_PORT']}/alerts"
    alert = {
        "status": "firing",
        "labels": {"alertname": "BlastwatchRetrainingDue", "action": "retrain"},
        "startsAt": "2026-01-05T08:00:00Z",
        "fingerprint": "f1",
    }
    message = {"version": "4", "alerts": [alert]}
    assert httpx.post(address, json=message, timeout=PATIENCE_S).status_code == 401
    token = {"authorization": "Bearer the token"}
    reply = httpx.post(address, json=message, headers=token, timeout=PATIENCE_S)
    assert (reply.status_code, reply.json()["outcome"]) == (200, "refused")
    assert "200 of 10 are needed: review more" in reply.json()["why"]
    [row] = Ledger(environment["BLASTWATCH_STORE_URL"]).rows("alert_answered")
    assert (row.body["outcome"], row.body["why"]) == ("refused", reply.json()["why"])
    until_sample(monitor, environment, 'blastwatch_monitor_alerts_total{outcome="refused"} 1.0')


def test_an_answer_is_shown_without_waiting_for_the_next_look_at_everything(
    environment: dict[str, str], tmp_path: Path
) -> None:
    artifact = watched_artifact(tmp_path / "models")
    ledger = Ledger(environment["BLASTWATCH_STORE_URL"])
    ledger.append("registered", version=artifact.version)
    ledger.promote(artifact.version, None)
    rarely = environment | {"BLASTWATCH_MONITOR_INTERVAL_S": "86400", "BLASTWATCH_MONITOR_POLL_S": "0.1"}
    with subprocess.Popen(
        [sys.executable, "-m", "monitoring"], env=rarely, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            until_sample(process, rarely, f'blastwatch_monitor_production{{model_version="{artifact.version}"}} 1.0')
            sent = stream(artifact.version, seed=1, patients=10, cells=5, start=time.time() - 60)
            Store(environment["BLASTWATCH_STORE_URL"]).insert_predictions(sent)
            until_sample(process, rarely, "blastwatch_monitor_open_window_cells 50.0")
        finally:
            process.kill()


def test_a_port_in_use_is_one_line_and_exit_code_2(environment: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "monitoring"],
            env=environment | {"BLASTWATCH_MONITOR_PORT": port},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: port {port} on 127.0.0.1")
