"""A retraining as a Kubernetes Job: started from a template in the cluster, followed to its end.

    python -m monitoring.kubernetes_job --run ID --namespace NAME --template CRONJOB --deadline S [--priors JSON]

The trigger starts this as it starts a retraining on its own machine, with the same lock, lease, ledger rows and limits
(`monitoring.trigger`). What runs in the Job is `training.retrain` under the same lease, and it records its own
result; this process renews the lease until the Job has a pod that does, and records why the Job failed where nobody in
it could. What the pod looks like, and whether one that is evicted is replaced, is said by the manifests: the template
is a suspended CronJob, of which only the Job's name, arguments and environment are changed here.

SIGTERM deletes the Job. Exit code: 0 the Job is complete, 1 it is not, and the ledger says why.
"""

import argparse
import contextlib
import json
import os
import signal
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

import urllib3
from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException

from monitoring.runs import FAILED, open_runs
from service.contract.errors import BlastwatchError, CommandParser, ConfigError, run_command
from service.contract.lease import OWNER, RETRAINING, SECONDS, Lease, Leases, renewed, seconds_of
from service.contract.ledger import FENCE, Ledger, fence_of

CONTAINER = "retraining"
"""Of the template: the container that gets arguments and environment."""
RUN_LABEL = "blastwatch/run"
WATCHED_S = 60
ANSWER_S = (5, 20)
"""Seconds to reach the API server, and to hear from it."""
PAUSES_S = (1.0, 2.0, 5.0, 15.0)
LAST_LINES = 100


class Refused(BlastwatchError):
    """The cluster does not run the Job; says why, and what to do."""


class Stopped(BaseException):
    """Somebody wants it to end."""


@dataclass(frozen=True)
class Order:
    """What to run: the run's id, arguments and environment on top of the template's, seconds until it is stopped."""

    run: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    deadline_s: int

    @property
    def name(self) -> str:
        """Of the Job: the same for the same run, so that it cannot be started twice."""
        return f"blastwatch-retraining-{self.run}".lower()


class Cluster:
    """The few calls that this takes; k8s/base/rbac.yaml allows them."""

    def __init__(self, namespace: str) -> None:
        """By the pod's service account, or the user's kubeconfig. Raises ConfigError without either."""
        try:
            try:
                config.load_incluster_config()
            except config.ConfigException:
                config.load_kube_config()
        except (config.ConfigException, OSError) as error:
            raise ConfigError(f"no access to a cluster: {error}") from None
        api = client.ApiClient()
        self._batch, self._core, self._namespace = client.BatchV1Api(api), client.CoreV1Api(api), namespace

    def start(self, template: str, order: Order) -> None:
        """Create the Job; one of that name that is there already is the same one. Raises Refused."""
        try:
            found = self._batch.read_namespaced_cron_job(template, self._namespace, _request_timeout=ANSWER_S)
        except ApiException as error:
            raise Refused(f"the template cronjob/{template} cannot be read: {_said(error)}") from None
        body = job(client.ApiClient().sanitize_for_serialization(found.spec.job_template), order)
        try:
            self._batch.create_namespaced_job(self._namespace, body, _request_timeout=ANSWER_S)
        except ApiException as error:
            if error.status != 409:
                raise Refused(f"the Job {order.name} was not accepted: {_said(error)}") from None

    def follow(self, name: str, until: float) -> str:
        """Wait for its end → "" when it is complete, else why it is not. An API server that is away is waited for.

        `until`, of time.monotonic: when to give up on a cluster that says nothing.
        """
        failures = 0
        while time.monotonic() < until:
            try:
                found = self._batch.read_namespaced_job(name, self._namespace, _request_timeout=ANSWER_S)
                if failures:
                    print("the API server answers again", flush=True)
                failures = 0
                ended = outcome(found)
                if ended is not None:
                    return ended and f"{ended}{self._of_pods(name)}"
                self._wait(name, found.metadata.resource_version)
            except ApiException as error:
                if error.status == 404:
                    return "the Job was deleted by somebody else"
                if error.status != 410:  # too old a version is read anew at once
                    failures = self._pause(failures, _said(error))
            except (urllib3.exceptions.HTTPError, OSError) as error:
                failures = self._pause(failures, type(error).__name__)
        return "its end could not be seen: the API server did not answer"

    def delete(self, name: str) -> None:
        """It and its pods; nothing if it is gone."""
        options = client.V1DeleteOptions(propagation_policy="Foreground")
        with contextlib.suppress(ApiException, urllib3.exceptions.HTTPError):
            self._batch.delete_namespaced_job(name, self._namespace, body=options, _request_timeout=ANSWER_S)

    def log(self, name: str) -> str:
        """The last lines of its newest pod; what cannot be had is empty."""
        with contextlib.suppress(ApiException, urllib3.exceptions.HTTPError):
            pods = self._pods(name)
            if pods:
                return str(
                    self._core.read_namespaced_pod_log(
                        pods[-1].metadata.name,
                        self._namespace,
                        container=CONTAINER,
                        tail_lines=LAST_LINES,
                        _request_timeout=ANSWER_S,
                    )
                )
        return ""

    def _wait(self, name: str, version: str) -> None:
        """Until something about it changes, or a minute is over."""
        stream = watch.Watch().stream(
            self._batch.list_namespaced_job,
            self._namespace,
            field_selector=f"metadata.name={name}",
            resource_version=version,
            timeout_seconds=WATCHED_S,
            _request_timeout=(ANSWER_S[0], WATCHED_S + ANSWER_S[1]),
        )
        for _ in stream:
            return
        time.sleep(0.2)  # a watch that ends at once must not become a loop of requests

    def _pods(self, name: str) -> list[Any]:
        found = self._core.list_namespaced_pod(
            self._namespace, label_selector=f"job-name={name}", _request_timeout=ANSWER_S
        )
        return sorted(found.items, key=lambda pod: str(pod.metadata.creation_timestamp))

    def _of_pods(self, name: str) -> str:
        """What its pods say about it, as an appendix."""
        with contextlib.suppress(ApiException, urllib3.exceptions.HTTPError):
            said = [text for pod in self._pods(name) if (text := pod_ending(pod))]
            return f" ({'; '.join(said)})" if said else ""
        return ""

    def _pause(self, failures: int, why: str) -> int:
        if not failures:
            print(f"the API server does not answer ({why}): trying again", flush=True)
        time.sleep(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
        return failures + 1


def job(template: dict[str, Any], order: Order) -> dict[str, Any]:
    """The Job of a template (a CronJob's jobTemplate, as JSON). Raises Refused where it has no container for it."""
    metadata, spec = dict(template.get("metadata") or {}), dict(template["spec"])
    pod = dict(spec["template"]["spec"])
    if CONTAINER not in [each["name"] for each in pod["containers"]]:
        raise Refused(f"the template has no container named {CONTAINER}: see k8s/base/retraining.yaml")
    environment = [{"name": name, "value": value} for name, value in sorted(order.environment.items())]
    pod["containers"] = [
        each
        if each["name"] != CONTAINER
        else each
        | {
            "args": [*each.get("args", []), *order.arguments],
            "env": [*(item for item in each.get("env") or [] if item["name"] not in order.environment), *environment],
        }
        for each in pod["containers"]
    ]
    labels = (metadata.get("labels") or {}) | {RUN_LABEL: order.run}
    inner = dict(spec["template"].get("metadata") or {})
    inner["labels"] = (inner.get("labels") or {}) | {RUN_LABEL: order.run}
    spec |= {"activeDeadlineSeconds": order.deadline_s, "template": {"metadata": inner, "spec": pod}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": order.name, "labels": labels, "annotations": metadata.get("annotations") or {}},
        "spec": spec,
    }


def outcome(found: Any) -> str | None:
    """None while it runs; "" when it is complete; else why it failed."""
    for condition in (found.status and found.status.conditions) or []:
        if condition.status == "True" and condition.type == "Complete":
            return ""
        if condition.status == "True" and condition.type == "Failed":
            return f"the Job failed: {condition.reason or 'no reason given'}: {condition.message or ''}".rstrip(": ")
    return None


def pod_ending(pod: Any) -> str:
    """Why a pod is no more, in a few words; "" for one that ended well or goes on."""
    status = pod.status
    disrupted = [one for one in status.conditions or [] if one.type == "DisruptionTarget" and one.status == "True"]
    if status.reason or disrupted:
        why = status.reason or disrupted[0].reason
        more = status.message or (disrupted[0].message if disrupted else "")
        return f"pod {pod.metadata.name}: {why}: {more}".rstrip(": ")
    for container in status.container_statuses or []:
        ended = container.state and container.state.terminated
        if ended and ended.exit_code:
            return f"pod {pod.metadata.name}: exit code {ended.exit_code}, {ended.reason or 'no reason given'}"
    return ""


def main(argv: list[str] | None = None) -> int:
    """Start and follow; raises ConfigError."""
    options = _parser().parse_args(argv)
    environment = dict(os.environ)
    fence, owner, seconds = fence_of(environment), environment.get(OWNER), seconds_of(environment)
    if fence is None or not owner:
        raise ConfigError("this is started by `python -m monitoring.trigger retrain`, which holds the lease for it")
    url = environment["BLASTWATCH_STORE_URL"]
    ledger = Ledger(url).fenced(fence)
    more = () if options.priors is None else ("--priors", options.priors)
    handed = {FENCE: str(fence), OWNER: owner, SECONDS: str(seconds)}
    order = Order(options.run, ("--run", options.run, *more), handed, options.deadline)
    signal.signal(signal.SIGTERM, _stop)
    lease = Lease(RETRAINING, owner, f"retraining {options.run}", fence)
    with renewed(Leases(url), lease, seconds, lost=lambda: print("the lease is the Job's no more", flush=True)):
        return _run(Cluster(options.namespace), options.template, order, ledger)


def _run(cluster: Cluster, template: str, order: Order, ledger: Ledger) -> int:
    try:
        cluster.start(template, order)
        print(f"the Job {order.name} was created from cronjob/{template}", flush=True)
        why = cluster.follow(order.name, time.monotonic() + order.deadline_s + WATCHED_S)
        print(cluster.log(order.name), flush=True)
    except (Refused, urllib3.exceptions.HTTPError) as error:
        why = str(error)
    except Stopped:
        cluster.delete(order.name)
        print(f"the Job {order.name} was stopped and deleted", flush=True)
        return 1
    if not why:
        return 0
    print(f"error: {why}", flush=True)
    if order.run in open_runs(ledger.rows()):  # nobody in the Job could say it
        ledger.append(FAILED, run=order.run, reason=why)
    return 1


def _said(error: ApiException) -> str:
    """One line: what the API server says, and what to do where that is known."""
    try:
        message = str(json.loads(error.body)["message"])
    except (ValueError, TypeError, KeyError):
        message = str(error.body or error.reason or "no reason given")
    message = " ".join(message.split())
    hints = {
        403: "give the monitor's service account the role of k8s/base/rbac.yaml, or the namespace a larger quota",
        404: "apply k8s/base/retraining.yaml, or set BLASTWATCH_MONITOR_KUBERNETES_TEMPLATE",
        401: "the service account's token is not accepted",
    }
    hint = hints.get(error.status)
    return f"{error.status} {message[:300]}" + (f": {hint}" if hint else "")


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m monitoring.kubernetes_job", description="Follows a retraining's Job.")
    parser.add_argument("--run", required=True, metavar="ID")
    parser.add_argument("--namespace", required=True, metavar="NAME")
    parser.add_argument("--template", required=True, metavar="CRONJOB", help="a CronJob that is never due")
    parser.add_argument("--deadline", required=True, type=int, metavar="S", help="seconds until the Job is stopped")
    parser.add_argument("--priors", metavar="JSON", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    run_command(main)
