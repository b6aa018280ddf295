"""The few file operations that the journal's promise stands on; behind a Protocol, so that
a test can make a disk forget.

What is written is safe only after `sync`; a name that was made, moved or removed only after `sync_folder`.
"""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Protocol

LOCK = "lock"


class Files(Protocol):
    """A disk as the journal sees it. Every method raises OSError."""

    def make_folder(self, path: Path) -> None:
        """Make one folder; it must not be there."""
        ...

    def create(self, path: Path) -> int:
        """Make a file, which must not be there, and give a handle to write at its end."""
        ...

    def write(self, handle: int, data: bytes) -> None:
        """Write all of `data` at the end."""
        ...

    def sync(self, handle: int) -> None:
        """Make what was written durable. After a failure nothing is known of the bytes since the last success."""
        ...

    def truncate(self, handle: int, length: int) -> None:
        """Cut the file back to `length` bytes."""
        ...

    def close(self, handle: int) -> None:
        """Let the handle go; this makes nothing durable."""
        ...

    def read(self, path: Path) -> bytes:
        """The file's bytes."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Move a file."""
        ...

    def sync_folder(self, path: Path) -> None:
        """Make the folder's names durable."""
        ...


class RealFiles:
    """The operating system's files."""

    def make_folder(self, path: Path) -> None:
        """See Files."""
        path.mkdir()

    def create(self, path: Path) -> int:
        """See Files."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, handle: int, data: bytes) -> None:
        """See Files."""
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]

    def sync(self, handle: int) -> None:
        """See Files."""
        os.fsync(handle)

    def truncate(self, handle: int, length: int) -> None:
        """See Files."""
        os.ftruncate(handle, length)

    def close(self, handle: int) -> None:
        """See Files."""
        os.close(handle)

    def read(self, path: Path) -> bytes:
        """See Files."""
        return path.read_bytes()

    def unlink(self, path: Path) -> None:
        """See Files."""
        path.unlink()

    def rename(self, source: Path, target: Path) -> None:
        """See Files."""
        source.rename(target)

    def sync_folder(self, path: Path) -> None:
        """See Files."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folders(files: Files, path: Path) -> None:
    """Make a folder and those above it where they are missing, and make their names durable."""
    if path.is_dir():
        return
    make_folders(files, path.parent)
    try:
        files.make_folder(path)
    except FileExistsError:
        if not path.is_dir():
            raise
    files.sync_folder(path.parent)


def claim(folder: Path) -> int | None:
    """Take a folder for this process by its lock; None when it is somebody else's, or gone.

    The system lets go of the lock when the process dies, however it dies; `release` does so before.
    """
    path = folder / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever had it may have removed the folder, lock and all, between our open and our lock.
        if os.path.samestat(path.stat(), os.fstat(descriptor)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def release(folder: Path, lock: int) -> None:
    """Let a claimed folder go, and remove it when nothing but the lock is left in it."""
    # Removing fails when a process is just claiming the folder, which is then that one's, and nobody is harmed by a
    # folder that stays.
    with contextlib.suppress(OSError):
        if all(path.name == LOCK for path in folder.iterdir()):
            (folder / LOCK).unlink()
            folder.rmdir()
    os.close(lock)
