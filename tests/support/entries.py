"""Records that a name and a number determine, so that what a store has can be compared with what was sent."""

import random

from service.contract.records import PredictionRecord, ReviewRecord, record_id, review_id
from service.frames import Entry

TIME = "2020-01-01T00:00:00.000000+00:00"


def prediction(number: int, client: str = "client") -> PredictionRecord:
    """An answer, the same for the same client and number."""
    rng = random.Random(f"{client} {number}")
    pixels = f"{rng.getrandbits(256):064x}"
    share = rng.random()
    return PredictionRecord(
        record_id=record_id(client, str(number), pixels, "m" * 32),
        time=TIME,
        request_id=str(number),
        model_version="m" * 32,
        runtime="test",
        batch_size=1,
        transport="grpc",
        client=client,
        test=False,
        site="Klinik Süd",
        stain="stain",
        scanner="scanner",
        pixel_size_um=0.15625,
        patient="",
        key_id="key",
        specimen_id="",
        image_sha256="1" * 64,
        pixels_sha256=pixels,
        label="healthy",
        probabilities={"healthy": share, "L1": 1 - share},
        malignant_probability=1 - share,
        refer=False,
        refer_reasons=(),
        ood_score=0.5,
        embedding=tuple(rng.randrange(-4096, 4096) / 1024 for _ in range(4)),
        statistics={"brightness": 0.5},
        latency_ms={"compute": 1.0},
        pixels_kept=False,
    )


def review(number: int, client: str = "client") -> ReviewRecord:
    """A review of `prediction(number, client)`."""
    record = prediction(number, client).record_id
    return ReviewRecord(
        review_id=review_id(record, "haematologist", "L1", TIME),
        record_id=record,
        label="L1",
        role="haematologist",
        time=TIME,
        client=client,
        sampled=False,
    )


def entries(*numbers: int, client: str = "client") -> list[Entry]:
    """Answers as the journal takes them."""
    return [Entry.prediction(prediction(number, client)) for number in numbers]
