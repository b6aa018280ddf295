"""Disks that do what real ones do rarely: forget what was not synced, and fail."""

import os
import random
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from service.disk import RealFiles


@dataclass
class _File:
    """A file that this process made: bytes that are synced, bytes that are not, whether its name is."""

    path: Path
    synced: bytearray = field(default_factory=bytearray)
    held: bytearray = field(default_factory=bytearray)
    named: bool = False


class ForgetfulFiles(RealFiles):
    """Keeps what was not synced in this process's memory, so that a killed process loses it as a dead machine would.

    Bytes reach the disk by `sync`, names (made or removed) by `sync_folder`, as POSIX promises and no more. `crash`
    leaves the disk as a power cut might: of what was not synced any part may have survived, or none.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._handles: dict[int, _File] = {}
        self._files: dict[Path, _File] = {}
        self._removed: set[Path] = set()
        self._new_folders: set[Path] = set()
        self._alive = threading.Lock()

    def make_folder(self, path: Path) -> None:
        """There at once, for locks need it; gone in a crash unless the folder above was synced."""
        with self._alive:
            path.mkdir()
            self._new_folders.add(path)

    def create(self, path: Path) -> int:
        """In memory only."""
        with self._alive:
            if path in self._files or path.exists():
                raise FileExistsError(path)
            handle = len(self._handles) + 1
            self._handles[handle] = self._files[path] = _File(path)
            return handle

    def write(self, handle: int, data: bytes) -> None:
        """In memory only."""
        with self._alive:
            self._handles[handle].held += data

    def sync(self, handle: int) -> None:
        """To the disk, if the file's name is there."""
        with self._alive:
            file = self._handles[handle]
            if file.named:
                _append(file.path, file.held)
            file.synced += file.held
            file.held.clear()

    def truncate(self, handle: int, length: int) -> None:
        """Of what is not synced."""
        with self._alive:
            file = self._handles[handle]
            del file.held[max(0, length - len(file.synced)) :]

    def close(self, handle: int) -> None:
        """Makes nothing durable."""

    def read(self, path: Path) -> bytes:
        """What was written, synced or not, as the system's cache would show it."""
        with self._alive:
            if path in self._removed:
                raise FileNotFoundError(path)
            file = self._files.get(path)
            return path.read_bytes() if file is None else bytes(file.synced + file.held)

    def unlink(self, path: Path) -> None:
        """Gone for this process; for the disk with the folder's sync."""
        with self._alive:
            self._removed.add(path)

    def rename(self, source: Path, target: Path) -> NoReturn:
        """No crash test moves files."""
        raise NotImplementedError

    def sync_folder(self, path: Path) -> None:
        """Names to the disk."""
        with self._alive:
            for file in [file for file in self._files.values() if file.path.parent == path and not file.named]:
                if file.path not in self._removed:
                    file.named = True
                    _append(file.path, file.synced)
            for removed in [removed for removed in self._removed if removed.parent == path]:
                removed.unlink(missing_ok=True)
                self._removed.discard(removed)
                self._files.pop(removed, None)
            self._new_folders -= {folder for folder in self._new_folders if folder.parent == path}

    def crash(self) -> None:
        """The power is gone. Whoever needs the disk from now on waits for ever; the caller kills the process."""
        self._alive.acquire()
        for file in self._files.values():
            if not file.named and self._rng.random() < 0.5:
                continue
            if not file.named:
                _append(file.path, file.synced)
            survived = file.held[: self._rng.randint(0, len(file.held))]
            if survived and self._rng.random() < 0.3:
                survived[-self._rng.randint(1, len(survived)) :] = b""
                survived += bytes(self._rng.randint(0, 64))
            _append(file.path, survived)
        for removed in self._removed:
            if self._rng.random() < 0.5:
                removed.unlink(missing_ok=True)
        for folder in self._new_folders:
            shutil.rmtree(folder, ignore_errors=True)


class FaultyFiles(RealFiles):
    """Fails at the operations named in `faults`, until they are taken out; counts every call."""

    def __init__(self) -> None:
        self.faults: dict[str, OSError] = {}
        self.calls: list[str] = []

    def _meet(self, operation: str) -> None:
        self.calls.append(operation)
        if operation in self.faults:
            raise self.faults[operation]

    def create(self, path: Path) -> int:
        """See Files."""
        self._meet("create")
        return super().create(path)

    def write(self, handle: int, data: bytes) -> None:
        """A full disk takes a part of the bytes before it says so."""
        if "write" in self.faults:
            os.write(handle, data[: len(data) // 2])
        self._meet("write")
        super().write(handle, data)

    def sync(self, handle: int) -> None:
        """See Files."""
        self._meet("sync")
        super().sync(handle)

    def truncate(self, handle: int, length: int) -> None:
        """See Files."""
        self._meet("truncate")
        super().truncate(handle, length)

    def read(self, path: Path) -> bytes:
        """See Files."""
        self._meet("read")
        return super().read(path)

    def unlink(self, path: Path) -> None:
        """See Files."""
        self._meet("unlink")
        super().unlink(path)

    def sync_folder(self, path: Path) -> None:
        """See Files."""
        self._meet("sync_folder")
        super().sync_folder(path)


def _append(path: Path, data: bytes | bytearray) -> None:
    with path.open("ab") as file:
        file.write(data)
