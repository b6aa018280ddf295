"""Watershed, co-occurrence and run lengths on pictures whose answer is known."""

import numpy as np

from training.zoo.classical import LEVELS, central_nucleus, glcm_features, glrlm_features
from training.zoo.classical import _runs as runs


def two_cells() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:64, :64]
    image = np.full((64, 64, 3), 230, dtype=np.uint8)
    middle, other = np.hypot(y - 32, x - 30) < 12, np.hypot(y - 34, x - 52) < 11
    image[middle | other] = (90, 40, 120)
    return image, middle


def test_the_cell_in_the_middle_is_cut_from_the_one_that_it_touches() -> None:
    image, middle = two_cells()
    found = central_nucleus(image)
    overlap = (found & middle).sum() / (found | middle).sum()
    assert overlap > 0.9


def test_a_blank_picture_is_taken_whole() -> None:
    blank = np.full((1, 32, 32, 3), 200, dtype=np.uint8)
    assert central_nucleus(blank[0]).all()
    assert np.isfinite(glcm_features(blank)).all()
    assert np.isfinite(glrlm_features(blank)).all()


def test_runs_are_counted_by_grey_and_length() -> None:
    levels = np.array([[1, 1, 2, 0], [2, 2, 2, 2]], dtype=np.uint8)
    counts = runs(levels)
    assert counts.shape == (LEVELS, 16)
    assert counts[0, 1] == 1  # one run of two of the darkest
    assert counts[1, 0] == 1
    assert counts[1, 3] == 1
    assert counts.sum() == 3


def test_texture_tells_smooth_from_rough() -> None:
    smooth, middle = two_cells()
    rough = smooth.copy()
    rough[middle] = np.random.default_rng(0).integers(0, 150, (int(middle.sum()), 1)).astype(np.uint8)
    images = np.stack([smooth, rough])
    glcm, glrlm = glcm_features(images), glrlm_features(images)
    assert glcm.shape == (2, 36)
    assert glrlm.shape == (2, 22)
    assert glcm[1, 0] > glcm[0, 0] + 1  # contrast at distance 1
    assert glrlm[1, 0] > glrlm[0, 0]  # short-run emphasis
