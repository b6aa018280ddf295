"""Retrainings as Jobs of a cluster: the real client and the real door against a fake API server, over HTTP."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from monitoring.judge_settings import PolicySettings
from monitoring.kubernetes_job import Order, Refused, job
from monitoring.launch import kubernetes_command, namespace
from monitoring.policy import Reviewed
from monitoring.settings import Settings
from monitoring.trigger import LOG, LocalTrigger, Reason
from service.contract.errors import Conflict
from service.contract.lease import OWNER, RETRAINING, SECONDS, Leases
from service.contract.ledger import FENCE, Ledger
from tests.support.kubernetes_api import NAMESPACE, TEMPLATE, Api, api_server, template

ENOUGH = Reviewed(cells=500, patients=30)
WHY = Reason("covariate called for it", causes=("covariate",), window="w1")


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with api_server(tmp_path / "kubeconfig") as found:
        yield found


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        store_url=f"sqlite:///{tmp_path}/store.db",
        work_dir=tmp_path / "work",
        repo=tmp_path / "no repository here",
        policy=PolicySettings(cooldown_s=0, budget_runs=100),
        runner="kubernetes",
        kubernetes_namespace=NAMESPACE,
        retrain_grace_s=5.0,
    )


@pytest.fixture
def ledger(settings: Settings) -> Ledger:
    return Ledger(settings.store_url)


@pytest.fixture
def trigger(settings: Settings, ledger: Ledger) -> Iterator[LocalTrigger]:
    made = LocalTrigger(ledger, settings)
    yield made
    made.stop()


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def ended(trigger: LocalTrigger) -> bool:
    return not trigger.watch(time.time())


def environment(made: dict[str, Any]) -> dict[str, str]:
    """Of the retraining's container."""
    (container,) = [each for each in made["spec"]["template"]["spec"]["containers"] if each["name"] == "retraining"]
    return {item["name"]: item["value"] for item in container["env"]}


def last(ledger: Ledger) -> tuple[str, str]:
    row = ledger.rows()[-1]
    return row.kind, str(row.body.get("reason", ""))


def test_the_job_runs_under_the_triggers_lease_and_records_its_own_result(
    api: Api, trigger: LocalTrigger, ledger: Ledger, settings: Settings
) -> None:
    def work(made: dict[str, Any]) -> None:
        """What training.retrain does in the pod."""
        handed = environment(made)
        held = Leases(settings.store_url).held(RETRAINING)
        assert held is not None
        assert (held.lease.owner, str(held.lease.fence)) == (handed[OWNER], handed[FENCE])
        api.pod(made["metadata"]["name"], "p1", {"phase": "Succeeded"}, log="epoch 3 of 3\n")
        run = made["metadata"]["labels"]["blastwatch/run"]
        ledger.fenced(int(handed[FENCE])).append("retraining_finished", run=run, gate="passed", version="v", commit="c")
        api.end(made["metadata"]["name"], "Complete")

    api.on_create = work
    run = trigger.fire(WHY, ENOUGH)
    until(lambda: ended(trigger))
    assert [row.kind for row in ledger.rows()] == ["trigger_fired", "retraining_started", "retraining_finished"]
    ((name, made),) = api.jobs.items()
    assert name == f"blastwatch-retraining-{run}"
    first, beside = made["spec"]["template"]["spec"]["containers"]
    assert first["args"] == ["--repo", "/repo", "--run", run]
    assert environment(made)["KEPT"] == "1"
    assert environment(made)[SECONDS] == str(settings.lease_s)
    assert "args" not in beside
    assert made["spec"]["activeDeadlineSeconds"] == settings.retrain_timeout_s
    assert "epoch 3 of 3" in (settings.work_dir / run / LOG).read_text()
    assert Leases(settings.store_url).held(RETRAINING) is None


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}, "pod p1: Evicted: low on memory"),
        (
            {
                "phase": "Failed",
                "conditions": [
                    {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "gone"}
                ],
            },
            "pod p1: PreemptionByScheduler: gone",
        ),
        (
            {
                "phase": "Failed",
                "containerStatuses": [
                    {
                        "name": "retraining",
                        "image": "i",
                        "imageID": "i",
                        "ready": False,
                        "restartCount": 0,
                        "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
                    }
                ],
            },
            "pod p1: exit code 137, OOMKilled",
        ),
    ],
)
def test_a_job_that_fails_without_a_word_is_recorded_with_the_pods_reason(
    api: Api, trigger: LocalTrigger, ledger: Ledger, status: dict[str, Any], says: str
) -> None:
    def work(made: dict[str, Any]) -> None:
        api.pod(made["metadata"]["name"], "p1", status)
        api.end(made["metadata"]["name"], "Failed", "BackoffLimitExceeded", "limit reached")

    api.on_create = work
    trigger.fire(WHY, ENOUGH)
    until(lambda: ended(trigger))
    kind, reason = last(ledger)
    assert kind == "retraining_failed"
    assert "BackoffLimitExceeded" in reason
    assert says in reason
    assert [row.kind for row in ledger.rows()].count("retraining_failed") == 1


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((403, 'jobs.batch "x" is forbidden: exceeded quota: compute, requested: cpu=2'), "exceeded quota: compute"),
        ((403, 'jobs.batch is forbidden: User "monitor" cannot create resource'), "k8s/base/rbac.yaml"),
        ((422, "spec.template: Invalid value"), "422 spec.template: Invalid value"),
    ],
)
def test_what_the_cluster_refuses_is_one_line_in_the_ledger(
    api: Api, trigger: LocalTrigger, ledger: Ledger, answer: tuple[int, str], says: str
) -> None:
    api.refuse = answer
    trigger.fire(WHY, ENOUGH)
    until(lambda: ended(trigger))
    kind, reason = last(ledger)
    assert kind == "retraining_failed"
    assert says in reason
    assert "\n" not in reason
    assert not api.jobs


def test_without_its_template_nothing_starts(api: Api, trigger: LocalTrigger, ledger: Ledger) -> None:
    api.cronjobs.clear()
    trigger.fire(WHY, ENOUGH)
    until(lambda: ended(trigger))
    assert "BLASTWATCH_MONITOR_KUBERNETES_TEMPLATE" in last(ledger)[1]


def test_a_server_that_goes_away_and_watches_that_end_are_waited_for(
    api: Api, trigger: LocalTrigger, ledger: Ledger, settings: Settings
) -> None:
    api.gone = 2

    def work(made: dict[str, Any]) -> None:
        time.sleep(0.5)
        api.away = True
        time.sleep(2.5)
        api.away = False
        time.sleep(0.5)
        api.end(made["metadata"]["name"], "Failed", "DeadlineExceeded", "Job was active longer than specified deadline")

    api.on_create = work
    run = trigger.fire(WHY, ENOUGH)
    until(lambda: ended(trigger))
    assert "DeadlineExceeded" in last(ledger)[1]
    log = (settings.work_dir / run / LOG).read_text()
    assert log.count("the API server does not answer") == 1
    assert "answers again" in log
    assert [call for call in api.calls if call.startswith("POST")] == [call for call in api.calls if "POST" in call][:1]


def test_a_job_that_is_there_already_is_taken_for_its_own(api: Api, trigger: LocalTrigger, ledger: Ledger) -> None:
    start = api.start

    def lost_answer(job: dict[str, Any]) -> None:
        start(job)
        api.end(job["metadata"]["name"], "Complete")
        api.refuse = (409, "already exists")

    api.start = lost_answer  # type: ignore[method-assign]
    trigger.fire(WHY, ENOUGH)
    until(lambda: ended(trigger))
    assert len(api.jobs) == 1
    # It is complete and nobody in it said how it went: that is no result.
    assert last(ledger)[0] == "retraining_failed"


def test_a_job_that_somebody_deletes_is_a_failure(api: Api, trigger: LocalTrigger, ledger: Ledger) -> None:
    def work(made: dict[str, Any]) -> None:
        time.sleep(0.5)
        api.drop(made["metadata"]["name"])

    api.on_create = work
    trigger.fire(WHY, ENOUGH)
    until(lambda: ended(trigger))
    assert "deleted by somebody" in last(ledger)[1]


def test_stopping_the_monitor_deletes_the_job(api: Api, trigger: LocalTrigger, ledger: Ledger) -> None:
    trigger.fire(WHY, ENOUGH)
    until(lambda: bool(api.jobs))
    time.sleep(0.3)
    trigger.stop()
    assert not api.jobs
    assert "stopped together with the monitor" in last(ledger)[1]


def test_two_monitors_make_one_job(
    api: Api, trigger: LocalTrigger, ledger: Ledger, settings: Settings, tmp_path: Path
) -> None:
    other = LocalTrigger(ledger, settings.model_copy(update={"work_dir": tmp_path / "another host"}))
    trigger.fire(WHY, ENOUGH)
    with pytest.raises(Conflict, match="another host"):
        other.fire(WHY, ENOUGH)
    until(lambda: bool(api.jobs))
    assert other.watch(time.time())
    api.end(next(iter(api.jobs)), "Complete")
    until(lambda: ended(trigger))
    assert len(api.jobs) == 1


def test_a_recalibration_hands_its_priors_down(api: Api, trigger: LocalTrigger) -> None:
    api.on_create = lambda made: api.end(made["metadata"]["name"], "Complete")
    trigger.fire(Reason("another case mix", priors={"a": 0.25, "b": 0.75}), Reviewed())
    until(lambda: ended(trigger))
    (made,) = api.jobs.values()
    assert made["spec"]["template"]["spec"]["containers"][0]["args"][-2:] == ["--priors", '{"a": 0.25, "b": 0.75}']


def test_a_template_without_the_container_is_refused_and_another_is_left_as_it_was() -> None:
    order = Order("r1", ("--run", "r1"), {"X": "1"}, 60)
    given = template()["spec"]["jobTemplate"]
    made = job(given, order)
    assert given == template()["spec"]["jobTemplate"]
    assert made["metadata"]["labels"] == {"c": "d", "blastwatch/run": "r1"}
    assert made["spec"]["template"]["metadata"]["labels"] == {"a": "b", "blastwatch/run": "r1"}
    given["spec"]["template"]["spec"]["containers"][0]["name"] = "other"
    with pytest.raises(Refused, match="no container named retraining"):
        job(given, order)


def test_the_namespace_is_the_one_that_is_set_or_the_pods_own(settings: Settings) -> None:
    assert namespace(settings) == NAMESPACE
    assert namespace(settings.model_copy(update={"kubernetes_namespace": ""})) == "default"
    line = list(kubernetes_command(settings)("r1", 3))
    assert line[-6:] == ["--namespace", NAMESPACE, "--template", TEMPLATE, "--deadline", "21600"]
