"""Planted batchers that mix answers up: no wrong answer is ever handed out, whatever is permuted."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.batching import Batcher, Job, Row, SealedRow
from service.contract.errors import BlastwatchError
from service.contract.image import Pixels
from service.contract.predictor import Outputs, Predictor
from service.identity import Computed, IdentityError, OutputsError, compute, seal, sealed
from tests.support.artifacts import tiny_artifact
from tests.support.images import smear

CELLS = 6
Answer = Row[Predictor] | BaseException
Run = Callable[[Pixels], Computed[Predictor]]
Plant = Callable[[Run], Run]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(tiny_artifact(tmp_path_factory.mktemp("model") / "artifact"))


@pytest.fixture(scope="module")
def cells() -> list[Pixels]:
    return [smear(seed) for seed in range(CELLS)]


def served(batcher: Batcher[Predictor], cells: Sequence[Pixels]) -> list[Answer]:
    """What each cell gets when all of them make one batch."""

    async def ask() -> list[Answer]:
        await batcher.start()
        answers = await asyncio.gather(*(batcher.submit(cell) for cell in cells), return_exceptions=True)
        await batcher.stop()
        return answers

    return asyncio.run(asyncio.wait_for(ask(), 30))


def mixed_up(answers: Sequence[Answer], cells: Sequence[Pixels], predictor: Predictor) -> list[int]:
    """Cells that were given another answer than the one they get alone."""
    wrong = []
    for number, (answer, cell) in enumerate(zip(answers, cells, strict=True)):
        alone = predictor.predict(cell[np.newaxis])
        if isinstance(answer, Row) and not (
            np.allclose(answer.probabilities, alone.probabilities[0], rtol=0, atol=1e-5)
            and np.allclose(answer.embedding, alone.embedding[0], rtol=0, atol=1e-4)
            and abs(answer.ood_score - float(alone.ood_score[0])) < 1e-4
        ):
            wrong.append(number)
    return wrong


def withheld(answers: Sequence[Answer]) -> list[int]:
    return [number for number, answer in enumerate(answers) if isinstance(answer, IdentityError)]


def reorder(computed: Computed[Predictor], order: Sequence[int], *names: str, seals: bool) -> Computed[Predictor]:
    """Some of the output arrays, and the seals if asked, in another order."""
    index = np.asarray(order)
    arrays = {name: getattr(computed.outputs, name)[index] for name in names}
    moved = tuple(computed.seals[i] for i in order) if seals else computed.seals
    return Computed(computed.outputs._replace(**arrays), moved, computed.model)


def overwrite(computed: Computed[Predictor], name: str) -> Computed[Predictor]:
    """The first cell's value of one output, given to the second cell too."""
    array = getattr(computed.outputs, name).copy()
    array[1] = array[0]
    return computed._replace(outputs=computed.outputs._replace(**{name: array}))


def reorders(name: str, order: Sequence[int]) -> Plant:
    return lambda run: lambda batch: reorder(run(batch), order, name, seals=False)


def overwrites(name: str) -> Plant:
    return lambda run: lambda batch: overwrite(run(batch), name)


rolled = [CELLS - 1, *range(CELLS - 1)]
swapped = [1, 0, *range(2, CELLS)]
ALL = Outputs._fields
EVERYBODY = list(range(CELLS))

# name: (what is planted around `run`, whose answers must be withheld)
AROUND_THE_MODEL: dict[str, tuple[Plant, list[int]]] = {
    "inputs permuted": (lambda run: lambda batch: run(batch[rolled]), EVERYBODY),
    "two inputs swapped": (lambda run: lambda batch: run(batch[swapped]), [0, 1]),
    "all outputs permuted": (lambda run: lambda batch: reorder(run(batch), rolled, *ALL, seals=True), EVERYBODY),
    "all outputs but the seals permuted": (
        lambda run: lambda batch: reorder(run(batch), rolled, *ALL, seals=False),
        EVERYBODY,
    ),
    "one output swapped with its neighbour": (
        lambda run: lambda batch: reorder(run(batch), swapped, *ALL, seals=True),
        [0, 1],
    ),
    "all but the row check permuted, seals too": (
        lambda run: lambda batch: reorder(run(batch), rolled, *ALL[:3], seals=True),
        EVERYBODY,
    ),
    "the seals alone permuted": (lambda run: lambda batch: reorder(run(batch), rolled, seals=True), EVERYBODY),
    **{
        f"{name} alone permuted": (
            reorders(name, rolled),
            EVERYBODY,
        )
        for name in ALL
    },
    **{
        f"{name} alone swapped for two": (
            reorders(name, swapped),
            [0, 1],
        )
        for name in ALL
    },
    **{f"{name} of one cell given to the next": (overwrites(name), [1]) for name in ALL},
}


class StacksPermuted(Batcher[Predictor]):
    def _stack(self, batch: Sequence[Job[Predictor]]) -> Pixels:
        return super()._stack(batch)[::-1]


class StacksOneCellTwice(Batcher[Predictor]):
    def _stack(self, batch: Sequence[Job[Predictor]]) -> Pixels:
        return super()._stack([batch[0], *batch[:-1]])


class SplitsPermuted(Batcher[Predictor]):
    def _split(
        self, computed: Computed[Predictor], queue_s: Sequence[float], compute_s: float
    ) -> list[SealedRow[Predictor]]:
        return super()._split(computed, queue_s, compute_s)[::-1]


class SplitsProbabilitiesPermuted(Batcher[Predictor]):
    def _split(
        self, computed: Computed[Predictor], queue_s: Sequence[float], compute_s: float
    ) -> list[SealedRow[Predictor]]:
        rows = super()._split(computed, queue_s, compute_s)
        others = [rows[-1], *rows[:-1]]
        return [
            replace(one, row=replace(one.row, probabilities=other.row.probabilities))
            for one, other in zip(rows, others, strict=True)
        ]


class PairsPermuted(Batcher[Predictor]):
    def _pair(
        self, batch: Sequence[Job[Predictor]], rows: Sequence[SealedRow[Predictor]]
    ) -> Iterable[tuple[Job[Predictor], SealedRow[Predictor]]]:
        return zip(batch, [*rows[1:], rows[0]], strict=True)


class PairsAllButOne(Batcher[Predictor]):
    def _pair(
        self, batch: Sequence[Job[Predictor]], rows: Sequence[SealedRow[Predictor]]
    ) -> Iterable[tuple[Job[Predictor], SealedRow[Predictor]]]:
        return list(super()._pair(batch, rows))[:-1]


INSIDE_THE_BATCHER: list[tuple[type[Batcher[Predictor]], list[int]]] = [
    (StacksPermuted, EVERYBODY),
    (StacksOneCellTwice, EVERYBODY[1:]),
    (SplitsPermuted, EVERYBODY),
    (SplitsProbabilitiesPermuted, EVERYBODY),
    (PairsPermuted, EVERYBODY),
    (PairsAllButOne, [CELLS - 1]),
]


def test_without_a_fault_each_cell_gets_the_answer_it_gets_alone(predictor: Predictor, cells: list[Pixels]) -> None:
    answers = served(Batcher(lambda batch: compute(predictor, batch), max_batch=CELLS), cells)
    assert withheld(answers) == []
    assert mixed_up(answers, cells, predictor) == []
    assert [answer.model for answer in answers if isinstance(answer, Row)] == [predictor] * CELLS
    assert [answer.batch_size for answer in answers if isinstance(answer, Row)] == [CELLS] * CELLS


@pytest.mark.parametrize(("plant", "affected"), AROUND_THE_MODEL.values(), ids=AROUND_THE_MODEL)
def test_a_fault_around_the_model_is_caught(
    plant: Plant, affected: list[int], predictor: Predictor, cells: list[Pixels]
) -> None:
    answers = served(Batcher(plant(lambda batch: compute(predictor, batch)), max_batch=CELLS), cells)
    assert withheld(answers) == affected
    assert mixed_up(answers, cells, predictor) == []


@pytest.mark.parametrize(("batcher", "affected"), INSIDE_THE_BATCHER)
def test_a_fault_inside_the_batcher_is_caught(
    batcher: type[Batcher[Predictor]], affected: list[int], predictor: Predictor, cells: list[Pixels]
) -> None:
    answers = served(batcher(lambda batch: compute(predictor, batch), max_batch=CELLS), cells)
    assert withheld(answers) == affected
    assert mixed_up(answers, cells, predictor) == []


def test_pixels_that_change_after_they_were_sent_are_caught(predictor: Predictor, cells: list[Pixels]) -> None:
    def meddle(batch: Pixels) -> Computed[Predictor]:
        batch[0] = 255 - batch[0]
        return compute(predictor, batch)

    assert withheld(served(Batcher(meddle, max_batch=CELLS), cells)) == [0]


class MixesOneOutput(Predictor):
    """Rows mixed up before the seal is taken, as a faulty graph would: the row check says nothing of it."""

    name = ""

    def predict(self, batch: Pixels) -> Outputs:
        outputs = super().predict(batch)
        return outputs._replace(**{self.name: np.roll(getattr(outputs, self.name), 1, axis=0)})


@pytest.mark.parametrize("name", ALL[:3])
def test_what_the_run_time_check_cannot_see_shows_beside_the_answer_alone(
    name: str, predictor: Predictor, cells: list[Pixels]
) -> None:
    faulty = MixesOneOutput(predictor.artifact)
    faulty.name = name
    answers = served(Batcher(lambda batch: compute(faulty, batch), max_batch=CELLS), cells)
    assert withheld(answers) == []
    assert mixed_up(answers, cells, predictor) == EVERYBODY


def test_the_error_says_nothing_of_the_cell() -> None:
    assert isinstance(IdentityError(), BlastwatchError)
    assert "withheld" in str(IdentityError())


def test_a_seal_fits_one_combination_only() -> None:
    one = np.array([0.25, 0.75], np.float32)
    other = np.array([0.75, 0.25], np.float32)
    fitting = seal(7, one, other, 0.5)
    assert fitting == seal(7, one.copy(), other.copy(), 0.5)
    others = [
        seal(8, one, other, 0.5),
        seal(7, other, one, 0.5),
        seal(7, one, other, 0.25),
        seal(7, np.concatenate([one, other[:1]]), other[1:], 0.5),
    ]
    assert fitting not in others


def test_arrays_of_different_lengths_cannot_be_sealed(predictor: Predictor, cells: list[Pixels]) -> None:
    outputs = predictor.predict(np.stack(cells))
    with pytest.raises(OutputsError, match="5 rows of embedding for 6 images"):
        sealed(outputs._replace(embedding=outputs.embedding[:-1]), predictor)


def test_a_seal_is_taken_of_every_row(predictor: Predictor, cells: list[Pixels], tmp_path: Path) -> None:
    computed = compute(predictor, np.stack(cells))
    assert len(set(computed.seals)) == CELLS
    assert computed.model is predictor
