"""Metrics of two worker processes: summed exactly, whichever answers, also after one of them was killed."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from prometheus_client.multiprocess import MultiProcessCollector

from service.client import Client, HttpClient
from service.contract.image import encode_png
from service.domain import Answer
from tests.service.process import Service, service
from tests.service.running import Site, eventually
from tests.support.images import png

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("bento")]

GAUGES = ("blastwatch_in_work", "blastwatch_queue_depth")
STAGES = ("decode", "queue", "compute", "keep", "journal", "total")
ASKED = 6
"""How often /metrics is asked, each time over a connection of its own: either worker may answer."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    site = Site(tmp_path_factory.mktemp("metrics"))
    site.promote(site.add().version)
    with service(site, workers="2") as found:
        found.wait()
        eventually(lambda: len(found.workers()) == 2 and workers_with_model(found) == 2, patience_s=60)
        yield found


def workers_with_model(running: Service) -> float:
    return running.metrics()[f'blastwatch_model_workers{{model_version="{running.site.ledger.production()}"}}']


def answers(samples: dict[str, float]) -> float:
    return sum(value for name, value in samples.items() if name.startswith("blastwatch_answers_total"))


def counted(samples: dict[str, float]) -> Counter[str]:
    """Everything that counts the cells answered."""
    stages = {stage: samples.get(f'blastwatch_stage_seconds_count{{stage="{stage}"}}', 0) for stage in STAGES}
    batches = samples.get("blastwatch_batch_size_count", 0)
    return Counter({"answers": int(answers(samples)), "batches": int(batches)}) + Counter(
        {stage: int(count) for stage, count in stages.items()}
    )


def by_worker(running: Service) -> dict[int, int]:
    """Answers by the worker that gave them, the dead included, read from the file that each keeps."""
    found = {}
    for path in (running.site.root / "bentoml/prometheus_multiproc_dir").glob("counter_*.db"):
        merged = MultiProcessCollector.merge([str(path)])  # type: ignore[no-untyped-call]
        samples = [sample for metric in merged for sample in metric.samples if "answers_total" in sample.name]
        found[int(path.stem.rpartition("_")[2])] = int(sum(sample.value for sample in samples))
    return found


def ask(running: Service, number: int, connection: int) -> list[Answer]:
    """`number` cells over a connection of its own: the kernel picks its worker."""
    over_http = connection % 2
    client = HttpClient(running.http, attempts=1) if over_http else Client(running.grpc, attempts=1)
    with client:
        return [client.classify(png(cell)) for cell in range(number)]


def load(running: Service, connections: int = 24, each: int = 5) -> int:
    """So many cells over so many connections; gives how many were answered, which is all of them."""
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda connection: ask(running, each, connection), range(connections)))
    assert len({answer.record_id for some in done for answer in some}) == connections * each
    return connections * each


def large(seed: int) -> bytes:
    """A picture of 16 million pixels in a small file, which takes a while to decode."""
    pixels = np.full((4000, 4000, 3), 200, dtype=np.uint8)
    pixels[1000:3000, 1000:3000] = (120, 60, 160 + seed)
    return encode_png(pixels)


def restarted(running: Service, killed: int) -> None:
    """Until another worker has taken its place; no look at the metrics meanwhile sees the dead one as well."""

    def there() -> bool:
        try:
            serving = workers_with_model(running)
        except httpx.TransportError:
            return False  # the connection was the dead worker's
        assert serving <= 2
        found = running.workers()
        return serving == 2 and len(found) == 2 and killed not in found

    eventually(there, patience_s=60)


def test_every_worker_gives_the_sum_of_all_and_a_killed_ones_counts_stay(running: Service) -> None:
    before = counted(running.metrics())
    first = load(running)
    shares = by_worker(running)
    assert sum(1 for pid in running.workers() if shares[pid]) == 2, "one worker did it all, so this shows nothing"
    expected = before + Counter(dict.fromkeys(("answers", "batches", *STAGES), first))
    for _ in range(ASKED):
        assert counted(running.metrics()) == expected

    killed = max(running.workers(), key=lambda pid: shares[pid])
    os.kill(killed, signal.SIGKILL)
    restarted(running, killed)
    for _ in range(ASKED):
        assert counted(running.metrics()) == expected

    second = load(running)
    expected += Counter(dict.fromkeys(("answers", "batches", *STAGES), second))
    for _ in range(ASKED):
        assert counted(running.metrics()) == expected
    assert sum(by_worker(running).values()) == expected["answers"]


def test_gauges_forget_a_worker_that_was_killed_with_work_in_its_hands(running: Service) -> None:
    cells = [large(number) for number in range(16)]
    before = counted(running.metrics())

    def call(number: int) -> Answer:
        with Client(running.grpc, timeout_s=120, attempts=30) as client:
            return client.classify(cells[number], request_id=f"large-{number}")

    with ThreadPoolExecutor(len(cells)) as pool:
        calls = [pool.submit(call, number) for number in range(len(cells))]
        eventually(lambda: running.metrics()["blastwatch_in_work"] > len(cells) / 2)
        killed = min(running.workers())
        os.kill(killed, signal.SIGKILL)
        records = {call.result().record_id for call in calls}
    assert len(records) == len(cells)
    restarted(running, killed)
    eventually(lambda: [running.metrics()[name] for name in GAUGES] == [0, 0])
    after = counted(running.metrics())
    # Not more: a retry of what the dead worker had put on record meets that record, and is not counted again. Not
    # exactly as many: between the record and its count the worker may have been killed.
    assert before["answers"] <= after["answers"] <= before["answers"] + len(cells)
    more = load(running, connections=8)
    assert counted(running.metrics())["answers"] == after["answers"] + more
