"""k8s/base and its overlays: the official schemas accept them, policies hold for each pod, what is named exists."""

import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client import CollectorRegistry

from monitoring.settings import Settings as MonitorSettings
from monitoring.settings import environment_names, refuse_unknown
from service.auth import check_bind
from service.grpc_server import LIVENESS
from service.metrics import build_metrics
from service.settings import PREFIX
from service.settings import Settings as ServiceSettings
from service.settings import refuse_unknown as service_refuses_unknown

ROOT = Path(__file__).resolve().parent.parent
K8S = ROOT / "k8s"
VERSIONS = ("1.31", "1.34", "1.37")
TREES = ("base", "overlays/staging", "overlays/production", "overlays/kserve", "overlays/training")
CUSTOM = {
    "monitoring.coreos.com/v1": {"ServiceMonitor", "PrometheusRule"},
    "keda.sh/v1alpha1": {"ScaledObject"},
    "gateway.networking.k8s.io/v1": {"Gateway"},
    "gateway.networking.k8s.io/v1alpha2": {"TLSRoute"},
    "serving.kserve.io/v1beta1": {"InferenceService"},
    "trainer.kubeflow.org/v1alpha1": {"TrainJob"},
}
"""Kinds that a cluster has from others: no official schema of Kubernetes' has them."""
FOREIGN = {"HOME", "BENTOML_HOME", "BENTOML_DO_NOT_TRACK", "DO_NOT_TRACK"}
MADE_BY_THE_OPERATOR = {
    "blastwatch-store",
    "blastwatch-tls",
    "blastwatch-tokens",
    "blastwatch-pseudonym",
    "blastwatch-monitor-tls",
    "blastwatch-monitor-token",
    "blastwatch-repository",
    "blastwatch-s3",
    "blastwatch-scrape",
}
"""Secrets: docs/operations.md has the command for each."""
HARDENED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
NAME, COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/component"

pytestmark = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="KUBECTL IS MISSING: docs/operations.md says how to get it"
)

Json = dict[str, Any]


@cache
def documents(tree: str) -> tuple[Json, ...]:
    made = subprocess.run(["kubectl", "kustomize", str(K8S / tree)], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return tuple(yaml.safe_load_all(made.stdout))


def of_kind(tree: str, kind: str) -> list[Json]:
    return [document for document in documents(tree) if document["kind"] == kind]


def named(tree: str, kind: str, name: str) -> Json:
    """The one object of that kind and name, whatever hash kustomize put behind it."""
    pattern = re.compile(rf"{re.escape(name)}(-[a-z0-9]{{10}})?")
    (found,) = [one for one in of_kind(tree, kind) if pattern.fullmatch(one["metadata"]["name"])]
    return found


def pods(tree: str) -> Iterator[tuple[str, Json, Json]]:
    """(component, labels, spec) of every pod that somebody would start."""
    for document in documents(tree):
        if document["kind"] in ("StatefulSet", "Deployment"):
            template = document["spec"]["template"]
        elif document["kind"] == "CronJob":
            template = document["spec"]["jobTemplate"]["spec"]["template"]
        elif document["kind"] == "InferenceService":
            predictor = document["spec"]["predictor"]
            template = {"metadata": {"labels": predictor["labels"]}, "spec": predictor}
        else:
            continue
        labels = template["metadata"]["labels"]
        yield labels[COMPONENT], labels, template["spec"]


def every_pod() -> list[Any]:
    return [
        pytest.param(labels, spec, id=f"{tree}-{component}")
        for tree in TREES
        for component, labels, spec in (pods(tree) if shutil.which("kubectl") else ())
    ]


def containers(spec: Json) -> list[Json]:
    return [*spec.get("initContainers", []), *spec["containers"]]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("tree", TREES)
def test_the_official_schemas_accept_it(tree: str, version: str) -> None:
    for document in documents(tree):
        if document["kind"] not in CUSTOM.get(document["apiVersion"], ()):
            kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_would_refuse_a_typo() -> None:
    broken = yaml.safe_load(yaml.safe_dump(named("base", "Deployment", "blastwatch-monitor")))
    broken["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def test_each_tree_has_what_it_is_for() -> None:
    kinds = {tree: {document["kind"] for document in documents(tree)} for tree in TREES}
    assert {"StatefulSet", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget"} <= kinds["base"]
    assert {"ScaledObject", "ServiceMonitor", "PrometheusRule", "Gateway", "TLSRoute"} <= kinds["overlays/production"]
    assert "HorizontalPodAutoscaler" not in kinds["overlays/production"]  # two would pull at one set
    assert "HorizontalPodAutoscaler" in kinds["overlays/staging"]
    assert "StatefulSet" not in kinds["overlays/kserve"]
    assert {"InferenceService", "Deployment"} <= kinds["overlays/kserve"]
    assert kinds["overlays/training"] == {"TrainJob", "NetworkPolicy"}


def test_a_training_on_several_nodes_is_no_more_than_any_other_pod_and_its_nodes_meet() -> None:
    tree = "overlays/training"
    (job,) = of_kind(tree, "TrainJob")
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    template = node["template"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert container["securityContext"] == HARDENED
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    assert job["spec"]["trainer"]["image"].partition(":")[2] not in ("", "latest")
    assert "torchrun -m training.train" in job["spec"]["trainer"]["command"][-1]
    (policy,) = of_kind(tree, "NetworkPolicy")
    chosen = policy["spec"]["podSelector"]
    assert chosen["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": chosen}]}]
    assert policy["spec"]["egress"] == [{"to": [{"podSelector": chosen}]}]
    claims = {volume["persistentVolumeClaim"]["claimName"] for volume in template["spec"]["volumes"][:1]}
    assert claims <= {claim["metadata"]["name"] for claim in of_kind("base", "PersistentVolumeClaim")}


@pytest.mark.parametrize(("labels", "spec"), every_pod())
def test_no_pod_runs_as_root_writes_where_it_should_not_or_takes_what_it_likes(labels: Json, spec: Json) -> None:
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is (labels[COMPONENT] == "monitor")
    assert spec["enableServiceLinks"] is False
    assert not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
    assert not any("hostPath" in volume for volume in spec["volumes"])
    for container in containers(spec):
        assert container["securityContext"] == HARDENED
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        assert container["image"].partition(":")[2] not in ("", "latest")
        writable = {mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert not writable & {volume["name"] for volume in spec["volumes"] if "secret" in volume}


@pytest.mark.parametrize(("labels", "spec"), every_pod())
def test_what_runs_on_is_probed(labels: Json, spec: Json) -> None:
    if spec.get("restartPolicy") == "Never":
        return
    for container in spec["containers"]:
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container[kind]
            if labels[COMPONENT] == "service":
                assert probe["grpc"]["port"] == ServiceSettings.model_fields["health_port"].default
                assert probe["grpc"].get("service") == (None if kind == "readinessProbe" else LIVENESS)
            else:
                assert probe["httpGet"] == {"path": "/healthz", "port": "https", "scheme": "HTTPS"}
                assert ports["https"] == MonitorSettings.model_fields["port"].default


@pytest.mark.parametrize("tree", TREES)
def test_whatever_is_named_exists(tree: str) -> None:
    if tree == "overlays/training":
        return  # on top of another tree
    there = {(document["kind"], document["metadata"]["name"]) for document in documents(tree)}
    for _, _, spec in pods(tree):
        volumes = {volume["name"] for volume in spec["volumes"]} | {"data"}
        for volume in spec["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in there
            if "secret" in volume:
                assert volume["secret"]["secretName"] in MADE_BY_THE_OPERATOR
        for container in containers(spec):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            for source in container.get("envFrom", []):
                if "configMapRef" in source:
                    assert ("ConfigMap", source["configMapRef"]["name"]) in there
                else:
                    assert source["secretRef"]["name"] in MADE_BY_THE_OPERATOR
            for item in container.get("env", []):
                if "valueFrom" in item:
                    assert item["valueFrom"]["secretKeyRef"]["name"] in MADE_BY_THE_OPERATOR
        if "serviceAccountName" in spec:
            assert ("ServiceAccount", spec["serviceAccountName"]) in there
    routes = of_kind(tree, "TLSRoute")
    for route in routes:
        for target in (target for rule in route["spec"]["rules"] for target in rule["backendRefs"]):
            assert target["port"] in [port["port"] for port in named(tree, "Service", target["name"])["spec"]["ports"]]
    for scaler in (*of_kind(tree, "ScaledObject"), *of_kind(tree, "HorizontalPodAutoscaler")):
        target = scaler["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) in there


def test_every_secret_that_the_operator_makes_is_in_the_docs() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    for name in MADE_BY_THE_OPERATOR:
        assert f"create secret generic {name} " in text or f"create secret tls {name} " in text, name


@pytest.mark.parametrize("tree", ["base", "overlays/production", "overlays/kserve"])
def test_services_and_policies_reach_their_pods_and_each_pod_has_a_policy_of_its_own(tree: str) -> None:
    every = list(pods(tree))
    for service in of_kind(tree, "Service"):
        chosen = [(spec, labels) for _, labels, spec in every if service["spec"]["selector"].items() <= labels.items()]
        assert len(chosen) == 1, service["metadata"]["name"]
        ports = {port["name"] for container in chosen[0][0]["containers"] for port in container["ports"]}
        if tree != "overlays/kserve":  # KServe takes one named port
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    denied = named(tree, "NetworkPolicy", "blastwatch-default-deny")["spec"]
    assert denied["podSelector"] == {}  # whatever else is in the namespace
    assert denied["policyTypes"] == ["Ingress", "Egress"]
    assert not denied.keys() & {"ingress", "egress"}
    for component, labels, _ in every:
        own = [
            policy["spec"]
            for policy in of_kind(tree, "NetworkPolicy")
            if policy["spec"]["podSelector"].get("matchLabels", {}).get(COMPONENT) == component
        ]
        assert len(own) == 1, component
        assert own[0]["podSelector"]["matchLabels"].items() <= labels.items()
        # Whoever has the store's address may reach it, and nobody is asked from anywhere but the two that serve.
        assert 5432 in [port["port"] for rule in own[0]["egress"] for port in rule["ports"]]
        assert ("ingress" in own[0]) is (component in ("service", "monitor"))
    health = {port["port"] for rule in _policy(tree, "service")["ingress"] for port in rule["ports"]}
    assert health == {"https", "grpc"}


def _policy(tree: str, component: str) -> Json:
    spec: Json = named(tree, "NetworkPolicy", f"blastwatch-{component}")["spec"]
    return spec


def test_every_setting_is_one_that_somebody_reads_and_the_ports_are_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = {name: named("base", "ConfigMap", name)["data"] for name in (
        "blastwatch", "blastwatch-service", "blastwatch-monitor",
    )}  # fmt: skip
    names = set().union(*maps.values())
    service = {PREFIX + name.upper() for name in ServiceSettings.model_fields}
    assert names - FOREIGN <= service | environment_names()
    service_refuses_unknown(maps["blastwatch"] | maps["blastwatch-service"])
    refuse_unknown(maps["blastwatch"] | maps["blastwatch-monitor"])
    for values in maps.values():
        for name, value in values.items():
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("BLASTWATCH_STORE_URL", "postgresql+psycopg://reader@db/blastwatch")
    served, watched = ServiceSettings(), MonitorSettings()
    check_bind(served)
    assert watched.exposed
    assert (served.models, served.pixels_dir) == (watched.models, watched.pixels_dir)
    assert watched.models == Path("/shared/bentoml/models/blastwatch")
    ports = {
        port["name"]: port["containerPort"]
        for component, _, spec in pods("base")
        if component == "service"
        for port in spec["containers"][0]["ports"]
    }
    assert ports == {"https": served.http_port, "grpc": served.grpc_port, "health": served.health_port}
    assert watched.runner == "kubernetes"
    assert watched.kubernetes_template == named("base", "CronJob", "blastwatch-retraining")["metadata"]["name"]


def test_files_named_in_settings_are_mounted_from_the_secret_that_has_them() -> None:
    for component, config in (("service", "blastwatch-service"), ("monitor", "blastwatch-monitor")):
        (spec,) = [spec for found, _, spec in pods("base") if found == component]
        mounted = {mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
        files = [value for value in named("base", "ConfigMap", config)["data"].values() if value.startswith("/etc/")]
        assert files
        assert {str(Path(value).parent) for value in files} <= mounted


def test_a_journal_outlives_its_pod_and_a_pod_has_time_to_drain() -> None:
    spec = named("base", "StatefulSet", "blastwatch")["spec"]
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    (claim,) = spec["volumeClaimTemplates"]
    mounts = {mount["name"]: mount["mountPath"] for mount in spec["template"]["spec"]["containers"][0]["volumeMounts"]}
    data = named("base", "ConfigMap", "blastwatch-service")["data"]
    journal = data["BLASTWATCH_JOURNAL_DIR"]
    assert Path(journal).is_relative_to(mounts[claim["metadata"]["name"]])
    notice, drain = float(data["BLASTWATCH_DRAIN_NOTICE_S"]), float(data["BLASTWATCH_DRAIN_S"])
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > notice + drain
    probe = spec["template"]["spec"]["containers"][0]["readinessProbe"]
    assert notice > probe["periodSeconds"] * probe["failureThreshold"]
    assert spec["serviceName"] in [one["metadata"]["name"] for one in of_kind("base", "Service")]
    assert named("base", "Service", spec["serviceName"])["spec"]["clusterIP"] == "None"


def test_the_monitor_may_do_what_it_does_and_nothing_else() -> None:
    code = (ROOT / "monitoring" / "kubernetes_job.py").read_text()
    called = set(re.findall(r"_(?:batch|core)\.([a-z_]+)\(?", code))
    needs = {
        "read_namespaced_cron_job": ("cronjobs", {"get"}),
        "create_namespaced_job": ("jobs", {"create"}),
        "read_namespaced_job": ("jobs", {"get"}),
        "list_namespaced_job": ("jobs", {"list", "watch"}),
        "delete_namespaced_job": ("jobs", {"delete"}),
        "list_namespaced_pod": ("pods", {"list"}),
        "read_namespaced_pod_log": ("pods/log", {"get"}),
    }
    assert called == needs.keys()
    allowed: dict[str, set[str]] = {}
    for rule in named("base", "Role", "blastwatch-monitor")["rules"]:
        for resource in rule["resources"]:
            allowed.setdefault(resource, set()).update(rule["verbs"])
    asked: dict[str, set[str]] = {}
    for resource, verbs in needs.values():
        asked.setdefault(resource, set()).update(verbs)
    assert allowed == asked
    assert not of_kind("base", "ClusterRole")


def test_a_retraining_is_never_due_and_only_the_cluster_itself_repeats_it() -> None:
    spec = named("base", "CronJob", "blastwatch-retraining")["spec"]
    assert spec["suspend"] is True
    job = spec["jobTemplate"]["spec"]
    assert job["backoffLimit"] == 0
    assert job["podFailurePolicy"]["rules"] == [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    ]
    (container,) = job["template"]["spec"]["containers"]
    assert container["name"] == "retraining"
    # What follows the script are its arguments: the monitor's come there.
    assert container["command"][:2] == ["sh", "-c"]
    assert "args" not in container
    assert '"$@"' in container["command"][2]
    shell = subprocess.run(["sh", "-n"], input=container["command"][2], text=True, capture_output=True, check=False)
    assert shell.returncode == 0, shell.stderr


def test_prometheus_rules_are_those_of_the_repository() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "k8s_rules"))
    assert made["OUT"].read_text(encoding="utf-8") == made["rules"](), "run scripts/k8s_rules"


def test_scrapers_find_their_services_and_scalers_ask_for_what_is_measured() -> None:
    tree = "overlays/production"
    for monitor in of_kind(tree, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        (found,) = [one for one in of_kind(tree, "Service") if wanted.items() <= one["metadata"]["labels"].items()]
        assert found["metadata"]["labels"][monitor["spec"]["jobLabel"]] == monitor["metadata"]["name"]
        ports = {port["name"] for port in found["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports
        assert monitor["spec"]["endpoints"][0]["authorization"]["credentials"]["name"] in MADE_BY_THE_OPERATOR
    registry = CollectorRegistry()
    build_metrics(registry, ServiceSettings())
    known = {family.name for family in registry.collect()}
    rules = yaml.safe_load((ROOT / "monitoring" / "prometheus" / "service.yml").read_text())
    recorded = {rule["record"] for group in rules["groups"] for rule in group["rules"] if "record" in rule}
    for trigger in named(tree, "ScaledObject", "blastwatch")["spec"]["triggers"]:
        (name,) = re.findall(r"\(([a-z_:0-9]+)\{", trigger["metadata"]["query"])
        assert name in recorded if ":" in name else name in known, name
