"""k8s/overlays/local: kustomize builds it, the official schemas accept it, and the settings know all that it says."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from monitoring.settings import Settings as MonitorSettings
from monitoring.settings import environment_names, refuse_unknown
from monitoring.trigger_command import parser
from service.auth import check_bind
from service.grpc_server import LIVENESS
from service.settings import PREFIX
from service.settings import Settings as ServiceSettings
from service.settings import refuse_unknown as service_refuses_unknown

BASE = Path(__file__).resolve().parent.parent / "k8s" / "overlays" / "local"
VERSIONS = ("1.31", "1.34", "1.37")
FOREIGN = {"HOME", "BENTOML_HOME", "BENTOML_DO_NOT_TRACK", "DO_NOT_TRACK", "DVC_NO_ANALYTICS", "DVC_SITE_CACHE_DIR"}

pytestmark = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="KUBECTL IS MISSING: docs/operations.md says how to get it"
)


@cache
def documents() -> tuple[dict[str, Any], ...]:
    made = subprocess.run(["kubectl", "kustomize", str(BASE)], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return tuple(yaml.safe_load_all(made.stdout))


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [document for document in documents() if document["kind"] == kind]
    return found


def pods() -> dict[str, dict[str, Any]]:
    return {
        "StatefulSet": of_kind("StatefulSet")["spec"]["template"]["spec"],
        "CronJob": of_kind("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"],
    }


def containers() -> dict[str, dict[str, Any]]:
    return {container["name"]: container for pod in pods().values() for container in pod["containers"]}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> tuple[ServiceSettings, MonitorSettings]:
    """Both, from an environment with the ConfigMap in it."""
    for name, value in of_kind("ConfigMap")["data"].items():
        monkeypatch.setenv(name, value)
    return ServiceSettings(), MonitorSettings()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_official_schemas_accept_it(version: str) -> None:
    for document in documents():
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_would_refuse_a_typo() -> None:
    broken = yaml.safe_load(yaml.safe_dump(of_kind("StatefulSet")))
    broken["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def test_there_is_what_there_should_be_and_no_way_in() -> None:
    assert sorted(document["kind"] for document in documents()) == ["ConfigMap", "CronJob", "StatefulSet"]
    assert sorted(containers()) == ["monitor", "retraining", "service"]
    ports = {port["name"] for container in containers().values() for port in container.get("ports", [])}
    assert ports == {"health"}


def test_every_setting_is_one_that_somebody_reads() -> None:
    names = of_kind("ConfigMap")["data"].keys()
    service = {PREFIX + name.upper() for name in ServiceSettings.model_fields}
    assert names - FOREIGN <= service | environment_names()
    service_refuses_unknown(of_kind("ConfigMap")["data"])
    refuse_unknown(of_kind("ConfigMap")["data"])


def test_service_and_monitor_mean_the_same_places(settings: tuple[ServiceSettings, MonitorSettings]) -> None:
    service, monitor = settings
    assert service.store_url == monitor.store_url
    assert service.pixels_dir == monitor.pixels_dir
    assert service.models == monitor.models
    data = Path("/var/lib/blastwatch")
    paths = [service.journal_dir, service.pixels_dir, service.models, monitor.work_dir, monitor.repo, service.key_file]
    assert all(path.is_relative_to(data) for path in (*paths, monitor.reports_dir))
    assert service.store_url == f"sqlite:///{data}/store.db"
    for name in ("service", "monitor", "retraining"):
        mounts = {mount["name"]: mount["mountPath"] for mount in containers()[name]["volumeMounts"]}
        assert mounts == {"data": str(data), "tmp": "/tmp"}
        (source,) = containers()[name]["envFrom"]
        assert source["configMapRef"]["name"] == of_kind("ConfigMap")["metadata"]["name"]


def test_ports_are_those_of_the_settings_and_all_but_health_are_on_loopback(
    settings: tuple[ServiceSettings, MonitorSettings],
) -> None:
    service, monitor = settings
    check_bind(service)
    assert service.health_host == "0.0.0.0"  # noqa: S104
    defaults = {name: ServiceSettings.model_fields[name].default for name in ("http_port", "grpc_port", "health_port")}
    assert {name: getattr(service, name) for name in defaults} == defaults
    assert (monitor.host, monitor.port) == ("127.0.0.1", MonitorSettings.model_fields["port"].default)
    (port,) = containers()["service"]["ports"]
    assert port["containerPort"] == service.health_port


def test_probes_ask_what_is_there(settings: tuple[ServiceSettings, MonitorSettings]) -> None:
    service, monitor = settings
    kinds = ("startupProbe", "livenessProbe", "readinessProbe")
    asked = {kind: containers()["service"][kind]["grpc"] for kind in kinds}
    assert {probe["port"] for probe in asked.values()} == {service.health_port}
    assert asked["startupProbe"]["service"] == asked["livenessProbe"]["service"] == LIVENESS
    assert "service" not in asked["readinessProbe"]
    for kind in ("startupProbe", "livenessProbe"):
        command = containers()["monitor"][kind]["exec"]["command"]
        assert f"http://127.0.0.1:{monitor.port}/healthz" in command[-1]
        compile(command[-1], "probe", "exec")


@pytest.mark.parametrize("kind", ["StatefulSet", "CronJob"])
def test_nothing_runs_as_root_or_writes_where_it_should_not(kind: str) -> None:
    pod = pods()[kind]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    # A Service's name would become a BLASTWATCH_… variable, and an unknown one stops the start.
    assert pod["enableServiceLinks"] is False
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        assert container["image"].split(":")[1] not in ("", "latest")


def test_one_replica_on_one_volume_and_time_to_drain(settings: tuple[ServiceSettings, MonitorSettings]) -> None:
    service, monitor = settings
    spec = of_kind("StatefulSet")["spec"]
    assert spec["replicas"] == 1
    (claim,) = spec["volumeClaimTemplates"]
    name = f"{claim['metadata']['name']}-{of_kind('StatefulSet')['metadata']['name']}-0"
    volumes = {volume["name"]: volume for volume in pods()["CronJob"]["volumes"]}
    assert volumes["data"]["persistentVolumeClaim"]["claimName"] == name
    assert pods()["StatefulSet"]["terminationGracePeriodSeconds"] > max(service.drain_s, monitor.retrain_grace_s)


def test_the_retraining_is_a_template_that_goes_through_the_door() -> None:
    cron = of_kind("CronJob")["spec"]
    assert cron["suspend"] is True
    assert cron["jobTemplate"]["spec"]["backoffLimit"] == 0
    command = [*containers()["retraining"]["command"], *containers()["retraining"]["args"]]
    assert command[:3] == ["python", "-m", "monitoring.trigger"]
    options = parser().parse_args(command[3:])
    assert (options.command, options.wait) == ("retrain", True)
    (term,) = pods()["CronJob"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    labels = of_kind("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert term["labelSelector"]["matchLabels"].items() <= labels.items()
