"""Near-duplicates: traps of real sets are found, different cells never are, and nothing is compared with everything."""

import io
import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from service.contract.image import Field, Pixels, decode, load_field
from tests.support.images import jpeg as encoded_jpeg
from tests.support.realdata import data_folder
from training.datasets import open_dataset
from training.datasets.synthetic import LABELS, stream
from training.duplicates import (
    BITS,
    DETAIL,
    SAME,
    SAME_OF_TWO,
    Pairs,
    candidates,
    correlation,
    fingerprint,
    near_duplicates,
)


@pytest.fixture(scope="module")
def cells() -> list[Pixels]:
    """Different cells of a few patients, in the field's own scale."""
    drawn = stream("site-a", seed=3, patients=dict.fromkeys(LABELS, 2), cells_per_patient=6, prefix="")
    return [decode(cell.image) for cell in drawn]


def found(pictures: list[Pixels], *, named: bool = False) -> set[tuple[int, int]]:
    pairs = of(pictures, named=named)
    return set(zip(pairs.one.tolist(), pairs.other.tolist(), strict=True))


def of(pictures: list[Pixels], *, named: bool = False) -> Pairs:
    prints = [fingerprint(picture) for picture in pictures]
    phash = np.array([print_.phash for print_ in prints], dtype=np.uint64)
    detail = np.array([print_.detail for print_ in prints])
    return near_duplicates(phash, detail, np.arange(len(prints)), np.full(len(prints), named))


def reencoded(pixels: Pixels) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=50)
    return decode(buffer.getvalue())


def moved(pixels: Pixels, down: int = 1, right: int = 1) -> Pixels:
    wide = np.pad(pixels, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    return np.ascontiguousarray(wide[4 + down : 4 + down + len(pixels), 4 + right : 4 + right + len(pixels)])


def brightened(pixels: Pixels, factor: float = 1.1) -> Pixels:
    return np.asarray(np.clip(pixels * factor, 0, 255), dtype=np.uint8)


def rebalanced(pixels: Pixels) -> Pixels:
    return np.asarray(np.clip(pixels * np.array([1.05, 0.97, 1.0]), 0, 255), dtype=np.uint8)


COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "the same pixels": lambda pixels: pixels,
    "re-encoded as JPEG": reencoded,
    "moved by a pixel": moved,
    "brighter": brightened,
    "darker": lambda pixels: brightened(pixels, 0.85),
    "another white balance": rebalanced,
    "all of it": lambda pixels: reencoded(moved(brightened(rebalanced(pixels), 0.93), 0, 1)),
}


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("named", [False, True])
def test_a_copy_is_found_and_nothing_else(cells: list[Pixels], name: str, named: bool) -> None:
    count = 10
    pictures = [*cells, *(COPIES[name](picture) for picture in cells[:count])]
    assert found(pictures, named=named) == {(k, len(cells) + k) for k in range(count)}


def test_different_cells_of_one_scanner_are_never_copies(cells: list[Pixels]) -> None:
    assert found(cells) == set()
    prints = [fingerprint(picture) for picture in cells]
    one, other = np.triu_indices(len(cells), 1)
    most = correlation(np.array([print_.detail for print_ in prints]), one, other).max()
    assert most < SAME - 0.05 < SAME_OF_TWO


def test_blank_pictures_are_copies_of_nothing() -> None:
    blank = [np.full((128, 128, 3), level, dtype=np.uint8) for level in (200, 201, 255)]
    assert found(blank) == set()
    assert not fingerprint(blank[0]).detail.any()


def test_two_named_patients_need_more_proof_than_pictures_of_nobody(cells: list[Pixels]) -> None:
    """A second photograph: out of focus a little, and much noisier."""
    rng = np.random.default_rng(0)
    again = np.array(Image.fromarray(cells[0]).resize((56, 56)).resize((128, 128), Image.Resampling.BICUBIC))
    again = np.clip(again + rng.normal(0, 60, again.shape), 0, 255).astype(np.uint8)
    score = of([cells[0], again]).correlation
    assert SAME <= score[0] < SAME_OF_TWO
    assert found([cells[0], again], named=True) == set()


def test_the_hash_is_imagehash_s_own(cells: list[Pixels]) -> None:
    import imagehash

    grey = Image.fromarray(cells[0])
    assert f"{fingerprint(cells[0]).phash:016x}" == str(imagehash.phash(grey))


def test_rows_may_be_any_of_a_larger_table(cells: list[Pixels]) -> None:
    """As `prepare` leaves exact copies out after the details were written."""
    prints = [fingerprint(picture) for picture in (cells[0], cells[1], cells[0], moved(cells[1]))]
    detail = np.array([print_.detail for print_ in prints])
    rows = np.array([0, 1, 3])
    phash = np.array([prints[k].phash for k in rows], dtype=np.uint64)
    pairs = near_duplicates(phash, detail, rows, np.zeros(3, dtype=bool))
    assert list(zip(pairs.one, pairs.other, strict=True)) == [(1, 2)]
    assert detail.shape[1] == DETAIL


@pytest.mark.parametrize("radius", [4, 8, BITS])
def test_candidates_are_all_pairs_within_the_radius_each_once(radius: int) -> None:
    """Held against comparing everything with everything, on hashes that crowd as those of cells do."""
    rng = np.random.default_rng(radius)
    centres = rng.integers(0, 2**64, 6, dtype=np.uint64)
    hashes = np.repeat(centres, 60)
    for _ in range(9):
        flips = np.uint64(1) << rng.integers(0, 64, len(hashes), dtype=np.uint64)
        hashes ^= np.where(rng.random(len(hashes)) < 0.7, flips, 0).astype(np.uint64)
    one, other = np.triu_indices(len(hashes), 1)
    close = np.bitwise_count(hashes[one] ^ hashes[other]) <= radius
    wanted = sorted(zip(one[close].tolist(), other[close].tolist(), strict=True))
    assert len(wanted) > 10
    assert sorted(pairs_of(hashes, radius)) == wanted


def test_few_of_many_pairs_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 000 cells have 200 million pairs; one in twenty of them shares a band at most."""
    looked_at: list[int] = []
    count = np.bitwise_count

    def counting(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
        looked_at.append(len(values))
        return np.asarray(count(values))

    monkeypatch.setattr(np, "bitwise_count", counting)
    hashes = np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64)
    assert len(pairs_of(hashes, BITS)) < 10
    assert sum(looked_at) < 20_000**2 / 2 / 20


def pairs_of(hashes: npt.NDArray[np.uint64], radius: int) -> list[tuple[int, int]]:
    return [
        pair for one, other in candidates(hashes, radius) for pair in zip(one.tolist(), other.tolist(), strict=True)
    ]


def test_a_noisy_picture_is_a_copy_of_itself_alone() -> None:
    noise = [decode(encoded_jpeg(seed, 128)) for seed in range(20)]
    assert found([*noise, noise[7]]) == {(7, 20)}


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("tecom_wbc", "071+084 157+158 166+171 167+169"),
        ("bccd", "204+277 205+276 226+261 227+260 237+252 243+250 244+247 248+249 384+393"),
    ],
)
def test_what_real_sets_hold(kind: str, wanted: str) -> None:
    """Looked at one by one: each pair is one cell twice, in bccd on two photographs of a field."""
    cells = list(open_dataset({"kind": kind, "root": str(data_folder(kind))}).cells())
    pictures = [load_field(cell.image, Field(), cell.pixel_size_um) for cell in cells]
    number = [re.findall(r"\d{3,}", cell.source)[0][-3:] for cell in cells]
    names = {
        f"{number[one]}+{number[other]}" for one, other in found(pictures) if (pictures[one] != pictures[other]).any()
    }
    assert " ".join(sorted(names)) == wanted
