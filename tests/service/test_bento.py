"""The service as an operator starts it, whole: BentoML, two workers, both transports, probes, metrics, drain, crash."""

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.client import Client, HttpClient
from service.contract.errors import BlastwatchError, Conflict, InvalidRequest
from service.contract.image import encode_png
from service.domain import Answer
from tests.service.process import ROOT, Service, service
from tests.service.running import Site, eventually, started
from tests.support.images import png

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("bento")]

CANARY = "CANARY-PATIENT-4711"
BENTOML = (sys.executable, "-m", "bentoml", "serve", "service.bento:Blastwatch", "--working-dir", str(ROOT))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    site = Site(tmp_path_factory.mktemp("bento"))
    site.promote(site.add().version)
    with service(site, workers="2", image_retention="all", known_sites="site-a", log_level="debug") as found:
        found.wait()
        yield found


def metrics(running: Service) -> dict[str, float]:
    text = httpx.get(running.http + "/metrics", timeout=20, trust_env=False).text
    return {
        name: float(value) for name, value in re.findall(r"^(blastwatch_[^ ]+) ([0-9.e+-]+)$", text, flags=re.MULTILINE)
    }


def test_both_transports_answer_and_the_store_has_it(running: Service) -> None:
    with Client(running.grpc) as one, HttpClient(running.http) as two:
        answers = [client.classify(png(number), site="site-a") for client in (one, two) for number in range(10)]
    store = running.site.store
    eventually(lambda: all(store.get(answer.record_id) for answer in answers))
    for first, second in zip(answers[:10], answers[10:], strict=True):
        assert first.pixels_sha256 == second.pixels_sha256
        assert first.label == second.label
        assert first.probabilities == pytest.approx(second.probabilities, abs=1e-6)


def test_two_workers_share_the_work_the_metrics_and_the_heartbeats(running: Service) -> None:
    def once(number: int) -> Answer:
        with Client(running.grpc) as client:  # a connection of its own: the kernel picks the worker
            return client.classify(png(number))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(once, range(60)))
    version = answers[0].model_version
    store = running.site.store
    eventually(lambda: len(store.workers(0)) == 2)
    assert set(store.workers(0).values()) == {version}
    eventually(lambda: metrics(running)[f'blastwatch_model_workers{{model_version="{version}"}}'] == 2)
    counted = metrics(running)
    assert counted["blastwatch_model_swaps_total"] == 2
    total = sum(value for name, value in counted.items() if name.startswith("blastwatch_answers_total"))
    assert total == counted["blastwatch_batch_size_count"] >= 60


def test_a_retry_meets_the_same_record_on_any_worker(running: Service) -> None:
    def once(_: int) -> Answer:
        with Client(running.grpc) as client:
            return client.classify(png(1), request_id="retried")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(once, range(24)))
    assert len({answer.record_id for answer in answers}) == 1
    store = running.site.store
    eventually(lambda: store.by_request("local", "retried"))
    with Client(running.grpc) as client, pytest.raises(Conflict):
        client.classify(png(2), request_id="retried")
    assert len(store.by_request("local", "retried")) == 1


def test_a_review_on_another_worker_finds_the_record(running: Service) -> None:
    for number in range(8):
        with Client(running.grpc) as one:
            answer = one.classify(png(number))
        with Client(running.grpc) as two:
            assert two.review(answer.record_id, "L1").counts_for_training


def test_probes(running: Service) -> None:
    assert [running.status(path) for path in ("/healthz", "/livez", "/readyz")] == [200, 200, 200]
    with grpc.insecure_channel(running.health) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection(running: Service) -> None:
    with grpc.insecure_channel(running.grpc) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = next(iter(stub.ServerReflectionInfo(iter([request]), timeout=20)))
    assert "blastwatch.v1.BlastClassifier" in {service.name for service in answer.list_services_response.service}


def test_paths_make_no_series(running: Service) -> None:
    for number in range(20):
        httpx.get(f"{running.http}/made-up-{number}", timeout=20, trust_env=False)
    text = httpx.get(running.http + "/metrics", timeout=20, trust_env=False).text
    assert "made-up" not in text
    assert "bentoml" not in text


def test_a_patient_is_nowhere(running: Service) -> None:
    """Sent every way there is, the bad ones included; then everything that was written is searched."""
    wrong: list[dict[str, Any]] = [{"pixel_size_um": -1.0}, {"site": "x" * 300}, {}]
    with Client(running.grpc) as one, HttpClient(running.http) as two:
        for client in (one, two):
            answer = client.classify(png(1), patient_id=CANARY)
            client.classify(png(2), patient_id=CANARY, request_id=f"canary-{client}"[:40])
            for fields in wrong:
                image = b"nonsense" if not fields else png(1)
                with pytest.raises(InvalidRequest) as caught:
                    client.classify(image, patient_id=CANARY, **fields)
                assert CANARY not in str(caught.value)
    headers = {"content-type": "image/png"}
    for attempt in (
        httpx.Request("POST", f"{running.http}/v1/classify?patient_id={CANARY}", headers=headers, content=png(1)),
        httpx.Request("POST", f"{running.http}/v1/classify/{CANARY}", headers=headers, content=png(1)),
        httpx.Request("POST", f"{running.http}/v1/classify", headers={**headers, "Blastwatch-Patient": CANARY}),
        httpx.Request("POST", f"{running.http}/v1/reviews", json={"recordId": "x", "patientId": CANARY}),
    ):
        with httpx.Client(trust_env=False, timeout=20) as http:
            assert CANARY not in http.send(attempt).text
    store = running.site.store
    eventually(lambda: store.get(answer.record_id))
    stored = store.get(answer.record_id)
    assert stored is not None
    assert stored.record.patient
    assert CANARY not in str(metrics(running))
    files = [path for path in running.site.root.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []


def large(seed: int) -> bytes:
    """A picture of 16 million pixels in a small file, which takes a while to decode."""
    pixels = np.full((4000, 4000, 3), 200, dtype=np.uint8)
    pixels[1000:3000, 1000:3000] = (120, 60, 160 + seed)
    return encode_png(pixels)


def test_calls_under_way_are_answered_when_it_is_asked_to_stop(live: Site) -> None:
    # Large pictures: they are still in work when the service is told to stop.
    cells = [large(number) for number in range(10)]
    with service(live) as running, ThreadPoolExecutor(20) as pool:
        running.wait()
        with Client(running.grpc, attempts=1) as one, HttpClient(running.http, attempts=1) as two:
            one.model(), two.model()
            calls = [pool.submit(client.classify, cell) for cell in cells for client in (one, two)]
            eventually(lambda: metrics(running).get("blastwatch_in_work", 0) > 10)
            running.terminate()
            answers = [call.result() for call in calls]
        assert "Traceback" not in running.log
    assert len({answer.record_id for answer in answers}) == 20
    assert live.store.count() == 20  # shipped before it ended, not adopted later
    assert list((live.root / "var/journal").glob("*/*.journal")) == []


def test_what_was_answered_survives_a_kill(live: Site) -> None:
    answered: list[str] = []
    enough, stop = threading.Event(), threading.Event()

    def call(running: Service, caller: int) -> None:
        with Client(running.grpc, attempts=1, timeout_s=5) as client:
            number = 0
            while not stop.is_set():
                number += 1
                try:
                    answered.append(client.classify(png(number), request_id=f"{caller}-{number}").record_id)
                except BlastwatchError:
                    return
                if len(answered) > 100:
                    enough.set()

    with service(live) as running, ThreadPoolExecutor(4) as pool:
        running.wait()
        callers = [pool.submit(call, running, caller) for caller in range(4)]
        assert enough.wait(60)
        running.kill()
        stop.set()
        for caller in callers:
            caller.result()
    # Another worker at the same site ships what the dead one left behind.
    asyncio.run(adopt(live, answered))


async def adopt(site: Site, answered: list[str]) -> None:
    async with started(site.settings(journal_dir=site.root / "var/journal")):
        store = site.store
        await asyncio.to_thread(eventually, lambda: all(store.get(record_id) for record_id in answered))


def test_started_by_bentoml_without_a_model_it_lives_on_loopback_and_is_not_ready(site: Site) -> None:
    with service(site, command=BENTOML) as running:
        running.wait("/livez")
        assert "listening on http://127.0.0.1:" in running.log  # BentoML's own default is every address
        assert running.status("/readyz") == 503
        with HttpClient(running.http, attempts=1) as client, pytest.raises(BlastwatchError, match="dvc repro"):
            client.classify(png(1))
        site.promote(site.add().version)
        running.wait("/readyz")
        assert running.terminate() == 0


@pytest.mark.parametrize(
    ("command", "settings", "says"),
    [
        ((*BENTOML, "--host", "0.0.0.0"), {}, "loopback"),  # noqa: S104
        (BENTOML, {"http_host": "0.0.0.0"}, "loopback"),  # noqa: S104
        ((sys.executable, "-m", "service"), {"max_bach": "3"}, "did you mean BLASTWATCH_MAX_BATCH"),
    ],
)
def test_a_start_that_must_not_be_is_one_line_and_2(
    site: Site, command: tuple[str, ...], settings: dict[str, str], says: str
) -> None:
    with service(site, command=command, **settings) as running:
        assert running.process.wait(60) == 2
        lines = [line for line in running.log.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert says in lines[0]


def test_importing_the_service_needs_no_model_and_leaves_nothing(tmp_path: Path) -> None:
    program = "import service.bento; print(service.bento.Blastwatch.name)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "blastwatch"
    assert not (tmp_path / "var").exists()
