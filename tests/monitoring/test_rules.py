"""The rules of Prometheus: what they speak of exists, each alert has a runbook, and fires when it should alone."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import service.identity
from monitoring.alerts import LABEL, RETRAIN
from monitoring.settings import load_settings
from monitoring.webhook import PATH
from service.contract import errors
from service.door import INTERNAL
from service.settings import Settings as ServiceSettings
from tests.support.prometheus import FOLDER, ROOT, RULES, labels_in, names_in, program, rules, samples

CASES = tuple(sorted((Path(__file__).parent / "prometheus").glob("*.yml")))
ALERTS = {rule["alert"]: rule for rule in rules("alert")}
RECORDED = {rule["record"]: rule for rule in rules("record")}
EXPRESSIONS = {name: str(rule["expr"]) for name, rule in (ALERTS | RECORDED).items()}
RUNBOOKS = (ROOT / "docs/operations.md").read_text().partition("\n## Runbooks\n")[2]
CONFIGURATION = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
ALERTMANAGER = yaml.safe_load((ROOT / "monitoring/alertmanager/alertmanager.yml").read_text())
OF_A_SCRAPE = {"job", "instance"}
ALWAYS = "Watchdog"


@pytest.mark.parametrize("rule", EXPRESSIONS)
def test_every_series_of_a_rule_exists_with_its_labels(rule: str) -> None:
    expression, known = EXPRESSIONS[rule], samples()
    used = names_in(expression)
    assert used - set(known) - set(RECORDED) == set()
    for name, labels in labels_in(expression):
        if name in known:
            assert labels <= known[name] | OF_A_SCRAPE, name


def test_every_error_that_a_rule_names_exists() -> None:
    known = {INTERNAL} | {
        name for module in (errors, service.identity) for name, value in vars(module).items() if isinstance(value, type)
    }
    named = {
        word
        for expression in EXPRESSIONS.values()
        for text in re.findall(r'blastwatch_rejected\w*(?::\w+)?\{reason=~?"([^"]+)"', expression)
        for word in text.split("|")
    }
    assert len(named) > 5
    assert named <= known


def test_nothing_is_recorded_twice() -> None:
    assert len(RECORDED) == len(list(rules("record")))


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_it_is_what_it_means_and_where_to_read_on(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("page", "ticket", "info", "none")
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"docs/operations.md#{name.lower()}"
    assert "for" in alert or "keep_firing_for" in alert or name == ALWAYS


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert len(ALERTS) == len(list(rules("alert")))
    sections = re.split(r"^### (\S+)\n", RUNBOOKS, flags=re.MULTILINE)[1:]
    written = dict(zip(sections[::2], sections[1::2], strict=True))
    assert list(written) == list(dict.fromkeys(sections[::2]))
    assert set(written) == set(ALERTS)
    assert [name for name, text in written.items() if len(text.split()) < 15] == []


def test_the_metrics_that_the_runbooks_name_exist() -> None:
    named = set(re.findall(r"`(blastwatch_[a-z_]+)`", RUNBOOKS))
    assert len(named) > 3
    assert named <= set(samples())


def test_prometheus_loads_every_file_of_rules() -> None:
    assert sorted(CONFIGURATION["rule_files"]) == [path.name for path in RULES]


def test_the_configurations_lead_to_service_and_monitor_as_they_listen_by_default() -> None:
    scraped = {job["job_name"]: job for job in CONFIGURATION["scrape_configs"]}
    targets = {name: job["static_configs"][0]["targets"] for name, job in scraped.items()}
    monitor, served = load_settings(), ServiceSettings()
    assert targets == {
        "blastwatch-service": [f"127.0.0.1:{served.http_port}"],
        "blastwatch-monitor": [f"127.0.0.1:{monitor.port}"],
    }
    assert set(re.findall(r'job="([^"]+)"', "".join(EXPRESSIONS.values()))) == set(targets)
    [hook] = [item for each in ALERTMANAGER["receivers"] for item in each.get("webhook_configs", [])]
    assert hook["url"] == f"http://{monitor.host}:{monitor.port}{PATH}"


def test_alertmanager_speaks_of_alerts_that_there_are() -> None:
    matchers = [
        matcher
        for rule in ALERTMANAGER["inhibit_rules"]
        for side in ("source_matchers", "target_matchers")
        for matcher in rule[side]
    ]
    named = {name for matcher in matchers for name in matcher.partition('"')[2].rstrip('"').split("|")}
    assert len(named) > 8
    assert named <= set(ALERTS)


def test_every_alert_is_seen_to_fire_and_not_to_fire() -> None:
    """What the cases of promtool look at: for each alert one case with a moment at which it fires, and one without."""
    seen = set()
    for path in CASES:
        for case in yaml.safe_load(path.read_text())["tests"]:
            fires = [_fire(look) for look in case.get("promql_expr_test", []) if "ALERTS{" in look["expr"]]
            seen |= {name for name in set().union(*fires) if not all(name in names for names in fires)}
    assert seen | {ALWAYS} == set(ALERTS)


def _fire(look: dict[str, Any]) -> set[str]:
    return {name for sample in look["exp_samples"] for name in re.findall(r'alertname="(\w+)"', sample["labels"])}


@pytest.mark.servers
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_promtool_agrees_with_the_cases(path: Path) -> None:
    done = subprocess.run([program("promtool"), "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.servers
def test_promtool_and_amtool_take_the_configurations() -> None:
    lines: list[list[str | Path]] = [
        [program("promtool"), "check", "rules", "--lint=all", "--lint-fatal", *RULES],
        [program("promtool"), "check", "config", "--syntax-only", FOLDER / "prometheus.yml"],
        [program("amtool"), "check-config", ROOT / "monitoring/alertmanager/alertmanager.yml"],
    ]
    for line in lines:
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.servers
@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        (["alertname=Watchdog"], "dead-mans-switch"),
        (["alertname=BlastwatchServiceDown"], "people"),
        (["alertname=BlastwatchRetrainingDue", f"{LABEL}={RETRAIN}"], "retrain,people"),
    ],
)
def test_each_alert_goes_where_it_should(labels: list[str], receivers: str) -> None:
    line = [program("amtool"), "config", "routes", "test", "--config.file"]
    line += [str(ROOT / "monitoring/alertmanager/alertmanager.yml"), *labels]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == receivers


@pytest.mark.servers
def test_promtool_would_notice_a_rule_that_says_otherwise(tmp_path: Path) -> None:
    broken = tmp_path / "monitoring/prometheus/monitor.yml"
    broken.parent.mkdir(parents=True)
    text = (FOLDER / "monitor.yml").read_text()
    broken.write_text(text.replace("blastwatch_monitor_breaker_open == 1", "blastwatch_monitor_breaker_open == 2"))
    assert broken.read_text() != text
    case = tmp_path / "tests/monitoring/prometheus/monitor.yml"
    case.parent.mkdir(parents=True)
    case.write_text((Path(__file__).parent / "prometheus/monitor.yml").read_text())
    done = subprocess.run([program("promtool"), "test", "rules", case], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "BlastwatchBreakerOpen" in done.stdout + done.stderr
