"""Files that are either wholly there or not there at all: written aside, synced, renamed."""

import ctypes
import hashlib
import os
import shutil
import sys
from pathlib import Path
from uuid import uuid4

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_MANY = 500


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o666) -> None:
    """Write `data` (text as UTF-8) to `path`; a reader, or a crash, sees the old content or the new, never a part.

    Missing folders are made; `mode` is narrowed by the umask. Raises OSError as the file system does.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def replace_dir(src_tmp: Path, dest: Path) -> None:
    """Put the folder `src_tmp` in the place of `dest`, which may exist. Both must be on one file system.

    All files are synced first, one by one or, of very many, with their file system. Where the kernel can exchange
    two names, `dest` is never missing; elsewhere it is for an instant, but never half-written.
    """
    src_tmp, dest = Path(src_tmp), Path(dest)
    _sync_tree(src_tmp)
    dest.parent.mkdir(parents=True, exist_ok=True)
    old = aside_of(dest)
    if not dest.exists():
        src_tmp.rename(dest)
    elif _exchange(src_tmp, dest):
        src_tmp.rename(old)
    else:
        dest.rename(old)
        try:
            src_tmp.rename(dest)
        except BaseException:
            old.rename(dest)
            raise
    sync_folder(dest.parent)
    if old.exists():
        shutil.rmtree(old)


def aside_of(path: Path) -> Path:
    """A new hidden name beside `path`, on the same file system, for what is not finished yet."""
    return path.with_name(f".{path.name}.{uuid4().hex}.tmp")


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of the file's bytes, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a rename is only on disk once its folder is."""
    _sync(folder)


def _sync_tree(root: Path) -> None:
    files = [(Path(folder), names) for folder, _, names in os.walk(root)]
    # A disk takes milliseconds for each call: minutes, for a data set.
    if sum(len(names) for _, names in files) > _MANY and _sync_file_system(root):
        return
    for folder, names in files:
        for name in names:
            _sync(folder / name)
        sync_folder(folder)


def _sync_file_system(folder: Path) -> bool:
    """Everything that is written to the file system of `folder`, by syncfs(2); False where the system cannot."""
    syncfs = getattr(ctypes.CDLL(None), "syncfs", None) if sys.platform == "linux" else None
    if syncfs is None:
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return bool(syncfs(descriptor) == 0)
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step with renameat2(2); False where the system cannot."""
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)
