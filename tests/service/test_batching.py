"""Each clause of the batcher's contract, on a clock that the test winds."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

import numpy as np
import pytest

from service.batching import Batcher, Row, wait_for
from service.contract.errors import DeadlineExceeded, NotReady, Overloaded
from service.contract.image import Pixels, row_check
from service.contract.predictor import Outputs
from service.identity import Computed, OutputsError, sealed
from tests.support.fake_time import FakeTime, Held, Inline, settle

WAIT_S = 0.004


class Model:
    """Answers with colours, and remembers the batches it was asked for."""

    def __init__(self) -> None:
        self.batches: list[Pixels] = []
        self.fail: Exception | None = None

    def __call__(self, batch: Pixels) -> Computed[str]:
        self.batches.append(batch)
        if self.fail is not None:
            raise self.fail
        return sealed(answers(batch), f"model {len(self.batches)}")

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


def answers(batch: Pixels) -> Outputs:
    colours = batch.mean(axis=(1, 2)).astype(np.float32)
    return Outputs(colours / colours.sum(axis=1, keepdims=True), colours, colours[:, 0], row_check(batch))


def cell(number: int, size: int = 4) -> Pixels:
    return np.random.default_rng(number).integers(1, 255, (size, size, 3), dtype=np.uint8)


def right(row: Row[str], number: int) -> bool:
    alone = answers(cell(number)[np.newaxis])
    return bool(np.array_equal(row.probabilities, alone.probabilities[0]) and row.row_check == alone.row_check[0])


class Bench:
    """A batcher on fake time, and what is asked of it."""

    def __init__(self, *, max_batch: int = 4, max_queue: int = 8, held: bool = False) -> None:
        self.time = FakeTime()
        self.model = Model()
        self.held = Held()
        self.batcher = Batcher(
            self.model,
            max_batch=max_batch,
            max_wait_s=WAIT_S,
            max_queue=max_queue,
            clock=self.time.clock,
            wait=self.time.wait,
            executor=self.held if held else Inline(),
        )

    def ask(self, number: int, *, deadline: float | None = None, size: int = 4) -> "asyncio.Task[Row[str]]":
        return asyncio.create_task(self.batcher.submit(cell(number, size), deadline=deadline))


@asynccontextmanager
async def started(bench: Bench) -> AsyncIterator[Bench]:
    await bench.batcher.start()
    try:
        yield bench
    finally:
        await bench.batcher.stop(timeout_s=0)


def run(scenario: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 30))


def test_a_full_batch_fires_at_once() -> None:
    async def scenario() -> None:
        async with started(Bench(max_batch=4)) as bench:
            tasks = [bench.ask(number) for number in range(4)]
            await settle()
            assert bench.model.sizes == [4]
            assert all(right(task.result(), number) for number, task in enumerate(tasks))
            assert {task.result().batch_size for task in tasks} == {4}

    run(scenario())


def test_a_partial_batch_fires_at_its_deadline_and_not_before() -> None:
    async def scenario() -> None:
        async with started(Bench()) as bench:
            first = bench.ask(0)
            await bench.time.advance(WAIT_S / 2)
            second = bench.ask(1)
            await bench.time.advance(WAIT_S / 2 - 1e-6)
            assert bench.model.sizes == []
            await bench.time.advance(2e-6)  # the wait runs from the first job, not from the last
            assert bench.model.sizes == [2]
            assert first.result().queue_s == pytest.approx(WAIT_S, abs=1e-5)
            assert second.result().queue_s == pytest.approx(WAIT_S / 2, abs=1e-5)

    run(scenario())


def test_more_jobs_than_a_batch_holds_go_in_order_of_arrival() -> None:
    async def scenario() -> None:
        async with started(Bench(max_batch=2)) as bench:
            tasks = [bench.ask(number) for number in range(5)]
            await settle()
            assert bench.model.sizes == [2, 2]
            await bench.time.advance(WAIT_S)
            assert bench.model.sizes == [2, 2, 1]
            assert all(right(task.result(), number) for number, task in enumerate(tasks))
            assert [task.result().model for task in tasks] == ["model 1"] * 2 + ["model 2"] * 2 + ["model 3"]

    run(scenario())


def test_each_of_two_jobs_with_the_same_pixels_gets_an_answer() -> None:
    async def scenario() -> None:
        async with started(Bench(max_batch=2)) as bench:
            tasks = [bench.ask(7), bench.ask(7)]
            await settle()
            assert tasks[0].result() is not tasks[1].result()
            assert all(right(task.result(), 7) for task in tasks)

    run(scenario())


def test_the_next_batch_gathers_while_one_computes() -> None:
    async def scenario() -> None:
        async with started(Bench(max_batch=4, held=True)) as bench:
            first = [bench.ask(number) for number in range(4)]
            await settle()
            second = [bench.ask(number) for number in range(4, 7)]
            await bench.time.advance(10 * WAIT_S)
            assert len(bench.held) == 1
            assert bench.batcher.depth == 3
            await bench.held.release()
            assert all(task.done() for task in first)
            assert len(bench.held) == 1  # waited long enough meanwhile: fires at once
            await bench.held.release()
            assert bench.model.sizes == [4, 3]
            assert second[0].result().queue_s == pytest.approx(10 * WAIT_S)

    run(scenario())


def test_a_cancelled_caller_is_not_computed_and_its_mates_are_served() -> None:
    async def scenario() -> None:
        async with started(Bench()) as bench:
            tasks = [bench.ask(number) for number in range(3)]
            await settle()
            tasks[1].cancel()
            await bench.time.advance(WAIT_S)
            assert tasks[1].cancelled()
            assert bench.model.sizes == [2]
            assert right(tasks[0].result(), 0)
            assert right(tasks[2].result(), 2)

    run(scenario())


def test_a_caller_cancelled_in_the_instant_of_the_batch_is_not_computed() -> None:
    """Its future is cancelled, and it had no turn yet to take its job out of the queue."""

    async def scenario() -> None:
        async with started(Bench()) as bench:
            tasks = [bench.ask(number) for number in range(3)]
            await settle()
            tasks[1].cancel()
            await bench.batcher._fire(bench.batcher._take())
            await settle()
            assert bench.model.sizes == [2]
            assert tasks[1].cancelled()
            assert right(tasks[2].result(), 2)

    run(scenario())


def test_a_caller_cancelled_during_the_computation_leaves_its_mates_served() -> None:
    async def scenario() -> None:
        async with started(Bench(max_batch=2, held=True)) as bench:
            tasks = [bench.ask(0), bench.ask(1)]
            await settle()
            tasks[0].cancel()
            await bench.held.release()
            assert tasks[0].cancelled()
            assert right(tasks[1].result(), 1)
            later = [bench.ask(2), bench.ask(3)]
            await settle()
            await bench.held.release()
            assert right(later[0].result(), 2)

    run(scenario())


def test_cancelled_jobs_make_room_in_the_queue() -> None:
    async def scenario() -> None:
        async with started(Bench(max_batch=4, max_queue=3)) as bench:
            for number in range(3):
                bench.ask(number).cancel()
            waiting = [bench.ask(number) for number in range(3)]
            await settle()
            waiting[0].cancel()
            await settle()
            late = bench.ask(9)
            await bench.time.advance(WAIT_S)
            assert right(late.result(), 9)

    run(scenario())


def test_a_model_failure_reaches_every_caller_of_that_batch_and_only_them() -> None:
    async def scenario() -> None:
        async with started(Bench(max_batch=2, held=True)) as bench:
            failing = [bench.ask(0), bench.ask(1)]
            served = [bench.ask(2), bench.ask(3)]
            await settle()
            bench.model.fail = RuntimeError("the model broke")
            await bench.held.release()
            bench.model.fail = None
            assert [str(task.exception()) for task in failing] == ["the model broke"] * 2
            await bench.held.release()
            assert right(served[0].result(), 2)
            assert right(served[1].result(), 3)

    run(scenario())


def test_a_stop_iteration_from_the_model_reaches_the_caller_too() -> None:
    async def scenario() -> None:
        async with started(Bench(max_batch=1)) as bench:
            bench.model.fail = StopIteration()
            task = bench.ask(0)
            await settle()
            assert isinstance(task.exception(), RuntimeError)

    run(scenario())


@pytest.mark.parametrize("name", Outputs._fields)
@pytest.mark.parametrize("change", [-1, 1])
def test_a_wrong_number_of_outputs_is_an_error(name: str, change: int) -> None:
    def wrong(batch: Pixels) -> Computed[str]:
        outputs = answers(batch)
        array = getattr(outputs, name)
        short = array[:-1] if change < 0 else np.concatenate([array, array[:1]])
        return Computed(outputs._replace(**{name: short}), (b"",) * len(batch), "model")

    async def scenario() -> None:
        async with started(Bench(max_batch=2)) as bench:
            bench.batcher._run = wrong
            tasks = [bench.ask(0), bench.ask(1)]
            await settle()
            assert [type(task.exception()) for task in tasks] == [OutputsError] * 2
            bench.batcher._run = bench.model
            tasks = [bench.ask(0), bench.ask(1)]
            await settle()
            assert right(tasks[0].result(), 0)

    run(scenario())


def test_a_wrong_number_of_seals_is_an_error() -> None:
    async def scenario() -> None:
        async with started(Bench(max_batch=1)) as bench:
            bench.batcher._run = lambda batch: sealed(answers(batch), "model")._replace(seals=())
            task = bench.ask(0)
            await settle()
            assert isinstance(task.exception(), OutputsError)

    run(scenario())


def test_a_full_queue_is_overloaded_at_once_and_serves_those_in_it() -> None:
    async def scenario() -> None:
        async with started(Bench(max_batch=2, max_queue=3, held=True)) as bench:
            computing = [bench.ask(number) for number in range(2)]
            await settle()
            waiting = [bench.ask(number) for number in range(2, 5)]
            await settle()
            refused = bench.ask(5)
            await settle()
            assert isinstance(refused.exception(), Overloaded)
            for _ in range(3):
                await bench.held.release()
                await bench.time.advance(WAIT_S)
            assert all(right(task.result(), number) for number, task in enumerate([*computing, *waiting]))

    run(scenario())


def test_a_job_whose_deadline_passed_is_dropped_before_the_computation() -> None:
    async def scenario() -> None:
        async with started(Bench(max_batch=2, held=True)) as bench:
            first = [bench.ask(0), bench.ask(1)]
            await settle()
            late = bench.ask(2, deadline=bench.time.now + 1)
            patient = bench.ask(3, deadline=bench.time.now + 3)
            await bench.time.advance(2)
            await bench.held.release()
            await bench.time.advance(WAIT_S)
            await bench.held.release()
            assert all(task.done() for task in first)
            assert isinstance(late.exception(), DeadlineExceeded)
            assert right(patient.result(), 3)
            assert bench.model.sizes == [2, 1]

    run(scenario())


def test_a_deadline_that_passed_before_is_refused_at_once() -> None:
    async def scenario() -> None:
        async with started(Bench()) as bench:
            with pytest.raises(DeadlineExceeded):
                await bench.batcher.submit(cell(0), deadline=bench.time.now)
            assert bench.batcher.depth == 0

    run(scenario())


def test_pixels_of_another_field_go_in_a_batch_of_their_own() -> None:
    async def scenario() -> None:
        async with started(Bench(max_batch=3)) as bench:
            tasks = [bench.ask(0), bench.ask(1, size=6), bench.ask(2, size=6)]
            await bench.time.advance(WAIT_S)
            assert [batch.shape for batch in bench.model.batches] == [(1, 4, 4, 3), (2, 6, 6, 3)]
            assert all(task.exception() is None for task in tasks)

    run(scenario())


@pytest.mark.parametrize(
    "pixels", [cell(0).astype(np.float32), cell(0)[..., 0], cell(0)[..., :2]], ids=["float", "grey", "two channels"]
)
def test_what_is_no_picture_is_refused_before_it_meets_others(pixels: Pixels) -> None:
    async def scenario() -> None:
        async with started(Bench()) as bench:
            with pytest.raises(ValueError, match="expected uint8"):
                await bench.batcher.submit(pixels)

    run(scenario())


def test_stop_computes_what_waits_and_takes_no_more() -> None:
    async def scenario() -> None:
        bench = Bench(max_batch=2)
        await bench.batcher.start()
        tasks = [bench.ask(number) for number in range(3)]
        await settle()
        await bench.batcher.stop()  # without time passing
        rows = await asyncio.gather(*tasks)
        assert all(right(row, number) for number, row in enumerate(rows))
        with pytest.raises(NotReady):
            await bench.batcher.submit(cell(9))

    run(scenario())


def test_stop_resolves_every_future_even_when_the_model_hangs() -> None:
    async def scenario() -> None:
        bench = Bench(max_batch=2, held=True)
        await bench.batcher.start()
        tasks = [bench.ask(number) for number in range(5)]
        await settle()
        await bench.batcher.stop(timeout_s=0)
        await settle()
        assert [type(task.exception()) for task in tasks] == [NotReady] * 5
        await bench.held.release()  # the computation ends after all: its callers have their answer already

    run(scenario())


def test_a_batcher_whose_gatherer_dies_leaves_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        bench = Bench()

        async def broken(event: asyncio.Event, timeout_s: float | None) -> None:
            if timeout_s is None:
                await event.wait()
            else:
                raise RuntimeError("no timer")

        bench.batcher._wait = broken
        async with started(bench):
            task = bench.ask(0)
            await settle()
            assert isinstance(task.exception(), NotReady)
            with pytest.raises(NotReady):
                await bench.batcher.submit(cell(1))

    run(scenario())
    assert "the batcher ended" in caplog.text


def test_before_start_nothing_is_taken() -> None:
    async def scenario() -> None:
        bench = Bench()
        with pytest.raises(NotReady):
            await bench.batcher.submit(cell(0))
        await bench.batcher.stop()

    run(scenario())


def test_a_batcher_starts_once() -> None:
    async def scenario() -> None:
        async with started(Bench()) as bench:
            with pytest.raises(RuntimeError, match="starts once"):
                await bench.batcher.start()

    run(scenario())


@pytest.mark.parametrize("wrong", [{"max_batch": 0}, {"max_queue": 0}, {"max_wait_s": -1.0}])
def test_sizes_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least"):
        Batcher(Model(), **wrong)  # type: ignore[arg-type]


def test_with_real_time_and_a_real_thread() -> None:
    async def scenario() -> None:
        batcher = Batcher(Model(), max_batch=8)
        await batcher.start()
        rows = await asyncio.gather(*(batcher.submit(cell(number)) for number in range(21)))
        await batcher.stop()
        assert all(right(row, number) for number, row in enumerate(rows))

    run(scenario())


def test_the_real_wait_ends_by_event_and_by_time() -> None:
    async def scenario() -> None:
        event = asyncio.Event()
        await wait_for(event, 0.0)
        asyncio.get_running_loop().call_soon(event.set)
        await wait_for(event, None)
        assert event.is_set()

    run(scenario())
