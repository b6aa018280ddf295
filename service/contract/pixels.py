"""Decoded pixels that are kept for review and replay: PNG files without metadata, named by their content."""

import os
import re
import time
from pathlib import Path

import numpy as np
from PIL import Image

from service.contract.errors import NotFound, StoreUnavailable
from service.contract.files import write_atomic
from service.contract.image import Pixels, encode_png, pixels_sha256

_NAME = re.compile(r"[0-9a-f]{64}")
_DAY_S = 86_400
LEVEL = 1
"""Of a cell, level 6 saves an eighth of the bytes and takes four times as long, beside the answers to others."""


class PixelStore:
    """A folder of pictures by `pixels_sha256`, shared by any number of processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def save(self, pixels: Pixels) -> str:
        """Keep uint8 [h, w, 3] and return its name. Saving again only renews its age.

        On return it is on the disk. Raises StoreUnavailable when it cannot be written.
        """
        name = pixels_sha256(pixels)
        path = self._path(name)
        try:
            if not _renew(path):
                write_atomic(path, encode_png(pixels, level=LEVEL))
        except OSError as error:
            raise StoreUnavailable(f"pixels cannot be kept in {self.folder}: {error.strerror}") from error
        return name

    def load(self, name: str) -> Pixels:
        """The pixels of that name, uint8 [h, w, 3]. Raises NotFound when they are not here, or are damaged."""
        if not _NAME.fullmatch(name):
            raise NotFound(f"{name!r} is no name of kept pixels")
        try:
            with Image.open(self._path(name), formats=("PNG",)) as picture:
                pixels = np.asarray(picture.convert("RGB"), dtype=np.uint8)
        except FileNotFoundError:
            raise NotFound(f"pixels {name} are not kept (or no longer)") from None
        except (OSError, SyntaxError, ValueError) as error:
            raise NotFound(f"pixels {name} are damaged: {error}") from error
        if pixels_sha256(pixels) != name:
            raise NotFound(f"pixels {name} are damaged: their content has another hash")
        return pixels

    def has(self, name: str) -> bool:
        """Whether pixels of that name are kept."""
        return bool(_NAME.fullmatch(name)) and self._path(name).is_file()

    def remove(self, name: str) -> bool:
        """Remove the pixels of that name, and say whether they were here. Raises StoreUnavailable."""
        if not self.has(name):
            return False
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"pixels cannot be removed from {self.folder}: {error.strerror}") from error
        return True

    def purge(self, older_than_days: float) -> int:
        """Remove what was last saved longer ago than that, and say how many."""
        limit = time.time() - older_than_days * _DAY_S
        removed = 0
        for path in self.folder.glob("*/*.png"):
            try:
                if path.stat().st_mtime < limit:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:
                continue  # another process purges too
        return removed

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.png"


def _renew(path: Path) -> bool:
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True
