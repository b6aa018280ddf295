import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.contract.errors import NotFound, StoreUnavailable
from service.contract.image import encode_png, pixels_sha256
from service.contract.pixels import PixelStore
from tests.support.images import smear

DAY_S = 86_400


@pytest.fixture
def store(tmp_path: Path) -> PixelStore:
    return PixelStore(tmp_path / "pixels")


def _file(store: PixelStore, name: str) -> Path:
    (path,) = store.folder.rglob(f"{name}.png")
    return path


def test_what_is_kept_is_found_by_its_content(store: PixelStore) -> None:
    name = store.save(smear(1))
    assert name == pixels_sha256(smear(1))
    assert store.has(name)
    np.testing.assert_array_equal(store.load(name), smear(1))
    assert Image.open(_file(store, name)).info == {}


def test_saving_again_renews_its_age_and_nothing_else(store: PixelStore) -> None:
    name = store.save(smear(1))
    path = _file(store, name)
    inode = path.stat().st_ino
    os.utime(path, (0, 0))
    assert store.save(smear(1)) == name
    assert path.stat().st_ino == inode
    assert path.stat().st_mtime > time.time() - DAY_S


def test_purging_by_age(store: PixelStore) -> None:
    old, young = store.save(smear(1)), store.save(smear(2))
    long_ago = time.time() - 31 * DAY_S
    os.utime(_file(store, old), (long_ago, long_ago))
    assert store.purge(30) == 1
    assert (store.has(old), store.has(young)) == (False, True)
    assert store.purge(30) == 0


def test_purging_where_nothing_was_ever_kept(store: PixelStore) -> None:
    assert store.purge(30) == 0


def test_what_is_not_kept(store: PixelStore) -> None:
    assert not store.has("0" * 64)
    with pytest.raises(NotFound, match="not kept"):
        store.load("0" * 64)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "0" * 63, "F" * 64, "0" * 64 + "\n"])
def test_what_is_no_name(store: PixelStore, name: str) -> None:
    assert not store.has(name)
    with pytest.raises(NotFound, match="no name"):
        store.load(name)


@pytest.mark.parametrize("content", [b"", b"\x89PNG", encode_png(smear(2))[:-20], encode_png(smear(2))])
def test_damage_is_noticed(store: PixelStore, content: bytes) -> None:
    name = store.save(smear(1))
    _file(store, name).write_bytes(content)
    with pytest.raises(NotFound, match="damaged"):
        store.load(name)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="pixels cannot be kept"):
        PixelStore(tmp_path / "file").save(smear(1))
