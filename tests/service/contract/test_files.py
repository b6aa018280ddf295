import hashlib
import os
from pathlib import Path

import pytest

from service.contract import files
from service.contract.files import replace_dir, sha256_file, write_atomic


def test_writes_text_and_bytes_into_new_folders(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b" / "text", "µm")
    write_atomic(tmp_path / "bytes", b"\x00\xff")
    assert (tmp_path / "a" / "b" / "text").read_bytes() == "µm".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "file", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_content_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    sync, rename = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        steps.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().is_dir()}")
        sync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_atomic(tmp_path / "file", "content")
    assert steps == ["fsync False", "rename", "fsync True"]


def test_mode_is_narrow_when_asked_and_the_umask_holds(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write_atomic(tmp_path / "secret", "s", mode=0o600)
        write_atomic(tmp_path / "plain", "p")
    finally:
        os.umask(old)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "plain").stat().st_mode & 0o777 == 0o644


def _folder(path: Path, content: str) -> Path:
    (path / "sub").mkdir(parents=True)
    (path / "sub" / "file").write_text(content)
    return path


@pytest.mark.parametrize("exchange", [True, False], ids=["kernel-exchange", "two-renames"])
def test_replaces_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    dest = tmp_path / "here" / "dest"
    replace_dir(_folder(tmp_path / "here" / "first", "1"), dest)
    assert (dest / "sub" / "file").read_text() == "1"
    (dest / "stale").touch()
    replace_dir(_folder(tmp_path / "here" / "second", "2"), dest)
    assert (dest / "sub" / "file").read_text() == "2"
    assert not (dest / "stale").exists()
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["dest"]


@pytest.mark.parametrize("at_once", [True, False])
def test_very_many_files_are_synced_with_their_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    synced: list[str] = []
    one_by_one = files._sync

    def sync(path: Path) -> None:
        synced.append(path.name)
        one_by_one(path)

    monkeypatch.setattr(files, "_sync", sync)
    if not at_once:
        monkeypatch.setattr(files, "_sync_file_system", lambda folder: False)
    new = tmp_path / "new"
    new.mkdir()
    for number in range(files._MANY + 1):
        (new / f"{number}.png").write_bytes(b"x")
    replace_dir(new, tmp_path / "cells")
    assert len(list((tmp_path / "cells").iterdir())) == files._MANY + 1
    assert len([name for name in synced if name.endswith(".png")]) == (0 if at_once else files._MANY + 1)


def test_a_failed_replacement_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dest, new = _folder(tmp_path / "dest", "1"), _folder(tmp_path / "new", "2")
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self == new:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output"):
        replace_dir(new, dest)
    assert (dest / "sub" / "file").read_text() == "1"


def test_hash_of_a_file(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()
