"""The forests find what colour and size alone give away, and nothing else."""

from collections.abc import Callable

import numpy as np
import pytest

from service.contract.image import Pixels
from training.figures import Floats, Integers
from training.shortcut import colour_features, forest_predictions, size_features


def discs(radius: float, colour: tuple[int, int, int] = (90, 40, 140), nucleus: float = 0.6) -> Pixels:
    """A pale field, a cell of `radius` pixels in the middle with a nucleus, and red cells at the edge."""
    y, x = np.mgrid[:64, :64] - 31.5
    picture = np.full((64, 64, 3), 240.0)
    picture[np.hypot(y - 28, x - 20) < 9] = (225, 150, 150)
    picture[np.hypot(y, x) < radius] = (170, 190, 230)
    picture[np.hypot(y, x) < radius * nucleus] = colour
    return (picture + np.random.default_rng(0).normal(0, 2, picture.shape)).clip(0, 255).astype(np.uint8)


def test_colour_features_are_mean_and_deviation_of_each_channel() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    found = colour_features(images)
    assert found[:, :3] == pytest.approx(images.mean(axis=(1, 2)), rel=1e-5)
    assert found[:, 3:] == pytest.approx(images.std(axis=(1, 2)), rel=1e-5)


@pytest.mark.parametrize("radius", [12.0, 18.0, 24.0])
def test_size_features_are_the_areas_of_cell_and_nucleus(radius: float) -> None:
    cell, nucleus = size_features(discs(radius)[None])[0]
    assert cell == pytest.approx(np.pi * radius**2 / 64**2, rel=0.12)
    assert nucleus == pytest.approx(np.pi * (0.6 * radius) ** 2 / 64**2, rel=0.15)


def test_size_features_of_an_empty_field_are_finite() -> None:
    assert np.isfinite(size_features(np.full((2, 32, 32, 3), 240, dtype=np.uint8))).all()


def cohort(tells: str, seed: int) -> tuple[Pixels, Integers]:
    """Sixty cells of two labels that differ in one thing; the other varies as much, at random."""
    rng = np.random.default_rng(seed)
    label = np.arange(60) % 2
    chance = rng.permutation(label)
    size, stain = (label, chance) if tells == "size" else (chance, label)
    images = [discs(14.0 + 6 * s, (60 + 40 * c, 40, 140)) for s, c in zip(size.tolist(), stain.tolist(), strict=True)]
    return np.stack(images), label.astype(np.int64)


def accuracy(features: Callable[[Pixels], Floats], tells: str) -> float:
    (images, label), (others, truth) = cohort(tells, 0), cohort(tells, 1)
    called = forest_predictions(features(images), label, features(others), trees=50, seed=0)
    assert called.dtype == np.int64
    return float((called == truth).mean())


def test_each_forest_sees_what_its_numbers_tell() -> None:
    assert accuracy(colour_features, "colour") > 0.95  # a data set with a shortcut
    assert accuracy(size_features, "size") > 0.95
    assert accuracy(size_features, "colour") < 0.85


def test_the_same_seed_gives_the_same_forest() -> None:
    rng = np.random.default_rng(0)
    features, label, others = rng.normal(size=(80, 6)), rng.integers(0, 3, 80), rng.normal(size=(200, 6))
    one, again = (forest_predictions(features, label, others, trees=20, seed=4) for _ in range(2))
    assert np.array_equal(one, again)
