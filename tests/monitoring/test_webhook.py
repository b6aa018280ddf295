"""Alertmanager's way in: who knows the token, with a message that makes sense, and nobody else."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.testclient import TestClient

from monitoring.alerts import Alert, Answer
from monitoring.metrics import Metrics, build_metrics
from monitoring.webhook import MOST_BYTES, webhook
from service.contract.errors import StoreUnavailable

TOKEN = "3f" * 32
MESSAGE = {
    "version": "4",
    "alerts": [
        {
            "status": "firing",
            "labels": {"alertname": "BlastwatchRetrainingDue", "action": "retrain"},
            "annotations": {},
            "startsAt": "2026-01-05T08:00:00Z",
            "fingerprint": "f1",
        }
    ],
}


class Hook:
    """The route on its own, with what it asked for."""

    def __init__(self, token_file: Path | None) -> None:
        self.metrics: Metrics = build_metrics(CollectorRegistry())
        self.asked: list[Sequence[Alert]] = []
        self.answer: Answer | Exception = Answer("started", run="r1")
        self.client = TestClient(Starlette(routes=[webhook(token_file, self.metrics, self.ask)]))

    def ask(self, alerts: Sequence[Alert]) -> Answer:
        self.asked.append(alerts)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def post(self, content: bytes | Iterable[bytes] | None = None, authorization: str = f"Bearer {TOKEN}") -> int:
        body = json.dumps(MESSAGE).encode() if content is None else content
        self.response = self.client.post("/alerts", content=body, headers={"authorization": authorization})
        return self.response.status_code

    def refused(self, reason: str) -> float | None:
        return self.metrics.registry.get_sample_value("blastwatch_monitor_webhook_refused_total", {"reason": reason})

    def outcome(self, outcome: str) -> float | None:
        return self.metrics.registry.get_sample_value("blastwatch_monitor_alerts_total", {"outcome": outcome})


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "alertmanager.sha256"
    path.write_text(hashlib.sha256(TOKEN.encode()).hexdigest() + "\n")
    return path


@pytest.fixture
def hook(token_file: Path) -> Hook:
    return Hook(token_file)


def test_an_alert_with_the_token_is_asked_for_and_counted(hook: Hook) -> None:
    assert hook.post() == 200
    assert hook.response.json() == {"outcome": "started", "why": "", "run": "r1"}
    assert [[alert.name for alert in alerts] for alerts in hook.asked] == [["BlastwatchRetrainingDue"]]
    hook.answer = Answer("refused", "frozen")
    assert hook.post() == 200
    assert (hook.outcome("started"), hook.outcome("refused"), hook.outcome("repeated")) == (1, 1, 0)


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}0", TOKEN]
)
def test_without_the_token_nothing_is_read_or_asked(hook: Hook, authorization: str) -> None:
    assert hook.post(b"not even JSON", authorization) == 401
    assert "authorization: Bearer TOKEN" in hook.response.json()["error"]
    assert (hook.asked, hook.refused("unauthorised"), hook.refused("bad_payload")) == ([], 1, 0)


def test_the_hash_is_no_token(hook: Hook, token_file: Path) -> None:
    assert hook.post(authorization=f"Bearer {token_file.read_text().strip()}") == 401


@pytest.mark.parametrize("content", [None, "", "abc", TOKEN.upper().replace("F", "X"), "é"])
def test_without_a_sound_token_file_nobody_comes_in_and_learns_what_to_do(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    hook = Hook(path)
    for authorization in (f"Bearer {TOKEN}", "Bearer ", f"Bearer {content}".encode("ascii", "replace").decode()):
        assert hook.post(authorization=authorization) == 403
    assert "BLASTWATCH_MONITOR_TOKEN_FILE" in hook.response.json()["error"]
    assert (hook.asked, hook.refused("not_configured")) == ([], 3)


def test_without_the_setting_it_is_off() -> None:
    hook = Hook(None)
    assert hook.post() == 403
    assert "set BLASTWATCH_MONITOR_TOKEN_FILE" in hook.response.json()["error"]


def test_another_token_is_in_force_at_once(hook: Hook, token_file: Path) -> None:
    assert hook.post() == 200
    token_file.write_text(hashlib.sha256(b"another").hexdigest())
    assert hook.post() == 401
    assert hook.post(authorization="Bearer another") == 200


def test_a_message_that_makes_no_sense_is_one_line(hook: Hook) -> None:
    assert hook.post(b"{") == 400
    assert hook.response.json()["error"].startswith("not a message of Alertmanager's webhook, version 4: ")
    assert (hook.asked, hook.refused("bad_payload")) == ([], 1)


def test_a_message_without_an_end_is_not_read_to_it(hook: Hook) -> None:
    sent = 0

    def endless() -> Iterable[bytes]:
        nonlocal sent
        while sent < 4 * MOST_BYTES:
            sent += 2**16
            yield b" " * 2**16

    assert hook.post(endless()) == 413
    assert (hook.asked, hook.refused("bad_payload")) == ([], 1)


def test_while_the_store_is_away_alertmanager_is_to_ask_again(hook: Hook) -> None:
    hook.answer = StoreUnavailable("the store is away")
    assert hook.post() == 503
    assert hook.response.json() == {"error": "the store is away"}
    assert hook.outcome("started") == 0
