"""Sums over blocks are the plain formulas over all cells."""

import numpy as np
import numpy.typing as npt
import pytest

from monitoring import moments as module
from monitoring.moments import Moments, moments, patient_means

CELLS, SIZE = 400, 5


def plain(
    values: npt.NDArray[np.float64], index: npt.NDArray[np.int64], answer: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Patients' means, and cells around them with what the answered class explains taken out."""
    mean = np.array([values[index == one].mean(axis=0) for one in range(index.max() + 1)])
    away = values - np.array([values[answer == one].mean(axis=0) for one in range(answer.max() + 1)])[answer]
    return mean, away - np.array([away[index == one].mean(axis=0) for one in range(index.max() + 1)])[index]


def drawn(block: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Moments, Moments]:
    """The sums in blocks, and by the formulas, of cells far from zero of which some are left out."""
    monkeypatch.setattr(module, "BLOCK", block)
    rng = np.random.default_rng(1)
    values = (100 + rng.normal(size=(CELLS, SIZE))).astype(np.float32)
    chosen = rng.random(CELLS) < 0.8
    index = rng.permutation(np.arange(int(chosen.sum())) % 17)
    answer = rng.integers(3, size=len(index))
    parts = [(values[:90], chosen[:90]), (values[90:], chosen[90:])]
    mean, away = plain(values[chosen].astype(np.float64), index, answer)
    squares = np.array([(away[index == one] ** 2).sum(axis=0) for one in range(17)])
    wanted = Moments(np.bincount(index), mean, squares, away.T @ away, len(index) - 17 - 3 + 1)
    return moments(parts, index, answer), wanted


@pytest.mark.parametrize("block", [7, 64, 10_000])
def test_blocks_of_any_size_give_the_plain_formulas(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found, wanted = drawn(block, monkeypatch)
    assert found.freedom == wanted.freedom
    for name in ("sizes", "mean", "squares", "cross", "variance"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-8, atol=1e-8)


def test_the_window_is_not_changed() -> None:
    values = np.ones((6, 2))
    values[3:] = 2.0
    before = values.copy()
    moments([(values, np.ones(6, dtype=np.bool_))], np.array([0, 0, 0, 1, 1, 1]), np.zeros(6, dtype=np.int64))
    np.testing.assert_array_equal(values, before)


def test_means_alone_are_the_same_means() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(500, 4)).astype(np.float32)
    chosen = rng.random(500) < 0.8
    index = np.arange(chosen.sum()) % 7
    answer = rng.integers(3, size=len(index))
    found = moments([(values, chosen)], index, answer)
    assert np.allclose(patient_means([(values, chosen)], index), found.mean, atol=1e-12)
