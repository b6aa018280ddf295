"""Pictures on their way through threads: each gets its own, whatever becomes of the ones beside it."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service import intake as module
from service.batching import compute_thread
from service.contract.errors import BadImage, DeadlineExceeded, NotReady
from service.contract.image import Field, load_field, pixels_sha256, row_check
from service.domain import Cell
from service.intake import Intake, Prepared
from tests.support.images import png

FIELD = Field(32, 32, 20.0)
LATER = 60.0


def shared(yes: bool) -> ThreadPoolExecutor | None:
    executor = compute_thread() if yes else None
    assert executor is None or isinstance(executor, ThreadPoolExecutor)
    return executor


@pytest.mark.parametrize("one_thread", [False, True])
def test_each_gets_its_own_answer(one_thread: bool) -> None:
    async def scenario() -> list[Prepared | BaseException]:
        intake = Intake(shared(one_thread))
        until = time.monotonic() + LATER
        images = [png(n) if n % 7 else b"no picture" for n in range(50)]
        calls = [asyncio.create_task(intake.prepare(Cell(image), FIELD, until)) for image in images]
        calls[10].cancel()
        passed = [asyncio.create_task(intake.prepare(Cell(png(1)), FIELD, time.monotonic() - 1))]
        found = await asyncio.gather(*calls, *passed, return_exceptions=True)
        intake.close()
        return found

    *found, late = asyncio.run(scenario())
    assert isinstance(late, DeadlineExceeded)
    for number, one in enumerate(found):
        if number == 10:
            assert isinstance(one, asyncio.CancelledError)
        elif number % 7 == 0:
            assert isinstance(one, BadImage)
        else:
            assert isinstance(one, Prepared)
            pixels = load_field(png(number), FIELD, 0.0)
            assert one.pixels_sha256 == pixels_sha256(pixels)
            assert one.row_check == int(row_check(pixels[None])[0])


def test_one_thread_takes_its_other_work_between_large_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that computes must not be kept from it by a row of pictures that take long to decode."""
    order: list[str] = []
    decode = module.seen

    def slow(cell: Cell, field: Field) -> object:
        order.append("picture")
        time.sleep(2 * module.AT_LATEST_S)
        return decode(cell, field)

    monkeypatch.setattr(module, "seen", slow)

    async def scenario() -> None:
        thread = compute_thread()
        intake = Intake(thread)
        until = time.monotonic() + LATER
        calls = [asyncio.create_task(intake.prepare(Cell(png(n)), FIELD, until)) for n in range(8)]
        while not order:
            await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(thread, order.append, "batch")
        await asyncio.gather(*calls)
        intake.close()

    asyncio.run(scenario())
    assert order.index("batch") <= 2, order
    assert order.count("picture") == 8


def test_what_waits_when_it_is_closed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = module.seen

    def slow(cell: Cell, field: Field) -> object:
        time.sleep(0.05)
        return decode(cell, field)

    monkeypatch.setattr(module, "seen", slow)

    async def scenario() -> None:
        intake = Intake()
        until = time.monotonic() + LATER
        calls = [asyncio.create_task(intake.prepare(Cell(png(n)), FIELD, until)) for n in range(40)]
        await asyncio.sleep(0.01)
        intake.close()
        found = await asyncio.wait_for(asyncio.gather(*calls[20:], return_exceptions=True), 20)
        assert {type(one) for one in found} == {NotReady}
        with pytest.raises(NotReady):
            await intake.prepare(Cell(png(1)), FIELD, until)

    asyncio.run(scenario())
