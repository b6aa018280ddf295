"""Locks that die with their process, folders and bytes that reach the disk."""

import os
from pathlib import Path

import pytest

from service.disk import LOCK, RealFiles, claim, make_folders, release
from tests.support.disks import FaultyFiles


def test_a_claim_on_a_folder_that_goes_at_that_moment_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    lock = claim(folder)
    assert lock is not None
    assert claim(folder) is None
    release(folder, lock)
    assert not folder.exists()
    assert claim(folder) is None

    def slow(descriptor: int, operation: int) -> None:
        (folder / LOCK).unlink()  # its owner is done with it, between our open and our lock

    folder.mkdir()
    monkeypatch.setattr("service.disk.fcntl.flock", slow)
    assert claim(folder) is None


def test_release_keeps_a_folder_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "00000001.journal").write_bytes(b"")
    lock = claim(tmp_path)
    assert lock is not None
    release(tmp_path, lock)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000001.journal", LOCK]
    assert claim(tmp_path) is not None


def test_a_lock_is_not_inherited_by_another_program(tmp_path: Path) -> None:
    lock = claim(tmp_path)
    assert lock is not None
    assert not os.get_inheritable(lock)
    release(tmp_path, lock)


def test_folders_are_made_with_their_names_on_disk(tmp_path: Path) -> None:
    synced: list[Path] = []

    class Noting(FaultyFiles):
        def sync_folder(self, path: Path) -> None:
            synced.append(path)

    make_folders(Noting(), tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert synced == [tmp_path, tmp_path / "a"]
    make_folders(Noting(), tmp_path / "a" / "b")
    assert len(synced) == 2


def test_a_file_where_a_folder_should_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(OSError, match="a"):
        make_folders(RealFiles(), tmp_path / "a")


def test_a_write_is_whole_however_little_the_system_takes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, original = RealFiles(), os.write
    handle = files.create(tmp_path / "file")
    monkeypatch.setattr("service.disk.os.write", lambda handle, data: original(handle, data[:3]))
    files.write(handle, b"0123456789")
    files.close(handle)
    assert files.read(tmp_path / "file") == b"0123456789"
    with pytest.raises(FileExistsError):
        files.create(tmp_path / "file")
