"""A fuzz run over the whole service: 20 000 damaged images and messages, and then it is as it was before.

No crash, no INTERNAL and no 500, no call without an end, nothing left behind (memory, threads, files), no patient in
the log. Everything is generated, and the same in each run.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random

import grpc
import httpx
import psutil  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from tests.service.process import Service, service
from tests.service.running import Site
from tests.support.images import png
from tests.support.mutations import CANARY, bodies, images, messages, mutated

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("fuzz")]

TOGETHER = 8
"""Sent at once: the batcher mixes them, as it does for real callers."""
IMAGES, MESSAGES, BODIES = 2000, 300, 250
"""Rounds; each sends TOGETHER of its kind. A review of no record is waited for, so messages take longest."""
CLASSIFY = "/blastwatch.v1.BlastClassifier/Classify"
SEEDS = st.integers(0, 2**63)
FINE = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,  # a review of no record, a model of another name
    grpc.StatusCode.ALREADY_EXISTS,  # another image under the same request id
}
FINE_HTTP = {200, 400, 404, 409}
GROWTH_BYTES = 48 * 2**20


@dataclass(frozen=True)
class Footprint:
    """What the service's processes hold."""

    resident: int
    threads: int
    files: int


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    site = Site(tmp_path_factory.mktemp("fuzz"))
    site.promote(site.add().version)
    with service(site, max_wait_ms="1", image_retention="none") as found:
        found.wait()
        yield found


@pytest.fixture(scope="module")
def channel(running: Service) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(running.grpc, options=[("grpc.enable_http_proxy", 0)]) as found:
        yield found


def footprint(running: Service) -> Footprint:
    parent = psutil.Process(running.process.pid)
    everyone = [parent, *parent.children(recursive=True)]
    return Footprint(
        resident=sum(process.memory_info().rss for process in everyone),
        threads=sum(process.num_threads() for process in everyone),
        files=sum(process.num_fds() for process in everyone),
    )


def fuzzing(rounds: int) -> settings:
    """The same in each run. A round is one number: drawing each of its bytes would take minutes."""
    return settings(
        max_examples=rounds,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def statuses(channel: grpc.Channel, calls: list[tuple[str, bytes]]) -> list[grpc.StatusCode]:
    """The statuses of these calls, made at once."""
    under_way = [channel.unary_unary(method).future(data, timeout=60) for method, data in calls]
    return [call.code() for call in under_way]


def test_twenty_thousand_are_sent() -> None:
    assert (IMAGES + MESSAGES + BODIES) * TOGETHER >= 20_000


def test_damage_of_every_kind_is_answered_or_refused(running: Service, channel: grpc.Channel) -> None:
    good = pb.Cell(image=png(1), patient_id=CANARY).SerializeToString()
    pictures, asked, posted = images(), messages(), bodies()
    seen: dict[str, set[object]] = {"image": set(), "message": set(), "body": set()}
    sent = dict.fromkeys(seen, 0)

    @fuzzing(IMAGES)
    @given(SEEDS)
    def over_images(seed: int) -> None:
        rng = Random(seed)
        found = [mutated(image, rng) for image in rng.choices(pictures, k=TOGETHER)]
        cells = [(CLASSIFY, pb.Cell(image=image, patient_id=CANARY).SerializeToString()) for image in found]
        took = statuses(channel, cells)
        sent["image"] += len(took)
        seen["image"].update(took)
        assert set(took) <= FINE, [(code, image) for code, image in zip(took, found, strict=True) if code not in FINE]

    @fuzzing(MESSAGES)
    @given(SEEDS)
    def over_messages(seed: int) -> None:
        rng = Random(seed)
        calls = [(method, mutated(message, rng)) for method, message in rng.choices(asked, k=TOGETHER)]
        took = statuses(channel, calls)
        sent["message"] += len(took)
        seen["message"].update(took)
        assert set(took) <= FINE, [(code, call) for code, call in zip(took, calls, strict=True) if code not in FINE]

    @fuzzing(BODIES)
    @given(SEEDS)
    def over_bodies(seed: int) -> None:
        rng = Random(seed)
        drawn = rng.choices(posted, k=TOGETHER)
        calls = [(method, path, mutated(body, rng), headers) for method, path, body, headers in drawn]
        took = list(pool.map(lambda call: http.request(call[0], call[1], content=call[2], headers=call[3]), calls))
        sent["body"] += len(took)
        seen["body"].update(answer.status_code for answer in took)
        for answer, call in zip(took, calls, strict=True):
            assert answer.status_code in FINE_HTTP, (answer.text, call)
            assert CANARY not in answer.text

    with httpx.Client(base_url=running.http, timeout=60, trust_env=False) as http, ThreadPoolExecutor(TOGETHER) as pool:
        # Threads and buffers that come with the first calls are not a leak.
        for _ in range(200):
            statuses(channel, [(CLASSIFY, good)] * TOGETHER)
        over_bodies()
        before = footprint(running)
        over_images()
        over_messages()
        after = footprint(running)
    assert sum(sent.values()) >= 20_000, sent
    # Damage that nothing can be read from, and damage that leaves a picture: both have been there.
    for kind, outcomes in seen.items():
        assert len(outcomes) >= 2, (kind, outcomes)
    assert after.resident - before.resident < GROWTH_BYTES, (before, after)
    assert after.threads <= before.threads + 2, (before, after)
    assert after.files <= before.files + 4, (before, after)
    assert statuses(channel, [(CLASSIFY, good)]) == [grpc.StatusCode.OK]
    assert CANARY not in running.log
    assert "Traceback" not in running.log
    assert running.terminate() == 0
