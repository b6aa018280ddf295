"""Decoded cells as one file that is mapped into memory: decoded once, read by every stage, however many there are.

A file is named by the hash of the list of its cells, whose own names are the hashes of their pixels, so that it is
never out of date. It lies in CACHE beside the cells, is no output of a stage, and may be deleted at any time.
"""

import errno
import hashlib
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from service.contract.errors import BadImage, ConfigError
from service.contract.files import aside_of, sync_folder
from service.contract.image import Pixels, decode, pixels_sha256

CACHE = ".pixels"
_FORMAT = "1"
_NAMED = re.compile(r"(?P<pixels>[0-9a-f]{64})\.png")
_ALONE = 1024  # cells that one process decodes before others would have started
_CHUNK = 256
_UNUSED_S = 7 * 24 * 3600
_FULL = (errno.ENOSPC, errno.EDQUOT)
_AGAIN = "run `dvc repro --force prepare`"


def mapped(paths: Sequence[Path], *, workers: int | None = None) -> Pixels:
    """The pixels of cells, uint8 [n, H, W, 3], n ≥ 1: a memory map, of which only what is looked at is in memory.

    Args:
        paths: …/cells/<pixels_sha256>.png; the cache lies beside the folder of the first.
        workers: processes that decode; as many as there are cores where there are many cells.

    A program that writes into the array changes its own copy of that page, never the file. Two that build one file at
    once do not disturb each other.

    Raises:
        ConfigError: a picture is missing, damaged, not the one that its name says, or of another size than the first;
            or the disk is full.
    """
    digest = hashlib.sha256("\n".join((_FORMAT, *(path.name for path in paths))).encode()).hexdigest()
    path = paths[0].parent.parent / CACHE / f"{digest}.npy"
    found = _opened(path, len(paths))
    if found is None:
        _build(path, paths, workers)
        found = _opened(path, len(paths))
    if found is None:
        raise ConfigError(f"{path} cannot be read back: delete the folder {path.parent} and try again")
    return found


def _opened(path: Path, count: int) -> Pixels | None:
    """The file as an array, or None where there is none or it is not whole."""
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if array.ndim != 4 or len(array) != count or array.dtype != np.uint8:
        return None
    with suppress(OSError):
        os.utime(path)  # in use: see _clear
    return np.asarray(array)


def _build(path: Path, paths: Sequence[Path], workers: int | None) -> None:
    """Decode the cells into a file aside, and give it its name."""
    shape = (len(paths), *_picture(paths[0]).shape)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path.parent, unused_s=_UNUSED_S)
        aside = aside_of(path)
        try:
            start = _reserve(aside, shape)
            _fill(aside, start, shape, paths, workers)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno not in _FULL:
            raise ConfigError(f"{path.parent} cannot be written ({error.strerror}): make it writable") from None
        need = int(np.prod(shape)) / 1e6
        raise ConfigError(
            f"the disk of {path.parent} is full: {len(paths)} decoded cells need {need:.0f} MB; make room there"
        ) from None


def _reserve(aside: Path, shape: tuple[int, ...]) -> int:
    """A .npy file of that shape with all its room on the disk; → where the first pixel goes.

    What other lists of cells have left in the cache makes way when there is no room.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with aside.open("xb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        start = file.tell()
        room = start + int(np.prod(shape))
        try:
            os.posix_fallocate(file.fileno(), 0, room)
        except OSError as error:
            if error.errno not in _FULL or not _clear(aside.parent, unused_s=0, keep=aside):
                raise
            os.posix_fallocate(file.fileno(), 0, room)
    return start


def _fill(aside: Path, start: int, shape: tuple[int, ...], paths: Sequence[Path], workers: int | None) -> None:
    chunks = [(first, paths[first : first + _CHUNK]) for first in range(0, len(paths), _CHUNK)]
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = cores if len(paths) >= _ALONE else 1
    if workers == 1:
        for first, part in chunks:
            _write(aside, start, shape, first, part)
    else:
        # Not forked: the caller may have threads of its own, torch's above all.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            waiting = [pool.submit(_write, aside, start, shape, first, part) for first, part in chunks]
            try:
                for future in waiting:
                    future.result()
            finally:
                pool.shutdown(cancel_futures=True)
    descriptor = os.open(aside, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(aside: Path, start: int, shape: tuple[int, ...], first: int, paths: Sequence[Path]) -> None:
    size = int(np.prod(shape[1:]))
    with aside.open("r+b") as file:
        file.seek(start + first * size)
        for path in paths:
            picture = _picture(path)
            if picture.shape != shape[1:]:
                raise ConfigError(
                    f"the cells have different sizes, {path} {list(picture.shape[:2])} and others "
                    f"{list(shape[1:3])}: run `dvc repro prepare`"
                )
            file.write(np.ascontiguousarray(picture).data)


def _picture(path: Path) -> Pixels:
    named = _NAMED.fullmatch(path.name)
    if named is None:
        raise ConfigError(f"{path} is not named by its pixels: {_AGAIN}")
    try:
        picture = decode(path.read_bytes())
    except (OSError, BadImage) as error:
        raise ConfigError(f"{path} cannot be read ({error}): {_AGAIN}") from None
    if pixels_sha256(picture) != named["pixels"]:
        raise ConfigError(f"{path} has other pixels than its name says: {_AGAIN}")
    return picture


def _clear(cache: Path, *, unused_s: float, keep: Path | None = None) -> int:
    """Delete files that nobody has opened for so long; who has one mapped keeps it. Returns how many."""
    gone = 0
    for path in cache.iterdir():
        with suppress(FileNotFoundError):
            unfinished = path.suffix == ".tmp"
            old = time.time() - path.stat().st_mtime > max(unused_s, 24 * 3600 if unfinished else 0)
            if path != keep and old:
                path.unlink()
                gone += 1
    return gone
