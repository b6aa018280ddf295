"""Two worker processes under load: promotion, rollback by one command, and models that are not what they should be."""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from service.client import AnyClient, Client, HttpClient
from service.contract.artifact import MANIFEST, MODEL, Artifact, read_artifact, write_artifact
from service.contract.errors import BlastwatchError
from tests.service.process import ROOT, Service, service
from tests.service.running import Site, eventually
from tests.support.artifacts import run_graph, tiny_graph
from tests.support.images import png, smear

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("bento")]

CALLERS = 4
"""Of each transport."""
ROLLBACK_S = 60.0
_seeds = itertools.count()


class Answered(NamedTuple):
    """Who answered a call, and when the call began."""

    began: float
    version: str


class Load:
    """Callers that ask once, over connections that they change often, so that each worker has some of them."""

    def __init__(self, running: Service) -> None:
        self.answers: list[Answered] = []
        self.failures: list[BlastwatchError] = []
        self._running = running
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(2 * CALLERS)
        self._callers = [self._pool.submit(self._call, over) for over in ("grpc", "http") for _ in range(CALLERS)]

    def _client(self, over: str) -> AnyClient:
        running = self._running
        return HttpClient(running.http, attempts=1) if over == "http" else Client(running.grpc, attempts=1)

    def _call(self, over: str) -> None:
        while not self._stop.is_set():
            client = self._client(over)
            for number in range(10):
                began = time.monotonic()
                try:
                    self.answers.append(Answered(began, client.classify(png(number)).model_version))
                except BlastwatchError as error:
                    self.failures.append(error)
            client.close()

    def versions(self, since: float = 0.0) -> set[str]:
        """Of the calls that began since then."""
        return {answer.version for answer in list(self.answers) if answer.began >= since}

    def goes_on(self) -> None:
        """Until every caller was answered some more."""
        until = len(self.answers) + 20 * CALLERS
        eventually(lambda: len(self.answers) >= until, patience_s=60)

    def stop(self) -> None:
        self._stop.set()
        for caller in self._callers:
            caller.result()
        self._pool.shutdown()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    site = Site(tmp_path_factory.mktemp("workers"))
    site.promote(site.add(seed=next(_seeds)).version)
    with service(site, workers="2", log_format="json") as found:
        found.wait()
        eventually(lambda: serving(found, str(site.ledger.production())) == 2, patience_s=60)
        yield found


@pytest.fixture
def load(running: Service) -> Iterator[Load]:
    found = Load(running)
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture
def good(running: Service) -> str:
    """A new version that both workers serve."""
    version = running.site.add(seed=next(_seeds)).version
    running.site.promote(version)
    eventually(lambda: serving(running, version) == 2)
    return version


def serving(running: Service, version: str) -> float:
    """How many workers say that they serve it."""
    return running.metrics().get(f'blastwatch_model_workers{{model_version="{version}"}}', 0)


def command(site: Site, *arguments: str) -> None:
    """One command of an operator."""
    environ = {**os.environ, "BLASTWATCH_STORE_URL": site.url, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", *arguments], env=environ, check=True, capture_output=True)


def test_promotion_and_rollback_fail_no_call_and_reach_every_worker(good: str, running: Service, load: Load) -> None:
    before = running.metrics()
    newer = running.site.add(seed=next(_seeds)).version
    load.goes_on()
    running.site.promote(newer)
    eventually(lambda: serving(running, newer) == 2 and serving(running, good) == 0)
    promoted = time.monotonic()
    load.goes_on()
    command(running.site, "service.contract.ledger", "rollback", "--by", "sre")
    eventually(lambda: serving(running, newer) == 0 and serving(running, good) == 2, patience_s=ROLLBACK_S)
    back = time.monotonic()
    load.goes_on()
    load.stop()
    assert load.failures == []
    assert load.versions() == {good, newer}
    assert newer in load.versions(since=promoted)
    assert load.versions(since=back) == {good}
    after = running.metrics()
    assert after["blastwatch_model_swaps_total"] - before["blastwatch_model_swaps_total"] == 4
    assert after["blastwatch_model_rollbacks_total"] - before.get("blastwatch_model_rollbacks_total", 0) == 2
    assert set(running.site.store.workers(0).values()) == {good}
    kinds = [row.kind for row in running.site.ledger.rows()]
    assert kinds[-1] == "rolled_back"


def bit_flipped(artifact: Artifact) -> None:
    graph = artifact.path / MODEL
    whole = bytearray(graph.read_bytes())
    whole[len(whole) // 2] ^= 1
    graph.write_bytes(bytes(whole))


def truncated(artifact: Artifact) -> None:
    graph = artifact.path / MODEL
    graph.write_bytes(graph.read_bytes()[:-100])


def wrong_hash(artifact: Artifact) -> None:
    manifest = artifact.path / MANIFEST
    content = json.loads(manifest.read_text())
    content["files"][MODEL] = "0" * 64
    manifest.write_text(json.dumps(content))


@pytest.mark.parametrize("spoil", [bit_flipped, truncated, wrong_hash])
def test_a_model_that_was_damaged_changes_nothing(
    good: str, running: Service, load: Load, spoil: Callable[[Artifact], None]
) -> None:
    bad = running.site.add(seed=next(_seeds))
    spoil(bad)
    refused(bad.version, good, running, load, "its hash differs")


def test_a_model_whose_graph_gives_another_shape_than_its_manifest_changes_nothing(
    good: str, running: Service, load: Load
) -> None:
    bad = another_shape(running.site, read_artifact(running.site.root / "models" / good))
    refused(bad.version, good, running, load, "probabilities is float32 (4, 3)")


def another_shape(site: Site, whole: Artifact) -> Artifact:
    """Every hash is right and the graph runs, only that it knows a label fewer than the manifest."""
    graph = tiny_graph(len(whole.manifest.labels) - 1, size=whole.manifest.height)
    cells = np.stack([smear(seed=number, size=whole.manifest.height) for number in range(4)])
    with tempfile.TemporaryDirectory() as folder:
        model, warmup = Path(folder, "model.onnx"), Path(folder, "warmup.npz")
        model.write_bytes(graph)
        np.savez(warmup, image=cells, **run_graph(graph, cells))  # type: ignore[arg-type]
        made = write_artifact(
            site.root / "new",
            model=model,
            warmup=warmup,
            manifest_fields=whole.manifest.model_copy(update={"files": {}}),
            reference=whole.reference(),
            model_card="# A graph and a manifest that do not belong together\n",
        )
    made.path.rename(site.root / "models" / made.version)
    return made


def refused(bad: str, good: str, running: Service, load: Load, why: str) -> None:
    """Promoted under load: each worker says once a try that it cannot, and goes on with the model that it has."""

    def failed() -> float:
        return running.metrics().get("blastwatch_model_failed_loads_total", 0)

    load.goes_on()
    before, since = failed(), len(running.log)
    running.site.promote(bad)
    said = f"model {bad} cannot be loaded"

    def complaints() -> list[str]:
        return [line for line in running.log[since:].splitlines() if said in line]

    eventually(lambda: len({json.loads(line)["process"] for line in complaints()}) == 2)
    assert failed() - before >= 2
    load.goes_on()
    load.stop()
    assert load.failures == []
    assert load.versions() == {good}
    assert (serving(running, good), serving(running, bad)) == (2, 0)
    assert running.status("/readyz") == 200
    for line in complaints():
        assert why in json.loads(line)["message"]
        assert "exception" not in json.loads(line)
