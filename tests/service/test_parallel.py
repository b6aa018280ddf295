"""Two hundred calls at once with different images: each answer is the one that its image gets alone."""

from concurrent.futures import ThreadPoolExecutor

import grpc

from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.proto.blastwatch.v1.blastwatch_pb2_grpc import BlastClassifierStub
from tests.service.running import Site, working
from tests.support.images import png

CALLS = 200
TOLERANCE = 1e-6


def test_each_answer_is_the_one_its_image_gets_alone(live: Site) -> None:
    cells = [pb.Cell(image=png(number), pixel_size_um=0.3 + number / 400) for number in range(CALLS)]
    with working(live.settings()) as worker, grpc.insecure_channel(worker.grpc) as channel:
        stub = BlastClassifierStub(channel)
        with ThreadPoolExecutor(32) as pool:
            together = list(pool.map(lambda cell: stub.Classify(cell, timeout=60), cells))
        alone = [stub.Classify(cell, timeout=60) for cell in cells]
        sizes = [
            worker.engine.core()._recent.by_record(answer.record_id).batch_size  # type: ignore[union-attr]
            for answer in together
        ]
    assert max(sizes) > 1, "nothing was computed together, so this shows nothing"
    assert len({answer.pixels_sha256 for answer in alone}) == CALLS
    for one, other in zip(together, alone, strict=True):
        assert one.image_sha256 == other.image_sha256
        assert one.pixels_sha256 == other.pixels_sha256
        assert (one.label, one.refer) == (other.label, other.refer)
        assert one.probabilities.keys() == other.probabilities.keys()
        assert max(abs(one.probabilities[name] - other.probabilities[name]) for name in one.probabilities) <= TOLERANCE
    assert live.store.count() == 2 * CALLS
