"""Another model takes over while work goes on: no call fails, and a model that is not whole changes nothing."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc

from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.proto.blastwatch.v1.blastwatch_pb2_grpc import BlastClassifierStub
from tests.service.running import Site, Worker, eventually, working
from tests.support.images import png


def metric(worker: Worker, name: str) -> float:
    return worker.engine.metrics.registry.get_sample_value(f"blastwatch_{name}_total") or 0.0


class Load:
    """Four callers that go on until they are stopped; any failure is kept."""

    def __init__(self, stub: BlastClassifierStub) -> None:
        self.answers: list[pb.Prediction] = []
        self.failures: list[grpc.RpcError] = []
        self._stub = stub
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(4)
        self._callers = [self._pool.submit(self._call, number) for number in range(4)]

    def _call(self, caller: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            try:
                cell = pb.Cell(image=png(number), request_id=f"{caller}-{number}")
                self.answers.append(self._stub.Classify(cell, timeout=30))
            except grpc.RpcError as error:
                self.failures.append(error)

    def versions(self) -> set[str]:
        return {answer.model_version for answer in list(self.answers)}

    def meets(self, version: str) -> None:
        """Until a call was answered by that version."""
        eventually(lambda: version in self.versions())

    def goes_on(self) -> None:
        """Until 20 more calls were answered."""
        before = len(self.answers)
        eventually(lambda: len(self.answers) > before + 20)

    def stop(self) -> None:
        self._stop.set()
        for caller in self._callers:
            caller.result()
        self._pool.shutdown()


def test_models_change_under_load_without_a_failed_call(site: Site) -> None:
    models = [site.add(seed=seed) for seed in range(3)]
    site.promote(models[0].version)
    with working(site.settings()) as worker, grpc.insecure_channel(worker.grpc) as channel:
        load = Load(BlastClassifierStub(channel))
        for model in models[1:]:
            load.goes_on()
            site.promote(model.version)
            load.meets(model.version)
        load.stop()
        assert load.failures == []
        assert load.versions() == {model.version for model in models}
        assert metric(worker, "model_swaps") == 3
        count = len(load.answers)
        labels = {"model_version": models[2].version}
        eventually(lambda: worker.engine.metrics.registry.get_sample_value("blastwatch_model_workers", labels) == 1)
    assert site.store.count() == count
    by_version = {record.record.model_version for record in site.store.predictions()}
    assert by_version == {model.version for model in models}


def test_a_model_for_another_field_takes_over_without_a_failed_call(site: Site) -> None:
    small, large = site.add(size=32), site.add(size=48)
    site.promote(small.version)
    with working(site.settings()) as worker, grpc.insecure_channel(worker.grpc) as channel:
        load = Load(BlastClassifierStub(channel))
        load.goes_on()
        site.promote(large.version)
        load.meets(large.version)
        load.stop()
        assert load.failures == []


def test_a_damaged_model_changes_nothing(site: Site) -> None:
    good, bad = site.add(seed=1), site.add(seed=2)
    site.promote(good.version)
    model = bad.path / "serve" / "model.onnx"
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with working(site.settings()) as worker, grpc.insecure_channel(worker.grpc) as channel:
        load = Load(BlastClassifierStub(channel))
        site.promote(bad.version)
        eventually(lambda: metric(worker, "model_failed_loads") >= 1)
        load.goes_on()
        assert load.versions() == {good.version}
        assert worker.engine.ready()
        model.write_bytes(whole)
        load.meets(bad.version)
        load.stop()
        assert load.failures == []


def test_a_model_that_is_missing_changes_nothing(live: Site) -> None:
    good = live.ledger.production()
    live.promote("f" * 32)
    with working(live.settings()) as worker:
        assert not worker.engine.ready()
    live.promote(str(good))
    with working(live.settings()) as worker:
        assert worker.engine.ready()
        live.promote("f" * 32)
        eventually(lambda: metric(worker, "model_failed_loads") >= 1)
        assert worker.engine.core().model().version == good
