"""What an alert may ask for, and that it gets it once. The trigger is real; its children are a few lines of Python."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from monitoring.alerts import ANSWERED, Alert, answer, asking
from monitoring.judge_settings import PolicySettings
from monitoring.runs import retrainings
from monitoring.settings import Settings
from monitoring.site import Site, open_site
from monitoring.trigger import LocalTrigger
from service.contract.errors import InvalidRequest
from tests.support.images import smear
from tests.support.monitoring import reviews, stream, with_pixels

DUE = Alert("BlastwatchRetrainingDue", "f1 2026-01-05T08:00:00Z", "A retraining is due")
LATER = Alert("BlastwatchRetrainingDue", "f1 2026-01-09T08:00:00Z", "A retraining is due")
DONE = """
import sys
from service.contract.ledger import Ledger
Ledger(sys.argv[2]).append("retraining_finished", run=sys.argv[1], gate="passed", version="v", commit="c")
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site with twenty reviewed cells of four patients, and no cooldown: what starts nothing twice is the alert."""
    settings = Settings(
        root=tmp_path,
        repo=tmp_path,
        policy=PolicySettings(cooldown_s=0, budget_runs=3, min_reviewed_cells=20, min_reviewed_patients=4),
    )

    def command(run: str, lock: int) -> Sequence[str]:
        return [sys.executable, "-c", DONE, run, settings.store_url]

    found = open_site(settings)
    found.trigger = LocalTrigger(found.ledger, settings, command=command)
    names = [found.pixels.save(smear(seed=number, size=32)) for number in range(20)]
    sent = with_pixels(stream("v", seed=1, patients=4, cells=5), names)
    found.store.insert_predictions(sent)
    found.store.insert_reviews(reviews(sent, time="2100-01-01T00:00:00+00:00"))
    yield found
    until(lambda: not found.trigger.watch(time.time()))


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def message(*alerts: dict[str, object], version: str = "4") -> bytes:
    return json.dumps({"version": version, "groupKey": "{}", "status": "firing", "alerts": alerts}).encode()


def alert(**changed: object) -> dict[str, object]:
    return {
        "status": "firing",
        "labels": {"alertname": "BlastwatchRetrainingDue", "action": "retrain"},
        "annotations": {"summary": "A retraining is due"},
        "startsAt": "2026-01-05T08:00:00Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://127.0.0.1:9090",
        "fingerprint": "f1",
    } | changed


def test_only_firing_alerts_with_the_label_ask() -> None:
    others = [
        alert(status="resolved"),
        alert(labels={"alertname": "BlastwatchServiceDown"}),
        alert(labels={"alertname": "A", "action": "page"}),
    ]
    assert asking(message(*others)) == []
    assert asking(message(*others, alert())) == [DUE]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "the body: Invalid JSON"),
        (b"[]", "the body: Input should be an object"),
        (message(alert(), version="3"), "version: Input should be '4'"),
        (message(alert(labels="x")), "alerts.0.labels: Input should be"),
        (message({"status": "firing"}), "alerts.0.labels: Field required"),
        (b'{"version": "4"}', "alerts: Field required"),
        (b"\xff\xfe", "the body: "),
        (b"[" * 100_000, "the body: Invalid JSON"),
    ],
)
def test_anything_else_is_one_line(body: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        asking(body)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_alert_starts_one_and_is_on_record(site: Site) -> None:
    found = answer(site, [DUE])
    assert found.outcome == "started"
    [item] = retrainings(site.ledger.rows())
    assert item.run == found.run
    [fired] = site.ledger.rows("trigger_fired")
    assert (fired.body["by"], fired.body["causes"]) == ("alertmanager", ["BlastwatchRetrainingDue"])
    assert fired.body["why"] == "BlastwatchRetrainingDue fired: A retraining is due"
    [row] = site.ledger.rows(ANSWERED)
    assert (row.body["outcome"], row.body["run"], row.body["alerts"]) == ("started", found.run, [DUE.key])


def test_the_same_alert_again_starts_nothing_and_a_new_one_does(site: Site) -> None:
    first = answer(site, [DUE])
    until(lambda: not site.trigger.watch(time.time()))
    assert answer(site, [DUE]).outcome == "repeated"
    assert answer(site, [DUE]).run == first.run
    assert len(retrainings(site.ledger.rows())) == 1
    # That candidate used the reviews up to its start; those of the year 2100 are new again.
    second = answer(site, [DUE, LATER])
    assert (second.outcome, len(retrainings(site.ledger.rows()))) == ("started", 2)
    assert site.ledger.rows(ANSWERED)[-1].body["alerts"] == [LATER.key]


def test_a_refused_one_is_tried_again_and_noted_once(site: Site) -> None:
    site.ledger.append("frozen", by="sre", why="new scanner")
    for _ in range(3):
        found = answer(site, [DUE])
        assert (found.outcome, "frozen" in found.why) == ("refused", True)
    assert [row.body["outcome"] for row in site.ledger.rows(ANSWERED)] == ["refused"]
    assert retrainings(site.ledger.rows()) == []
    site.ledger.append("resumed", by="sre", why="")
    assert answer(site, [DUE]).outcome == "started"
    assert [row.body["outcome"] for row in site.ledger.rows(ANSWERED)] == ["refused", "started"]


def test_cooldown_budget_and_breaker_hold(site: Site) -> None:
    for _ in range(2):
        run = site.ledger.append("retraining_started", run="r1").body["run"]
        site.ledger.append("retraining_finished", run=run, gate="refused")
    assert "candidates were refused" in answer(site, [DUE]).why
    site.ledger.append("resumed", by="sre", why="")
    site.ledger.append("retraining_started", run="r2")
    site.ledger.append("retraining_failed", run="r2", reason="planted")
    assert "the budget of 3 retrainings is spent" in answer(site, [DUE]).why
    assert site.ledger.rows("trigger_fired") == []


def test_a_trigger_that_starts_nothing_says_so(tmp_path: Path) -> None:
    site = open_site(Settings(root=tmp_path, trigger="none"))
    assert "BLASTWATCH_MONITOR_TRIGGER is none" in answer(site, [DUE]).why


def test_nothing_asked_is_nothing_done(site: Site) -> None:
    assert answer(site, []).outcome == "ignored"
    assert site.ledger.rows() == []
