"""What a haematologist would expect of any model that this pipeline makes, whatever its weights."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from service.contract.image import Pixels, row_check
from tests.model.conftest import Model

pytestmark = pytest.mark.xdist_group("model")


def test_it_tells_blasts_from_healthy_cells_of_unseen_patients(model: Model) -> None:
    called = model.say(model.images).probabilities.argmax(axis=1)
    assert ((called > 0) == (model.label > 0)).mean() > 0.8
    recalls = [(called == k)[model.label == k].mean() for k in range(4)]
    assert (
        np.mean(recalls) > 0.55
    )  # of 0.25 by chance; a hundred cells a class, half the resolution, seconds of training


TURNS: dict[str, Callable[[Pixels], Pixels]] = {
    "quarter": lambda images: np.rot90(images, 1, axes=(1, 2)),
    "half": lambda images: np.rot90(images, 2, axes=(1, 2)),
    "mirror": lambda images: images[:, :, ::-1],
    "upside down": lambda images: images[:, ::-1],
}


@pytest.mark.parametrize("turn", TURNS)
def test_a_turned_or_mirrored_cell_is_the_same_cell(model: Model, turn: str) -> None:
    plain, turned = model.say(model.images), model.say(TURNS[turn](model.images))
    same = plain.probabilities.argmax(axis=1) == turned.probabilities.argmax(axis=1)
    sure = plain.probabilities.max(axis=1) > 0.8
    assert same.mean() > 0.8
    assert same[sure].mean() > 0.93
    assert np.abs(plain.probabilities - turned.probabilities).mean() < 0.08
    # It is the cell that counts: turning leaves it as usual, or as unusual, as it was.
    assert np.corrcoef(plain.ood_score, turned.ood_score)[0, 1] > 0.7


STAINS: dict[str, Callable[[Pixels], Pixels]] = {
    # Light that passed, to a power: more or less of the same stain in a channel.
    "stronger": lambda images: (255 * (images / 255.0) ** 1.2).astype(np.uint8),
    "weaker": lambda images: (255 * (images / 255.0) ** 0.85).astype(np.uint8),
    "redder light": lambda images: (images * np.array([1.0, 0.93, 0.9])).astype(np.uint8),
    "darker": lambda images: (images * 0.88).astype(np.uint8),
}


@pytest.mark.parametrize("stain", STAINS)
def test_another_strength_of_stain_or_light_is_the_same_cell(model: Model, stain: str) -> None:
    plain, other = model.say(model.images), model.say(STAINS[stain](model.images))
    same = plain.probabilities.argmax(axis=1) == other.probabilities.argmax(axis=1)
    assert same.mean() > 0.9


def blurred(images: Pixels, sigma: float) -> Pixels:
    soft: Pixels = gaussian_filter(images.astype(np.float64), (0, sigma, sigma, 0)).astype(np.uint8)
    return soft


def noise(shape: tuple[int, ...]) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


NO_CELLS: dict[str, Callable[[Pixels], Pixels]] = {
    "white": lambda images: np.full_like(images, 255),
    "empty field": lambda images: (
        np.array([238, 230, 234]) + np.random.default_rng(0).normal(0, 2, images.shape)
    ).astype(np.uint8),
    "black": lambda images: np.zeros_like(images),
    "grey": lambda images: np.full_like(images, 128),
    "noise": lambda images: noise(images.shape),
    "gradient": lambda images: np.broadcast_to(np.linspace(20, 250, 64)[:, None, None], images.shape).astype(np.uint8),
    "out of focus": lambda images: blurred(images, 5.0),
    "negative": lambda images: 255 - images,
}


@pytest.mark.parametrize("kind", NO_CELLS)
def test_what_is_no_picture_of_a_cell_is_referred_as_such(model: Model, kind: str) -> None:
    decisions = model.decide(NO_CELLS[kind](model.images[:40]))
    referred = [decision.refer and "out_of_distribution" in decision.reasons for decision in decisions]
    assert np.mean(referred) >= 0.95


def test_cells_like_those_of_training_are_mostly_answered(model: Model) -> None:
    """The other side: a model that refers everything would pass the test above."""
    decisions = model.decide(model.images)
    assert np.mean(["out_of_distribution" in decision.reasons for decision in decisions]) < 0.15
    assert np.mean([decision.refer for decision in decisions]) < 0.5


def test_uncertain_answers_are_wrong_more_often_than_sure_ones(model: Model) -> None:
    said = model.say(model.images)
    wrong = said.probabilities.argmax(axis=1) != model.label
    unsure = said.probabilities.max(axis=1) < np.median(said.probabilities.max(axis=1))
    assert wrong[unsure].mean() > 1.5 * wrong[~unsure].mean()


def test_one_pixel_makes_another_row_check_and_hardly_another_answer(model: Model) -> None:
    touched = model.images[:8].copy()
    touched[:, 0, 0, 0] ^= 1
    one, other = model.say(model.images[:8]), model.say(touched)
    assert (one.row_check != other.row_check).all()
    assert np.array_equal(other.row_check, row_check(touched))
    assert np.abs(one.probabilities - other.probabilities).max() < 0.01


def test_an_answer_does_not_depend_on_its_neighbours_in_the_batch(model: Model) -> None:
    alone = model.say(model.images[5:6])
    for others in (model.images[:16], noise((16, 64, 64, 3))):
        batch = np.concatenate([others[:7], model.images[5:6], others[7:]])
        assert model.say(batch).probabilities[7] == pytest.approx(alone.probabilities[0], abs=1e-5)
