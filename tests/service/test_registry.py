"""The registry follows the ledger, and lets a model go only for one that was proved."""

import asyncio
import gc
import json
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from service.batching import Batcher, Row
from service.contract.artifact import MANIFEST, WARMUP, Artifact, FolderModelStore, read_artifact
from service.contract.errors import NotReady, StoreUnavailable
from service.contract.files import sha256_file
from service.contract.ledger import Ledger
from service.contract.predictor import Predictor
from service.contract.store import Store
from service.registry import FieldChanged, Registry, RegistryEvent, load_predictor
from tests.support.artifacts import tiny_artifact
from tests.support.fake_time import FakeTime
from tests.support.images import smear


class Site:
    """A store, a ledger and a model store in a folder, and a registry that reads them."""

    made: ClassVar[dict[int, Artifact]] = {}

    def __init__(self, root: Path, shelf: Path) -> None:
        self.shelf = shelf
        url = f"sqlite:///{root / 'store.db'}"
        self.root = root
        self.ledger = Ledger(url)
        self.store = Store(url)
        self.models = FolderModelStore(root / "models")
        self.time = FakeTime()
        self.events: list[RegistryEvent] = []
        self.loads: list[str | None] = []

    def add(self, seed: int) -> Artifact:
        """A model of its own for every seed, in the model store."""
        made = self.made.get(seed) or tiny_artifact(self.shelf / str(seed), seed=seed)
        self.made[seed] = made
        path = self.models.root / made.version
        shutil.copytree(made.path, path)
        return replace(made, path=path)

    def promote(self, version: str) -> None:
        self.ledger.promote(version, self.ledger.production())

    def registry(self, **options: object) -> Registry:
        def load(path: Path, version: str | None, threads: int) -> Predictor:
            self.loads.append(version)
            return load_predictor(path, version, threads)

        values: dict[str, object] = {
            "heartbeats": self.store,
            "on_event": self.events.append,
            "clock": self.time.clock,
            "load": load,
        }
        return Registry(self.ledger, self.models, **{**values, **options})  # type: ignore[arg-type]


class Away:
    """A ledger and a store that cannot be reached until `error` is None."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.error: Exception | None = None

    def production(self) -> str | None:
        if self.error is not None:
            raise self.error
        return self.site.ledger.production()

    def went_back(self) -> bool:
        if self.error is not None:
            raise self.error
        return self.site.ledger.went_back()

    def heartbeat(self, worker: str, version: str, at: float) -> None:
        if self.error is not None:
            raise self.error
        self.site.store.heartbeat(worker, version, at)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def site(tmp_path: Path, shelf: Path) -> Site:
    return Site(tmp_path, shelf)


def damage(artifact: Artifact) -> None:
    """One bit of the graph."""
    model = artifact.path / "serve" / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)


def test_the_version_in_production_is_served(site: Site) -> None:
    one, two = site.add(1), site.add(2)
    site.promote(one.version)
    registry = site.registry()
    registry.poll()
    assert registry.current().version == one.version
    site.promote(two.version)
    registry.poll()
    assert registry.current().version == two.version
    assert site.events == [RegistryEvent.SWAPPED] * 2


def test_a_rollback_is_followed(site: Site) -> None:
    one, two = site.add(1), site.add(2)
    site.promote(one.version)
    site.promote(two.version)
    registry = site.registry()
    registry.poll()
    assert site.events == [RegistryEvent.SWAPPED]
    site.ledger.rollback(by="clinical lead")
    registry.poll()
    assert registry.current().version == one.version
    assert site.events[1:] == [RegistryEvent.SWAPPED, RegistryEvent.ROLLED_BACK]
    site.promote(site.add(3).version)
    registry.poll()
    assert site.events[3:] == [RegistryEvent.SWAPPED]


def test_nothing_is_loaded_again_while_production_is_the_same(site: Site) -> None:
    site.promote(site.add(1).version)
    registry = site.registry()
    registry.poll()
    first = registry.current()
    registry.poll()
    assert registry.current() is first
    assert len(site.loads) == 1


def test_without_a_model_the_message_says_what_to_do(site: Site) -> None:
    registry = site.registry()
    registry.poll()
    with pytest.raises(NotReady, match="dvc repro"):
        registry.current()
    with pytest.raises(NotReady):
        registry.compute(smear()[np.newaxis])


def test_the_seed_serves_until_the_ledger_names_a_model(site: Site) -> None:
    seed = tiny_artifact(site.root / "seed", seed=9)
    registry = site.registry(seed=seed.path)
    registry.poll()
    assert registry.current().version == seed.version
    registry.poll()
    assert site.loads == [None]
    promoted = site.add(1)
    site.promote(promoted.version)
    registry.poll()
    assert registry.current().version == promoted.version


def test_the_seed_is_no_answer_to_a_ledger_that_cannot_be_read(site: Site) -> None:
    away = Away(site)
    away.error = StoreUnavailable("away")
    registry = Registry(away, site.models, seed=tiny_artifact(site.root / "seed").path)
    registry.poll()
    with pytest.raises(NotReady, match="ledger"):
        registry.current()


def test_a_damaged_seed_is_not_served(site: Site) -> None:
    seed = tiny_artifact(site.root / "seed")
    damage(seed)
    registry = site.registry(seed=seed.path)
    registry.poll()
    with pytest.raises(NotReady, match="cannot be loaded"):
        registry.current()


def warm_up_differs(artifact: Artifact) -> None:
    """Every hash is right; only the answers are not those that the exporting machine got."""
    warm_up, manifest = artifact.path / WARMUP, artifact.path / MANIFEST
    with np.load(warm_up) as file:
        recorded = dict(file)
    recorded["probabilities"] = recorded["probabilities"][:, ::-1]
    np.savez(warm_up, **recorded)
    content = json.loads(manifest.read_text())
    content["files"][WARMUP] = sha256_file(warm_up)
    manifest.write_text(json.dumps(content))
    assert read_artifact(artifact.path).version == artifact.version


@pytest.mark.parametrize(
    "spoil",
    [
        damage,
        warm_up_differs,
        lambda artifact: (artifact.path / "serve" / "warmup.npz").unlink(),
        lambda artifact: (artifact.path / "serve" / "manifest.json").write_text("{}"),
        lambda artifact: artifact.path.rename(artifact.path.with_name("elsewhere")),
    ],
    ids=["one bit", "other answers", "no warm-up", "empty manifest", "missing"],
)
def test_a_model_that_cannot_be_loaded_changes_nothing(site: Site, spoil: Callable[[Artifact], object]) -> None:
    good, bad = site.add(1), site.add(2)
    site.promote(good.version)
    registry = site.registry()
    registry.poll()
    serving = registry.current()
    spoil(bad)
    site.promote(bad.version)
    registry.poll()
    assert registry.current() is serving
    assert site.events == [RegistryEvent.SWAPPED, RegistryEvent.LOAD_FAILED]
    assert site.store.workers(0) == {registry.worker: good.version}


def test_a_failed_load_is_tried_again_ever_more_rarely(site: Site) -> None:
    good, bad = site.add(1), site.add(2)
    site.promote(good.version)
    registry = site.registry(heartbeats=None)
    registry.poll()
    damage(bad)
    site.promote(bad.version)
    attempts = []
    for second in range(200):
        site.time.now = 1000.0 + second
        before = len(site.loads)
        registry.poll()
        if len(site.loads) > before:
            attempts.append(second)
    assert attempts == [0, 2, 6, 14, 30, 62, 122, 182]
    assert registry.current().version == good.version


def test_a_model_that_is_repaired_is_served_at_the_next_attempt(site: Site) -> None:
    bad = site.add(2)
    whole = (bad.path / "serve" / "model.onnx").read_bytes()
    damage(bad)
    site.promote(bad.version)
    registry = site.registry()
    registry.poll()
    (bad.path / "serve" / "model.onnx").write_bytes(whole)
    registry.poll()
    with pytest.raises(NotReady):
        registry.current()
    site.time.now += 2
    registry.poll()
    assert registry.current().version == bad.version


def test_a_newer_good_version_is_taken_while_a_bad_one_waits(site: Site) -> None:
    good, bad, better = site.add(1), site.add(2), site.add(3)
    site.promote(good.version)
    registry = site.registry()
    registry.poll()
    damage(bad)
    site.promote(bad.version)
    registry.poll()
    site.promote(better.version)
    registry.poll()
    assert registry.current().version == better.version


def test_an_unexpected_failure_while_loading_changes_nothing(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    def load(path: Path, version: str | None, threads: int) -> Predictor:
        raise ZeroDivisionError("nobody thought of it")

    site.promote(site.add(1).version)
    registry = site.registry(load=load)
    registry.poll()
    assert site.events == [RegistryEvent.LOAD_FAILED]
    assert "ZeroDivisionError" in caplog.text  # with its traceback


@pytest.mark.parametrize("error", [StoreUnavailable("away"), OSError("gone")])
def test_while_the_ledger_cannot_be_read_the_last_model_stays(
    site: Site, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = site.add(1), site.add(2)
    site.promote(one.version)
    away = Away(site)
    registry = Registry(away, site.models, heartbeats=away, on_event=site.events.append)
    registry.poll()
    site.promote(two.version)
    away.error = error
    registry.poll()
    registry.poll()
    assert registry.current().version == one.version
    assert site.events.count(RegistryEvent.LEDGER_UNREACHABLE) == 2
    assert site.events.count(RegistryEvent.HEARTBEAT_FAILED) == 2
    assert caplog.text.count("the ledger cannot be read") == 1  # once an outage, not once a second
    away.error = None
    registry.poll()
    assert registry.current().version == two.version


def test_a_heartbeat_names_the_worker_and_what_it_serves(site: Site) -> None:
    version = site.add(1).version
    site.promote(version)
    one, two = site.registry(), site.registry(worker="b" * 32)
    assert one.worker != two.worker
    before = time.time()
    one.poll()
    two.poll()
    assert site.store.workers(before) == {one.worker: version, "b" * 32: version}


def test_a_worker_without_a_model_does_not_report(site: Site) -> None:
    site.registry().poll()
    assert site.store.workers(0) == {}


def test_a_failing_heartbeat_harms_nothing(site: Site) -> None:
    away = Away(site)
    away.error = ValueError("strange")
    one, two = site.add(1), site.add(2)
    registry = site.registry(heartbeats=away)
    for version in (one.version, two.version):
        site.promote(version)
        registry.poll()
        assert registry.current().version == version


def test_a_batch_for_another_field_is_refused(site: Site) -> None:
    site.promote(site.add(1).version)
    registry = site.registry()
    registry.poll()
    with pytest.raises(FieldChanged):
        registry.compute(smear(size=48)[np.newaxis])
    computed = registry.compute(smear(size=32)[np.newaxis])
    assert computed.model is registry.current()


def test_the_old_model_lives_as_long_as_a_batch_uses_it(site: Site) -> None:
    one, two = site.add(1), site.add(2)
    site.promote(one.version)
    registry = site.registry()
    registry.poll()
    in_use = registry.current()
    gone = weakref.ref(in_use)
    site.promote(two.version)
    registry.poll()
    assert in_use.predict(smear()[np.newaxis]).probabilities.shape == (1, 4)
    del in_use
    gc.collect()
    assert gone() is None  # and no longer


def test_it_follows_by_itself_until_it_is_stopped(site: Site) -> None:
    async def scenario() -> None:
        registry = site.registry(poll_s=0.01)
        site.promote(one.version)
        await registry.start()
        assert registry.current().version == one.version  # ready when start returns
        site.promote(two.version)
        await reached(lambda: registry.current().version == two.version)
        await registry.stop()
        assert not [thread for thread in threading.enumerate() if thread.name == "registry"]
        site.promote(three.version)

    one, two, three = site.add(1), site.add(2), site.add(3)
    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_surprise_does_not_end_the_following(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def on_event(event: RegistryEvent) -> None:
        if len(site.events) == 0:
            site.events.append(event)
            raise RuntimeError("a callback broke")
        site.events.append(event)

    async def scenario() -> None:
        registry = site.registry(poll_s=0.01, on_event=on_event)
        await registry.start()
        site.promote(one.version)
        await reached(lambda: RegistryEvent.SWAPPED in site.events)
        damage(two)
        site.promote(two.version)
        await reached(lambda: RegistryEvent.LOAD_FAILED in site.events)
        await registry.stop()

    monkeypatch.setattr("service.periodic.AFTER_SURPRISE_S", 0.01)
    one, two = site.add(1), site.add(2)
    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert "a callback broke" in caplog.text


def test_swaps_under_load_fail_no_request_and_no_answer_mixes_models(site: Site) -> None:
    models = [site.add(seed) for seed in (1, 2, 3)]
    alone = {model.version: Predictor(model) for model in models}
    cells = [smear(seed) for seed in range(8)]
    site.promote(models[0].version)

    async def client(batcher: Batcher[Predictor], number: int, rows: list[tuple[int, Row[Predictor]]]) -> None:
        while len(rows) < 400 or len({row.model.version for _, row in rows}) < len(models):
            rows.append((number, await batcher.submit(cells[number])))

    async def scenario() -> list[tuple[int, Row[Predictor]]]:
        registry = site.registry(poll_s=0.01)
        await registry.start()
        batcher = Batcher(registry.compute, max_batch=8, max_wait_s=0.001)
        await batcher.start()
        rows: list[tuple[int, Row[Predictor]]] = []
        clients = asyncio.gather(*(client(batcher, number, rows) for number in range(len(cells))))
        for model in models[1:]:
            site.promote(model.version)
            await reached(partial(serves, registry, model.version))
        await clients
        await batcher.stop()
        await registry.stop()
        return rows

    rows = asyncio.run(asyncio.wait_for(scenario(), 120))
    assert {row.model.version for _, row in rows} == set(alone)
    for number, row in rows:
        expected = alone[row.model.version].predict(cells[number][np.newaxis])
        assert np.allclose(row.probabilities, expected.probabilities[0], rtol=0, atol=1e-4)


def serves(registry: Registry, version: str) -> bool:
    return registry.current().version == version


async def reached(condition: Callable[[], bool], *, within_s: float = 30.0) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)
