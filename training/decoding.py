"""Cells of a data set → their pixels in a folder and a table of what they are, by several processes.

Pictures pass through; what stays in memory is the table, some hundred bytes a cell.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from sys import intern
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from service.contract.errors import InvalidRequest
from service.contract.image import Field, encode_png, image_sha256, load_field_and_size, pixels_sha256
from service.contract.statistics import STATISTICS, statistics
from training.datasets import Dataset, DatasetError, SourceCell
from training.duplicates import DETAIL, Details, fingerprint

CELLS = "cells"
_CHUNK = 32
_CHUNK_BYTES = 4 << 20
_TEXTS = ("label", "patient", "site", "stain", "scanner", "source", "field")
_REPEATED = {"label", "patient", "site", "stain", "scanner", "field"}
_NUMBERS = ("pixel_size_um", *STATISTICS)
_COUNTS = ("order", "width", "height", "file_bytes")


class Chunk(NamedTuple):
    """What a worker found out about k cells: columns of texts, numbers and counts, phash [k], detail [k, DETAIL]."""

    texts: dict[str, list[str]]
    numbers: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    phash: npt.NDArray[np.uint64]
    detail: Details


def decoded(
    datasets: Sequence[Dataset], labels: Sequence[str], field: Field, folder: Path, details: IO[bytes], *,
    workers: int, quiet: bool,
) -> pd.DataFrame:  # fmt: skip
    """Write every cell's pixels to `folder` as <pixels_sha256>.png and its detail to the file `details`.

    Returns a row a cell, in the order of the sets: sha256, pixels_sha256, what `SourceCell` says, `order` in its set,
    `width`, `height` and `file_bytes` of the source, the statistics, `phash`, and `set` (which of the datasets).
    Details are those of duplicates.py, int8 [n, DETAIL].
    Raises DatasetError for an unknown label and a picture that cannot be read, naming the source.
    """
    texts: dict[str, list[str]] = {name: [] for name in ("sha256", "pixels_sha256", *_TEXTS)}
    numbers, counts = [np.empty((0, len(_NUMBERS)))], [np.empty((0, len(_COUNTS)), dtype=np.int64)]
    hashes, sets = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int64)]
    for position, dataset in enumerate(datasets):
        progress = tqdm(desc=f"prepare {dataset.name}", unit=" cells", disable=True if quiet else None)
        with progress:
            for part in _in_order(_checked(dataset, labels), field, folder, workers):
                for name, column in part.texts.items():
                    # Of a site's name one object is enough, however many cells have it.
                    texts[name].extend(map(intern, column) if name in _REPEATED else column)
                numbers.append(part.numbers)
                counts.append(part.counts)
                hashes.append(part.phash)
                details.write(part.detail.tobytes())
                sets.append(np.full(len(part.phash), position, dtype=np.int64))
                progress.update(len(part.phash))
    return pd.DataFrame(
        {
            **texts,
            **dict(zip(_NUMBERS, np.concatenate(numbers).T, strict=True)),
            **dict(zip(_COUNTS, np.concatenate(counts).T, strict=True)),
            "phash": np.concatenate(hashes),
            "set": np.concatenate(sets),
        }
    )


def _checked(dataset: Dataset, labels: Sequence[str]) -> Iterator[SourceCell]:
    for cell in dataset.cells():
        if cell.label not in labels:
            raise DatasetError(
                f"{cell.source} has the label {cell.label!r}, which data.labels in params.yaml lacks "
                f"({', '.join(labels)}): add it there, or correct the source"
            )
        yield cell


def _in_order(cells: Iterable[SourceCell], field: Field, folder: Path, workers: int) -> Iterator[Chunk]:
    """In the order of `cells` however many workers there are; few chunks are in memory at once."""
    if workers <= 1:
        for start, chunk in _chunks(cells):
            yield _decode_chunk(start, chunk, field, folder)
        return
    with ProcessPoolExecutor(workers) as pool:
        waiting: deque[Future[Chunk]] = deque()
        try:
            for start, chunk in _chunks(cells):
                waiting.append(pool.submit(_decode_chunk, start, chunk, field, folder))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _chunks(cells: Iterable[SourceCell]) -> Iterator[tuple[int, list[SourceCell]]]:
    chunk: list[SourceCell] = []
    start = size = 0
    for cell in cells:
        chunk.append(cell)
        size += len(cell.image)
        if len(chunk) == _CHUNK or size >= _CHUNK_BYTES:
            yield start, chunk
            start, chunk, size = start + len(chunk), [], 0
    if chunk:
        yield start, chunk


def _decode_chunk(start: int, chunk: list[SourceCell], field: Field, folder: Path) -> Chunk:
    texts: dict[str, list[str]] = {name: [] for name in ("sha256", "pixels_sha256", *_TEXTS)}
    numbers = np.empty((len(chunk), len(_NUMBERS)), dtype=np.float64)
    counts = np.empty((len(chunk), len(_COUNTS)), dtype=np.int64)
    phash = np.empty(len(chunk), dtype=np.uint64)
    detail = np.empty((len(chunk), DETAIL), dtype=np.int8)
    for k, cell in enumerate(chunk):
        try:
            wanted = replace(field, crop=1.0) if cell.fitted else field
            pixels, height, width = load_field_and_size(cell.image, wanted, cell.pixel_size_um)
        except InvalidRequest as error:
            raise DatasetError(f"{cell.source}: {error}; correct or remove it") from None
        name = pixels_sha256(pixels)
        # Equal pixels have equal bytes, so that it does not matter which worker writes last.
        (folder / f"{name}.png").write_bytes(encode_png(pixels))
        for column in _TEXTS:
            texts[column].append(getattr(cell, column))
        texts["sha256"].append(image_sha256(cell.image))
        texts["pixels_sha256"].append(name)
        numbers[k] = (cell.pixel_size_um, *statistics(pixels).values())
        counts[k] = (start + k, width, height, len(cell.image))
        phash[k], detail[k] = fingerprint(pixels)
    return Chunk(texts, numbers, counts, phash, detail)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
