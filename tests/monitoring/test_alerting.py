"""The whole way, with Debian's Prometheus and Alertmanager: scrape, rule, alert, webhook, one retraining.

The retraining itself is a stand-in that reports its end and nothing else; everything before it is the real thing.
"""

import math
import time
from collections.abc import Iterator

import httpx
import pytest

from monitoring.runs import retrainings
from tests.service.running import eventually
from tests.support.alerting import PATIENCE_S, Place, call, place
from tests.support.prometheus import queries

pytestmark = pytest.mark.servers

# Panels without a number here, and why. Everything else has to return one.
WITHOUT_DATA = {
    "drift: Slices, how far each has gone: {{slice}}, {{finding}}, planned": "no calendar announces anything",
    "model: Canary and shadow: {{role}} {{model_version}}": "neither runs: production answers alone",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Everything up, and what each test leaves is where the next one begins."""
    with place(tmp_path_factory.mktemp("alerting")) as everything:
        yield everything


def test_both_are_scraped_and_two_quiet_windows_raise_nothing(found: Place) -> None:
    found.until('up{job="blastwatch-service"}', 1)
    found.until('up{job="blastwatch-monitor"}', 1)
    call(found, "first")
    found.send(2, seed=1)
    found.until("sum(blastwatch_monitor_windows_total)", 2)
    found.until("sum(blastwatch_answers_total)", 2)
    call(found, "second")  # a rate is of what came after a series was first scraped
    found.until("sum(blastwatch_answers_total)", 4)
    eventually(lambda: "Watchdog" in found.received(), patience_s=PATIENCE_S)
    time.sleep(3)  # several evaluations, and longer than any `for` of these copies
    assert (found.firing(), found.received()) == ({"Watchdog"}, {"Watchdog"})


def test_a_shift_raises_the_alert_and_a_freeze_holds_against_it(found: Place) -> None:
    found.site.ledger.append("frozen", by="sre", why="a new scanner")
    found.send(3, seed=10, shift=4.0, reviewed=True)
    eventually(lambda: {"BlastwatchCellsChanged", "BlastwatchRetrainingDue"} <= found.firing(), patience_s=PATIENCE_S)
    eventually(lambda: (found.value('blastwatch_monitor_alerts_total{outcome="refused"}') or 0) >= 2)
    [answered] = found.site.ledger.rows("alert_answered")
    assert (answered.body["outcome"], "frozen" in answered.body["why"]) == ("refused", True)
    assert retrainings(found.site.ledger.rows()) == []


def test_the_webhook_then_starts_one_retraining_however_often_it_is_asked(found: Place) -> None:
    found.site.ledger.append("resumed", by="sre", why="")
    found.until('blastwatch_monitor_retrainings{outcome="passed"}', 1)
    eventually(lambda: (found.value('blastwatch_monitor_alerts_total{outcome="repeated"}') or 0) >= 3)
    rows = found.site.ledger.rows()
    assert "BlastwatchRetrainingDue" in found.received()
    [item] = retrainings(rows)
    [fired] = [row.body for row in rows if row.kind == "trigger_fired"]
    _, answered = [row.body for row in rows if row.kind == "alert_answered"]
    assert (fired["by"], fired["causes"], fired["run"]) == ("alertmanager", ["BlastwatchRetrainingDue"], item.run)
    assert (answered["outcome"], answered["run"]) == ("started", item.run)
    assert found.value('blastwatch_monitor_alerts_total{outcome="started"}') == 1
    found.until("blastwatch_monitor_pending", 0)


def test_who_lacks_the_token_is_counted_and_that_is_an_alert(found: Place) -> None:
    assert httpx.post(f"{found.monitor}/alerts", json={}, timeout=20).status_code == 401
    wrong = {"authorization": "Bearer wrong"}
    assert httpx.post(f"{found.monitor}/alerts", json={}, headers=wrong, timeout=20).status_code == 401
    found.until('blastwatch_monitor_webhook_refused_total{reason="unauthorised"}', 2)
    eventually(lambda: "BlastwatchWebhookRefused" in found.firing(), patience_s=PATIENCE_S)


def test_every_rule_is_sound_and_says_what_it_means(found: Place) -> None:
    groups = httpx.get(f"{found.prometheus}/api/v1/rules", timeout=20).json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 40
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
    said = [text for rule in rules for alert in rule.get("alerts", []) for text in alert["annotations"].values()]
    assert len(said) >= 9
    assert [text for text in said if "<error" in text or "no value" in text] == []


def test_every_panel_has_data(found: Place) -> None:
    def finite(expression: str) -> bool:
        return any(math.isfinite(float(item["value"][1])) for item in found.query(expression))

    missing = queries()
    assert set(WITHOUT_DATA) < set(missing)
    until = time.monotonic() + PATIENCE_S
    while set(missing) - set(WITHOUT_DATA) and time.monotonic() < until:
        missing = {panel: expression for panel, expression in missing.items() if not finite(expression)}
    assert set(missing) == set(WITHOUT_DATA)
