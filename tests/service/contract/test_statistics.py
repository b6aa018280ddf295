import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageFilter

from service.contract.image import Pixels
from service.contract.statistics import STATISTICS, statistics, statistics_array
from tests.support.images import smear

SMEAR = smear(seed=7, size=128)


def _flat(*colour: int) -> Pixels:
    return np.full((32, 32, 3), colour, np.uint8)


def test_names_and_order() -> None:
    assert tuple(statistics(SMEAR)) == STATISTICS
    array = statistics_array(SMEAR)
    assert array.dtype == np.float32
    assert array.tolist() == pytest.approx([statistics(SMEAR)[name] for name in STATISTICS])


def test_known_values() -> None:
    halves = np.zeros((32, 32, 3), np.uint8)
    halves[:, 16:] = 255
    values = statistics(halves)
    assert values["brightness"] == pytest.approx(0.5)
    assert values["contrast"] == pytest.approx(0.5)
    assert (values["hue"], values["saturation"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("colour", "turns"),
    [((255, 0, 0), 0.0), ((0, 255, 0), 1 / 3), ((0, 0, 255), -1 / 3), ((255, 0, 255), -1 / 6), ((255, 255, 0), 1 / 6)],
)
def test_hue_in_turns_from_red(colour: tuple[int, int, int], turns: float) -> None:
    values = statistics(_flat(*colour))
    assert values["hue"] == pytest.approx(turns, abs=1e-6)
    assert values["saturation"] == pytest.approx(1.0)


def test_hue_averages_across_red() -> None:
    both = np.concatenate([_flat(250, 100, 120), _flat(250, 120, 100)])
    assert statistics(both)["hue"] == pytest.approx(0.0, abs=1e-6)


def test_background_has_no_part_in_hue_and_saturation() -> None:
    purple = statistics(_flat(120, 60, 160))
    mixed = statistics(np.concatenate([_flat(120, 60, 160), _flat(240, 238, 236)]))
    assert mixed["hue"] == pytest.approx(purple["hue"])
    assert mixed["saturation"] == pytest.approx(purple["saturation"])


def test_blur_lowers_sharpness_and_half_the_contrast_does_not() -> None:
    blurred = np.asarray(Image.fromarray(SMEAR).filter(ImageFilter.GaussianBlur(1.5)))
    paler = (SMEAR // 2 + 100).astype(np.uint8)
    sharp = statistics(SMEAR)["sharpness"]
    assert statistics(blurred)["sharpness"] < 0.3 * sharp
    assert statistics(paler)["sharpness"] == pytest.approx(sharp, rel=0.1)
    assert statistics(paler)["contrast"] == pytest.approx(statistics(SMEAR)["contrast"] / 2, rel=0.02)


@given(arrays.arrays(np.uint8, (16, 20, 3), elements=st.integers(0, 255)))
def test_always_finite_and_in_range(pixels: Pixels) -> None:
    values = statistics(pixels)
    assert all(math.isfinite(value) for value in values.values())
    assert 0 <= values["brightness"] <= 1.0001
    assert 0 <= values["contrast"] <= 0.5001
    assert values["sharpness"] >= 0
    assert -0.5 <= values["hue"] <= 0.5
    assert 0 <= values["saturation"] <= 1.0001


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_picture_is_finite(level: int) -> None:
    values = statistics(_flat(level, level, level))
    assert [values[name] for name in STATISTICS[1:]] == pytest.approx([0, 0, 0, 0], abs=1e-6)
