"""The pixels of many cells: decoded once, mapped and not loaded, never stale, never half-written."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.contract.errors import ConfigError
from service.contract.image import Pixels, encode_png, pixels_sha256
from tests.support.images import smear
from training import pixel_cache
from training.pixel_cache import CACHE, mapped
from training.pixels import load_pixels

REPO = Path(__file__).parents[2]


def stored(folder: Path, count: int, size: int = 32) -> tuple[list[Path], Pixels]:
    """Cells as `prepare` writes them."""
    pictures = np.stack([smear(seed, size) for seed in range(count)])
    paths = [folder / f"cells/{pixels_sha256(picture)}.png" for picture in pictures]
    (folder / "cells").mkdir(exist_ok=True)
    for path, picture in zip(paths, pictures, strict=True):
        path.write_bytes(encode_png(picture))
    return paths, pictures


def test_what_is_mapped_is_what_was_stored_in_the_order_asked_for(tmp_path: Path) -> None:
    paths, pictures = stored(tmp_path, 12)
    np.testing.assert_array_equal(mapped(paths), pictures)
    np.testing.assert_array_equal(mapped(paths[::-1]), pictures[::-1])
    np.testing.assert_array_equal(load_pixels([*paths, paths[0]]), [*pictures, pictures[0]])
    assert len(list((tmp_path / CACHE).iterdir())) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [CACHE, "cells"]


def test_cells_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, pictures = stored(tmp_path, 5)
    mapped(paths)
    monkeypatch.delattr(pixel_cache, "decode")
    np.testing.assert_array_equal(mapped(paths), pictures)
    with pytest.raises(NameError):
        mapped(paths[:4])


def test_it_is_a_map_of_the_file_that_torch_takes_and_nobody_writes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    paths, pictures = stored(tmp_path, 4)
    images = mapped(paths)
    assert type(images) is np.ndarray and isinstance(images.base, np.memmap)
    tensor = torch.from_numpy(images)  # warns of an array that may not be written
    tensor += 1
    np.testing.assert_array_equal(mapped(paths), pictures)


def test_processes_build_the_same_file(tmp_path: Path) -> None:
    paths, pictures = stored(tmp_path, 600, 16)
    np.testing.assert_array_equal(mapped(paths, workers=2), pictures)


def test_two_at_once_both_get_it(tmp_path: Path) -> None:
    paths, pictures = stored(tmp_path, 300)
    code = (
        "import sys; from pathlib import Path; from training.pixel_cache import mapped; "
        "print(int(mapped([Path(line) for line in sys.stdin.read().split()]).sum()))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code], cwd=REPO, stdin=-1, stdout=-1, text=True) for _ in range(2)
    ]
    said = [process.communicate("\n".join(map(str, paths)))[0].strip() for process in running]
    assert said == [str(int(pictures.sum()))] * 2
    assert len(list((tmp_path / CACHE).iterdir())) == 1


@pytest.mark.parametrize("harm", ["cut", "empty", "other shape"])
def test_a_file_that_is_not_whole_is_built_again(tmp_path: Path, harm: str) -> None:
    paths, pictures = stored(tmp_path, 6)
    mapped(paths)
    (file,) = (tmp_path / CACHE).iterdir()
    if harm == "other shape":
        np.save(file, np.zeros((2, 2), np.uint8))
    else:
        file.write_bytes(file.read_bytes()[: 5000 if harm == "cut" else 0])
    np.testing.assert_array_equal(mapped(paths), pictures)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("harm", "words"), [("missing", "cannot be read"), ("cut", "cannot be read"), ("another", "other pixels")]
)
def test_a_cell_that_is_not_what_its_name_says_is_named(tmp_path: Path, harm: str, words: str, workers: int) -> None:
    paths, _ = stored(tmp_path, 5)
    match harm:
        case "missing":
            paths[3].unlink()
        case "cut":
            paths[3].write_bytes(paths[3].read_bytes()[:60])
        case _:
            paths[3].write_bytes(paths[2].read_bytes())
    with pytest.raises(ConfigError, match=rf"{paths[3].name} .*{words}.*dvc repro --force prepare"):
        mapped(paths, workers=workers)
    assert list((tmp_path / CACHE).iterdir()) == []


def test_cells_of_two_sizes_are_refused(tmp_path: Path) -> None:
    paths = [*stored(tmp_path, 2)[0], *stored(tmp_path, 1, 48)[0]]
    with pytest.raises(ConfigError, match=r"different sizes.*\[48, 48\] and others \[32, 32\]"):
        mapped(paths)


def test_a_name_that_is_no_hash_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells/one.png").write_bytes(encode_png(smear(0)))
    with pytest.raises(ConfigError, match=r"one\.png is not named by its pixels"):
        mapped([tmp_path / "cells/one.png"])


def test_no_cells_are_one_clear_error() -> None:
    with pytest.raises(ConfigError, match="no cell is asked for"):
        load_pixels([])


def test_old_files_go_and_used_ones_stay(tmp_path: Path) -> None:
    paths, _ = stored(tmp_path, 4)
    held = mapped(paths[:1])
    mapped(paths[:2])
    for file in (tmp_path / CACHE).iterdir():
        os.utime(file, (0, 0))
    mapped(paths[:2])  # in use again
    mapped(paths)
    assert len(list((tmp_path / CACHE).iterdir())) == 2
    np.testing.assert_array_equal(held[0], smear(0, 32))  # who has it mapped keeps it


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, _ = stored(tmp_path, 4)

    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ConfigError, match=r"the disk of .* is full: 4 decoded cells need 0 MB; make room there"):
        mapped(paths)
    assert list((tmp_path / CACHE).iterdir()) == []


def test_other_lists_make_way_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, pictures = stored(tmp_path, 4)
    mapped(paths[:2])
    room = os.posix_fallocate

    def nearly_full(descriptor: int, offset: int, length: int) -> None:
        if len(list((tmp_path / CACHE).iterdir())) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", nearly_full)
    np.testing.assert_array_equal(mapped(paths), pictures)
    assert len(list((tmp_path / CACHE).iterdir())) == 1


def test_what_is_mapped_is_not_in_memory(tmp_path: Path) -> None:
    """Anonymous memory of a process that walks through 60 MB of pixels grows by a batch of them."""
    paths = []
    for level in range(20):
        picture = np.full((1024, 1024, 3), level, dtype=np.uint8)
        paths.append(tmp_path / f"cells/{pixels_sha256(picture)}.png")
        paths[-1].parent.mkdir(exist_ok=True)
        paths[-1].write_bytes(encode_png(picture))
    code = (
        "import sys; from pathlib import Path; from training.pixel_cache import mapped\n"
        "def anonymous():\n"
        "    return int(next(l for l in open('/proc/self/status') if l.startswith('RssAnon')).split()[1]) / 1024\n"
        "paths = [Path(line) for line in sys.stdin.read().split()]; mapped(paths); before = anonymous()\n"
        "images = mapped(paths); total = sum(int(image.sum()) for image in images)\n"
        "print(len(images), images.nbytes >> 20, anonymous() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPO,
        input="\n".join(map(str, paths)),
        capture_output=True,
        text=True,
        check=True,
    )
    count, size, grown = done.stdout.split()
    assert (int(count), int(size)) == (20, 60)
    assert float(grown) < 20
