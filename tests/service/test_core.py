"""The core: one answer a request, on record before it leaves, and no patient anywhere."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.contract.artifact import Thresholds
from service.contract.errors import (
    BadImage,
    BlastwatchError,
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    NotReady,
    Overloaded,
    StoreUnavailable,
    TooLarge,
)
from service.contract.image import Field, load_field, pixels_sha256
from service.contract.pixels import PixelStore
from service.domain import Answer, Cell, Review
from service.engine import Engine
from service.steering import Production
from tests.service.running import PATIENCE_S, Site, eventually, held, started
from tests.support.images import jpeg, png


async def classify(engine: Engine, cell: Cell, *, client: str = "local", deadline: float | None = None) -> Answer:
    return await engine.core().classify(cell, transport="grpc", client=client, deadline=deadline)


def computed(engine: Engine) -> int:
    """How many cells went through the model and onto the record."""
    value = engine.metrics.registry.get_sample_value("blastwatch_stage_seconds_count", {"stage": "journal"})
    return int(value or 0)


def answers_counted(engine: Engine) -> float:
    return sum(
        sample.value
        for metric in engine.metrics.answers.metric.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    )


async def shipped(site: Site, count: int) -> None:
    await asyncio.to_thread(eventually, lambda: site.store.count() >= count)


def test_an_answer_is_on_record_with_what_was_asked(live: Site) -> None:
    cell = Cell(png(1), "r1", "patient 1", "specimen", "site-a", "wright", "scanner", 0.625)

    async def scenario() -> Answer:
        async with started(live.settings()) as engine:
            return await classify(engine, cell)

    answer = asyncio.run(scenario())
    stored = live.store.get(answer.record_id)
    assert stored is not None
    record = stored.record
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.label == max(answer.probabilities, key=lambda label: answer.probabilities[label])
    assert answer.probabilities == record.probabilities
    assert answer.model_version == live.ledger.production() == record.model_version
    assert (record.site, record.stain, record.scanner, record.specimen_id) == (
        "site-a",
        "wright",
        "scanner",
        "specimen",
    )
    assert (record.transport, record.client, record.test, record.pixel_size_um) == ("grpc", "local", False, 0.625)
    assert record.patient not in ("", "patient 1")
    assert record.latency_ms.keys() == {"decode", "queue", "compute", "keep"}
    assert record.runtime
    assert record.batch_size == 1


def test_the_same_patient_gets_the_same_pseudonym_and_nobody_none(live: Site) -> None:
    async def scenario() -> list[Answer]:
        async with started(live.settings()) as engine:
            patients = ["p", " p ", "q", ""]
            return [await classify(engine, Cell(png(n), patient_id=patient)) for n, patient in enumerate(patients)]

    first, again, other, nobody = (live.store.get(a.record_id) for a in asyncio.run(scenario()))
    assert first and again and other and nobody
    assert first.record.patient == again.record.patient != other.record.patient
    assert nobody.record.patient == ""


def test_a_retry_gets_the_recorded_answer_and_is_not_computed_again(live: Site) -> None:
    async def scenario() -> None:
        async with started(live.settings()) as engine:
            first = await classify(engine, Cell(png(1), "r1"))
            assert await classify(engine, Cell(png(1), "r1")) == first
            assert computed(engine) == 1

    asyncio.run(scenario())
    assert live.store.count() == 1


def test_a_retry_on_another_worker_finds_the_record_in_the_store(live: Site) -> None:
    async def scenario() -> None:
        async with started(live.settings()) as one:
            first = await classify(one, Cell(png(1), "r1"))
            await shipped(live, 1)
            async with started(live.settings()) as two:
                assert await classify(two, Cell(png(1), "r1")) == first
                assert computed(two) == 0
                with pytest.raises(Conflict):
                    await classify(two, Cell(png(2), "r1"))

    asyncio.run(scenario())


def test_another_image_under_the_same_request_is_a_conflict_for_that_client_only(live: Site) -> None:
    async def scenario() -> None:
        async with started(live.settings()) as engine:
            first = await classify(engine, Cell(png(1), "r1"))
            with pytest.raises(Conflict, match="request_id"):
                await classify(engine, Cell(png(2), "r1"))
            other = await classify(engine, Cell(png(2), "r1"), client="another")
            assert other.record_id != first.record_id

    asyncio.run(scenario())
    assert live.store.count() == 2


def test_without_a_request_id_each_call_is_a_record_of_its_own(live: Site) -> None:
    async def scenario() -> list[Answer]:
        async with started(live.settings()) as engine:
            return [await classify(engine, Cell(png(1))) for _ in range(2)]

    one, two = asyncio.run(scenario())
    assert one.record_id != two.record_id
    assert one.request_id != two.request_id


def test_doubles_at_the_same_time_are_computed_once(live: Site) -> None:
    async def scenario() -> None:
        async with started(live.settings()) as engine:
            calls = [classify(engine, Cell(png(1), "r1")) for _ in range(20)]
            answers = await asyncio.gather(*calls)
            assert len(set(map(str, answers))) == 1
            assert computed(engine) == 1

    asyncio.run(scenario())
    assert live.store.count() == 1


def test_of_two_images_at_the_same_time_under_one_request_one_is_answered(live: Site) -> None:
    async def scenario() -> None:
        async with started(live.settings()) as engine:
            calls = [classify(engine, Cell(png(number), "r1")) for number in (1, 2)]
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(item) for item in found} == {Answer, Conflict}

    asyncio.run(scenario())
    assert live.store.count() == 1


def test_a_double_is_answered_when_the_one_it_joined_gives_up(live: Site) -> None:
    async def scenario() -> None:
        async with started(live.settings(max_wait_ms=500)) as engine:
            with held(engine):
                first = asyncio.create_task(classify(engine, Cell(png(1), "r1")))
                second = asyncio.create_task(classify(engine, Cell(png(1), "r1")))
                await joined(engine, "r1", 2)
                first.cancel()
                answer = await second
                assert answer.request_id == "r1"
                assert computed(engine) == 1
                with pytest.raises(asyncio.CancelledError):
                    await first

    asyncio.run(scenario())


def test_a_request_that_everybody_gave_up_leaves_nothing(live: Site) -> None:
    async def scenario() -> None:
        async with started(live.settings(max_wait_ms=200)) as engine:
            with held(engine):
                call = asyncio.create_task(classify(engine, Cell(png(1), "r1")))
                await waiting(engine, 1)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                assert computed(engine) == 0
                assert (await classify(engine, Cell(png(2), "r1"))).request_id == "r1"

    asyncio.run(scenario())
    assert live.store.count() == 1


async def joined(engine: Engine, request_id: str, count: int) -> None:
    """Until that many calls wait for the same request."""
    flights = engine.core()._flights._flights
    until = time.monotonic() + PATIENCE_S
    while ("local", request_id) not in flights or flights["local", request_id].waiting < count:
        assert time.monotonic() < until
        await asyncio.sleep(0.001)


async def waiting(engine: Engine, count: int) -> None:
    """Until that many cells wait for their batch."""
    production = engine.core()._steering.production
    assert isinstance(production, Production)
    until = time.monotonic() + PATIENCE_S
    while production._batcher.depth < count:
        assert time.monotonic() < until
        await asyncio.sleep(0.001)


def test_a_double_with_more_time_than_the_one_it_joined_is_still_answered(live: Site) -> None:
    async def scenario() -> None:
        async with started(live.settings(max_wait_ms=1000)) as engine:
            with held(engine):
                short = asyncio.create_task(classify(engine, Cell(png(1), "r1"), deadline=time.monotonic() + 0.8))
                await waiting(engine, 1)
                long = asyncio.create_task(classify(engine, Cell(png(1), "r1"), deadline=time.monotonic() + 20))
                await joined(engine, "r1", 2)
                with pytest.raises(DeadlineExceeded):
                    await short
                assert (await long).request_id == "r1"

    asyncio.run(scenario())


def test_a_deadline_that_passed_is_not_computed(live: Site) -> None:
    async def scenario() -> None:
        async with started(live.settings()) as engine:
            with pytest.raises(DeadlineExceeded):
                await classify(engine, Cell(png(1)), deadline=time.monotonic() - 1)
            assert computed(engine) == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("cell", "kind", "says"),
    [
        (Cell(b""), InvalidRequest, "image is empty"),
        (Cell(b"nonsense"), BadImage, "PNG, JPEG, TIFF or BMP"),
        (Cell(png(0)[:200]), BadImage, "truncated"),
        (Cell(png(0, size=8)), BadImage, "at least 16"),
        (Cell(png(0), pixel_size_um=-1.0), InvalidRequest, "pixel_size_um"),
        (Cell(png(0), pixel_size_um=float("nan")), InvalidRequest, "pixel_size_um"),
        (Cell(png(0), pixel_size_um=float("inf")), InvalidRequest, "pixel_size_um"),
        (Cell(png(0), patient_id="canary" * 100), InvalidRequest, "patient_id has 600 characters"),
        (Cell(png(0), patient_id="canary\n"), InvalidRequest, "patient_id has control characters"),
        (Cell(png(0), site="\ud800"), InvalidRequest, "site has control characters"),
        (Cell(b"\x89PNG" * 400), TooLarge, "above 1024 bytes"),
    ],
)
def test_what_makes_no_sense_is_refused_and_not_repeated(
    live: Site, cell: Cell, kind: type[BlastwatchError], says: str
) -> None:
    limit = 1024 if kind is TooLarge else 2**20

    async def scenario() -> str:
        async with started(live.settings(max_message_bytes=limit)) as engine:
            with pytest.raises(kind, match=says) as caught:
                await classify(engine, cell)
            assert computed(engine) == 0
            return str(caught.value)

    text = asyncio.run(scenario())
    assert "canary" not in text
    assert "\n" not in text


def test_without_a_model_the_service_is_up_but_not_ready(site: Site) -> None:
    async def scenario() -> None:
        async with started(site.settings()) as engine:
            assert not engine.ready()
            with pytest.raises(NotReady, match="dvc repro"):
                await classify(engine, Cell(png(1)))
            with pytest.raises(NotReady, match="dvc repro"):
                engine.core().model()
            version = site.add().version
            site.promote(version)
            await asyncio.to_thread(eventually, engine.ready)
            assert (await classify(engine, Cell(png(1)))).model_version == version

    asyncio.run(scenario())


def test_a_seed_serves_until_the_ledger_names_a_model(site: Site) -> None:
    seed, promoted = site.add(seed=1), site.add(seed=2)

    async def scenario() -> None:
        async with started(site.settings(seed_model=seed.path)) as engine:
            assert engine.core().model().version == seed.version
            site.promote(promoted.version)
            await asyncio.to_thread(eventually, lambda: engine.core().model().version == promoted.version)

    asyncio.run(scenario())


def test_referral_follows_the_models_thresholds_and_the_scale(site: Site) -> None:
    site.promote(site.add(thresholds=Thresholds(abstain=1.0, ood=-1.0)).version)

    async def scenario() -> Answer:
        async with started(site.settings()) as engine:
            return await classify(engine, Cell(png(1)))

    answer = asyncio.run(scenario())
    assert answer.refer
    assert answer.refer_reasons == ("uncertain", "out_of_distribution", "unknown_scale")


def test_a_picture_of_unknown_scale_is_cropped_as_the_model_was_trained(site: Site) -> None:
    """Nobody configures it: the share is in the manifest, and a swap to another share takes effect with the model."""
    site.promote(site.add().version)
    cropped = site.add(crop=0.5)

    async def scenario() -> list[Answer]:
        async with started(site.settings()) as engine:
            whole = await classify(engine, Cell(png(1, 64)))
            site.promote(cropped.version)
            await asyncio.to_thread(eventually, lambda: engine.core().model().version == cropped.version)
            return [
                whole,
                await classify(engine, Cell(png(1, 64))),
                await classify(engine, Cell(png(1, 64), "", pixel_size_um=0.3)),
            ]

    seen = [answer.pixels_sha256 for answer in asyncio.run(scenario())]
    field = cropped.manifest.field
    assert seen == [
        pixels_sha256(load_field(png(1, 64), Field(32, 32, 20.0), 0.0)),
        pixels_sha256(load_field(png(1, 64), field, 0.0)),
        pixels_sha256(load_field(png(1, 64), field, 0.3)),
    ]
    assert len(set(seen)) == 3


@pytest.mark.parametrize(
    ("retention", "values", "cell", "kept"),
    [
        ("none", {}, {}, False),
        ("all", {}, {"pixel_size_um": 0.625}, True),
        ("all", {}, {"test": True}, False),
        ("referred_and_sample", {"image_sample": 0.0}, {"pixel_size_um": 0.625}, False),
        ("referred_and_sample", {"image_sample": 0.0}, {}, True),  # an unknown scale is referred
        ("referred_and_sample", {"image_sample": 1.0}, {"pixel_size_um": 0.625}, True),
    ],
)
def test_pixels_are_kept_as_the_settings_say(
    live: Site, retention: str, values: dict[str, Any], cell: dict[str, Any], kept: bool
) -> None:
    async def scenario() -> tuple[Answer, bool]:
        async with started(live.settings(image_retention=retention, **values)) as engine:
            answer = await classify(engine, Cell(jpeg(1), **cell))
            return answer, PixelStore(live.root / "var/pixels").has(answer.pixels_sha256)

    answer, there = asyncio.run(scenario())
    assert there is kept
    stored = live.store.get(answer.record_id)
    assert stored is not None
    assert stored.record.pixels_kept is kept
    if kept:
        field = live.add().manifest.field
        pixels = PixelStore(live.root / "var/pixels").load(answer.pixels_sha256)
        assert np.array_equal(pixels, load_field(jpeg(1), field, cell.get("pixel_size_um", 0.0)))
        assert pixels_sha256(pixels) == answer.pixels_sha256


def test_pixels_that_cannot_be_kept_stop_the_answer(live: Site) -> None:
    settings = live.settings(image_retention="all")
    settings.pixels_dir.parent.mkdir(parents=True)
    settings.pixels_dir.write_text("not a folder")

    async def scenario() -> None:
        async with started(settings) as engine:
            with pytest.raises(StoreUnavailable):
                await classify(engine, Cell(png(1)))

    asyncio.run(scenario())
    assert live.store.count() == 0


def test_a_share_of_the_cells_is_sampled_by_record_id(live: Site) -> None:
    async def scenario() -> list[Answer]:
        async with started(live.settings(image_retention="referred_and_sample", image_sample=0.3)) as engine:
            cells = [Cell(png(number), str(number), pixel_size_um=0.625) for number in range(100)]
            return await asyncio.gather(*(classify(engine, cell) for cell in cells))

    answers = asyncio.run(scenario())
    pixels = PixelStore(live.root / "var/pixels")
    kept = {answer.record_id for answer in answers if pixels.has(answer.pixels_sha256)}
    assert kept == {answer.record_id for answer in answers if int(answer.record_id[:8], 16) / 2**32 < 0.3}
    assert 15 <= len(kept) <= 45


def test_old_pixels_are_purged(live: Site) -> None:
    settings = live.settings(image_retention_days=1)
    store = PixelStore(settings.pixels_dir)
    old, new = (store.save(load_field(png(n), live.add().manifest.field, 0.0)) for n in (1, 2))
    day_before_yesterday = time.time() - 2 * 86_400
    path = Path(settings.pixels_dir, old[:2], f"{old}.png")
    os.utime(path, (day_before_yesterday, day_before_yesterday))

    async def scenario() -> None:
        async with started(settings):
            await asyncio.to_thread(eventually, lambda: not store.has(old))

    asyncio.run(scenario())
    assert store.has(new)


def test_with_the_store_away_cells_are_answered_and_recorded_later(live: Site) -> None:
    async def scenario() -> list[Answer]:
        async with started(live.settings()) as engine:
            before = await classify(engine, Cell(png(1), "r1"))
            await shipped(live, 1)
            live.take_store_away()
            answers = [before, *[await classify(engine, Cell(png(n), f"r{n}")) for n in range(2, 12)]]
            assert engine.ready()
            assert await classify(engine, Cell(png(5), "r5")) == answers[4]
            with pytest.raises(Conflict):
                await classify(engine, Cell(png(6), "r5"))
            live.bring_store_back()
            await shipped(live, 11)
            return answers

    answers = asyncio.run(scenario())
    assert all(live.store.get(answer.record_id) for answer in answers)


def test_a_worker_starts_while_the_store_is_away(live: Site) -> None:
    live.take_store_away()
    (live.root / "db").write_text("in the way")

    async def scenario() -> None:
        async with started(live.settings()) as engine:
            assert not engine.ready()
            with pytest.raises(NotReady, match="ledger cannot be read"):
                await classify(engine, Cell(png(1)))
            (live.root / "db").unlink()
            live.bring_store_back()
            await asyncio.to_thread(eventually, engine.ready)
            await classify(engine, Cell(png(1), "r1"))

    asyncio.run(scenario())
    assert live.store.count() == 1


def test_a_full_journal_refuses_work_until_the_store_is_back(live: Site) -> None:
    async def scenario() -> int:
        async with started(live.settings(journal_max_bytes=2**16)) as engine:
            live.take_store_away()
            answered = 0
            with pytest.raises(Overloaded) as caught:
                for number in range(1000):
                    await classify(engine, Cell(png(number), str(number)))
                    answered += 1
            assert caught.value.retry_after_s > 0
            live.bring_store_back()
            await shipped(live, answered)
            await asyncio.to_thread(eventually, lambda: engine.core()._journal.pending_bytes == 0)
            await classify(engine, Cell(png(2000), "2000"))
            return answered + 1

    assert asyncio.run(scenario()) == live.store.count() > 10


def test_more_work_than_the_queue_takes_is_refused_at_once(live: Site) -> None:
    async def scenario() -> None:
        async with started(live.settings(max_queue=4, max_batch=4)) as engine:
            calls = [classify(engine, Cell(png(number))) for number in range(20)]
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(item) for item in found} == {Answer, Overloaded}
            assert sum(isinstance(item, Answer) for item in found) == 4
            await classify(engine, Cell(png(21)))

    asyncio.run(scenario())


def test_a_review_is_on_record_and_says_whether_it_counts(live: Site) -> None:
    async def scenario() -> dict[str, str]:
        async with started(live.settings(image_retention="referred_and_sample", image_sample=0.0)) as engine:
            referred = await classify(engine, Cell(png(1), "referred"))
            plain = await classify(engine, Cell(png(2), "plain", pixel_size_um=0.625))
            test = await classify(engine, Cell(png(3), "test", test=True))
            notes = {}
            for answer in (referred, plain, test):
                # At once: the record is still on its way to the store.
                found = await engine.core().review(
                    Review(answer.record_id, "L2", "haematologist", True), client="local"
                )
                assert found.record_id == answer.record_id
                assert found.counts_for_training is (found.note == "")
                notes[answer.request_id] = found.note
            return notes

    notes = asyncio.run(scenario())
    assert notes["referred"] == ""
    assert "not kept" in notes["plain"]
    assert "test traffic" in notes["test"]
    reviewed = live.store.reviewed(include_test=True)
    assert [review.label for _, review in reviewed] == ["L2"] * 3
    assert all(review.sampled and review.client == "local" for _, review in reviewed)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"label": "basophil"}, InvalidRequest),
        ({"label": ""}, InvalidRequest),
        ({"role": " "}, InvalidRequest),
        ({"role": "a\x00"}, InvalidRequest),
        ({"record_id": "0" * 32}, NotFound),
        ({"record_id": ""}, InvalidRequest),
    ],
)
def test_a_review_of_nothing_is_refused(live: Site, values: dict[str, str], kind: type[BlastwatchError]) -> None:
    async def scenario() -> None:
        async with started(live.settings()) as engine:
            answer = await classify(engine, Cell(png(1), "r1"))
            review = {"record_id": answer.record_id, "label": "L1", "role": "haematologist", **values}
            with pytest.raises(kind):
                await engine.core().review(Review(**review), client="local")  # type: ignore[arg-type]

    asyncio.run(scenario())
    assert live.store.reviewed() == []


def test_reviews_while_the_store_is_away(live: Site) -> None:
    async def scenario() -> None:
        async with started(live.settings()) as engine:
            answer = await classify(engine, Cell(png(1), "r1"))
            await shipped(live, 1)
            live.take_store_away()
            await engine.core().review(Review(answer.record_id, "L1", "haematologist"), client="local")
            with pytest.raises(StoreUnavailable, match="try again") as caught:
                await engine.core().review(Review("0" * 32, "L1", "haematologist"), client="local")
            assert str(live.root) not in str(caught.value)
            live.bring_store_back()
            await asyncio.to_thread(eventually, lambda: len(live.store.reviewed()) == 1)

    asyncio.run(scenario())


def test_a_disputed_record_does_not_count(live: Site) -> None:
    async def scenario() -> None:
        elsewhere = live.settings(journal_dir=live.root / "another-host")
        async with started(live.settings(image_retention="all")) as one, started(elsewhere) as two:
            await shipped(live, 0)
            live.take_store_away()
            # Neither host can know of the other: the shippers find out.
            first = await classify(one, Cell(png(1), "r1"))
            await classify(two, Cell(png(2), "r1"))
            live.bring_store_back()
            await shipped(live, 2)
            found = await one.core().review(Review(first.record_id, "L1", "haematologist"), client="local")
            assert not found.counts_for_training
            assert "disputed" in found.note

    asyncio.run(scenario())


def test_test_traffic_is_not_counted(live: Site) -> None:
    async def scenario() -> None:
        async with started(live.settings()) as engine:
            await classify(engine, Cell(png(1), test=True))
            assert answers_counted(engine) == 0
            await classify(engine, Cell(png(1)))
            assert answers_counted(engine) == 1

    asyncio.run(scenario())
