"""Near-duplicates: the same picture once more, re-encoded, brightened, moved by a few pixels or taken a second time.

A perceptual hash (ImageHash's phash: signs of the lowest frequencies) proposes pairs, for it is blind to what differs
between such copies, but cells in the middle of a picture look alike to it; a correlation of small grey pictures, from
which everything coarse is taken away and which may be shifted against each other, confirms them.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.contract.image import Pixels

FINE, COARSE = 64, 32
DETAIL = FINE * FINE + COARSE * COARSE
"""Bytes of a cell's `Fingerprint.detail`."""

# Measured on tecom_wbc, bccd and 2900 synthetic cells (docs/results/data.md): bits that copies differ in, and the least
# correlation of a pair. Two named patients are two people unless there is more proof, or a large set would join them.
BITS = 10
SAME, SAME_OF_TWO = 0.82, 0.95
_COARSE_SAME, _COARSE_SAME_OF_TWO = 0.45, 0.75  # where they lie, before any shift is tried

_CROWD = 4096  # cells of one band: of more, each is compared with the nearest in the hashes' order
_BLOCK = 1 << 19  # pairs of hashes that are looked at together
_PAIRS = 256  # pairs of pictures
_FLAT = 0.25  # grey levels: less detail than this is a blank picture, which is like any other

Singles = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]
Details = npt.NDArray[np.int8]


class Fingerprint(NamedTuple):
    """phash: 64 bits. detail: int8 [DETAIL], the grey picture's fine structure at two sizes; zeros of a blank one."""

    phash: int
    detail: Details


class Pairs(NamedTuple):
    """Near-duplicates: positions one < other [m], and how much they correlate, float32 [m]."""

    one: Index
    other: Index
    correlation: Singles


def fingerprint(pixels: Pixels) -> Fingerprint:
    """Of uint8 [H, W, 3] RGB. The hash is `imagehash.phash` of the picture."""
    import imagehash
    from PIL import Image
    from scipy import ndimage

    grey = Image.fromarray(pixels).convert("L")
    small = grey.resize((COARSE, COARSE), Image.Resampling.LANCZOS)  # what imagehash would make of it
    bits = np.packbits(imagehash.phash(small).hash.reshape(-1))
    fine = np.asarray(grey.resize((FINE, FINE), Image.Resampling.LANCZOS), dtype=np.float32)
    coarse = np.asarray(small, dtype=np.float32)
    parts = [
        _scaled(ndimage.gaussian_filter(fine, 0.7) - ndimage.gaussian_filter(fine, 2.0)),
        _scaled(coarse - ndimage.gaussian_filter(coarse, 2.0)),
    ]
    return Fingerprint(int(bits.view(">u8")[0]), np.concatenate(parts))


def near_duplicates(phash: npt.NDArray[np.uint64], detail: Details, row: Index, named: npt.NDArray[np.bool_]) -> Pairs:
    """All pairs among n cells: phash [n], their rows [n] of detail int8 [·, DETAIL], which may be a memory map.

    named [n]: the cell has a patient.
    """
    seen = np.flatnonzero([bool(detail[k, : FINE * FINE].any()) for k in row]).astype(np.int64)
    found: list[Pairs] = []
    for a, b in candidates(phash[seen], BITS):
        for start in range(0, len(a), _PAIRS):
            one, other = (seen[rows[start : start + _PAIRS]] for rows in (a, b))
            two_people = named[one] & named[other]
            alike = _overlay(detail, row[one], row[other]) >= np.where(two_people, _COARSE_SAME_OF_TWO, _COARSE_SAME)
            one, other, two_people = one[alike], other[alike], two_people[alike]
            score = correlation(detail, row[one], row[other])
            same = score >= np.where(two_people, SAME_OF_TWO, SAME)
            found.append(Pairs(one[same], other[same], score[same]))
    if not found:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    one, other, score = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((other, one))
    return Pairs(one[order], other[order], score[order])


def candidates(phash: npt.NDArray[np.uint64], radius: int) -> Iterator[tuple[Index, Index]]:
    """Pairs (one < other) of hashes that differ in at most `radius` bits, each once.

    Of m bands of bits, one differs in at most radius / m of them (Norouzi et al., Multi-Index Hashing, CVPR 2012), so
    only cells that share a band up to one bit are compared: with m = radius / 2 + 1 about one pair in forty.
    """
    bands = radius // 2 + 1
    edges = np.linspace(0, 64, bands + 1).astype(int)
    for number, (low, high) in enumerate(pairwise(edges)):
        width = int(high - low)
        key = (phash >> np.uint64(low)) & np.uint64((1 << width) - 1)
        order = np.lexsort((phash, key))
        ranked = key[order]
        for flip in (0, *(1 << bit for bit in range(width))):
            first = np.searchsorted(ranked, ranked ^ np.uint64(flip), side="left")
            last = np.searchsorted(ranked, ranked ^ np.uint64(flip), side="right")
            # Within a band each pair is met from both of its cells; the later one in order is enough.
            first = np.maximum(first, np.arange(1, len(order) + 1))
            count = np.clip(last - first, 0, _CROWD)
            for one, other in _expanded(first, count):
                a, b = order[one], order[other]
                difference = phash[a] ^ phash[b]
                near = np.bitwise_count(difference) <= radius
                a, b, difference = a[near], b[near], difference[near]
                new = ~_met_before(difference, edges[: number + 1])
                yield np.minimum(a[new], b[new]), np.maximum(a[new], b[new])


def correlation(detail: Details, one: Index, other: Index) -> Singles:
    """How alike the pictures of m pairs are, float32 [m] up to 1, at the best of a few shifts.

    The shift is sought in the coarse pictures, where a pixel is four of the field's 128, then in the fine ones to half
    a pixel, which is one of the field's.
    """
    start = np.zeros((len(one), 2), dtype=np.int64)
    _, shift = _best(_part(detail, one, COARSE), _part(detail, other, COARSE), start, _steps(1), 3)
    fine, moved = _part(detail, one, FINE), _part(detail, other, FINE)
    whole, shift = _best(fine, moved, shift * 2, _steps(2), 6)
    half = [
        _best(fine, _between(moved, axes), shift, steps, 6)[0]
        for axes, steps in (((1,), [(-1, 0), (0, 0)]), ((2,), [(0, -1), (0, 0)]), ((1, 2), _steps(0, low=-1)))
    ]
    return np.asarray(np.max([whole, *half], axis=0), dtype=np.float32)


def _overlay(detail: Details, one: Index, other: Index) -> Singles:
    """Cosine of the coarse pictures as they lie, float32 [m]; their means are as good as 0."""
    a, b = (detail[rows, FINE * FINE :].astype(np.float32) for rows in (one, other))
    lengths = np.einsum("nk,nk->n", a, a) * np.einsum("nk,nk->n", b, b)
    return np.asarray(np.einsum("nk,nk->n", a, b) / np.sqrt(np.maximum(lengths, 1e-6)), dtype=np.float32)


def _steps(reach: int, *, low: int | None = None) -> list[tuple[int, int]]:
    one_way = range(-reach if low is None else low, reach + 1)
    return [(down, right) for down in one_way for right in one_way]


def _between(pictures: Singles, axes: tuple[int, ...]) -> Singles:
    """Values half-way to the next pixel along some axes; the last stays."""
    for axis in axes:
        pictures = (pictures + np.roll(pictures, -1, axis)) * np.float32(0.5)
    return pictures


def _best(
    one: Singles, other: Singles, around: npt.NDArray[np.int64], steps: Iterable[tuple[int, int]], margin: int
) -> tuple[Singles, npt.NDArray[np.int64]]:
    """Largest Pearson correlation of the middle of `one` [m, s, s] with `other` shifted by around + step, and that."""
    side = one.shape[1] - 2 * margin
    middle = _normed(one[:, margin : margin + side, margin : margin + side])
    windows = np.lib.stride_tricks.sliding_window_view(other, (side, side), axis=(1, 2))
    best, where = np.full(len(one), -1, dtype=np.float32), around.copy()
    rows = np.arange(len(one))
    for step in steps:
        shift = around + step
        window = windows[rows, margin + shift[:, 0], margin + shift[:, 1]]
        score = np.einsum("nij,nij->n", middle, _normed(window))
        better = score > best
        best[better], where[better] = score[better], shift[better]
    return best, where


def _normed(pictures: Singles) -> Singles:
    centred = pictures - pictures.mean(axis=(1, 2), keepdims=True)
    length: Singles = np.sqrt(np.einsum("nij,nij->n", centred, centred))
    return np.asarray(centred / np.maximum(length, 1e-6)[:, None, None], dtype=np.float32)


def _part(detail: Details, rows: Index, side: int) -> Singles:
    columns = slice(0, FINE * FINE) if side == FINE else slice(FINE * FINE, DETAIL)
    return detail[rows, columns].astype(np.float32).reshape(-1, side, side)


def _scaled(picture: Singles) -> Details:
    """To a deviation of 24 steps; a correlation does not see the scale."""
    deviation = float(picture.std())
    if deviation < _FLAT:
        return np.zeros(picture.size, dtype=np.int8)
    return np.clip(np.round(picture.reshape(-1) * (24 / deviation)), -127, 127).astype(np.int8)


def _expanded(first: Index, count: Index) -> Iterator[tuple[Index, Index]]:
    """(k, first[k] … first[k] + count[k] − 1) for every k, in blocks."""
    end = np.cumsum(count)
    start = 0
    while start < len(count):
        done = int(end[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(end, done + _BLOCK, side="right")))
        some = count[start:stop]
        one = np.repeat(np.arange(start, stop), some)
        within = np.arange(len(one)) - np.repeat(np.cumsum(some) - some, some)
        if len(one):
            yield one, np.repeat(first[start:stop], some) + within
        start = stop


def _met_before(difference: npt.NDArray[np.uint64], edges: npt.NDArray[np.int_]) -> npt.NDArray[np.bool_]:
    """Whether an earlier band differs in at most one bit, so that the pair came up there."""
    met = np.zeros(len(difference), dtype=np.bool_)
    for low, high in pairwise(edges):
        part = (difference >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        met |= np.bitwise_count(part) <= 1
    return met
