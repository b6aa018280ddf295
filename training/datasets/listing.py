"""What sets of picture files have in common: options, a list of names, and pictures read one at a time."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.contract.errors import ConfigError
from training.datasets import DatasetError, SourceCell

PICTURES = (".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff")
"""Endings of the formats that `service.contract.image.decode` reads, in lower case."""
_SHOWN = 5


class SetOptions(BaseModel):
    """Options of every set of files. What a set says of itself stands where these are empty."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    root: str = Field(min_length=1)
    """The folder that the set lies in."""
    site: str = ""
    """Where the smears come from; a site is a slice in every report."""
    stain: str = ""
    scanner: str = ""
    pixel_size_um: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """µm per pixel of every picture, for those who know it; 0: unknown."""


Options = TypeVar("Options", bound=SetOptions)


def parsed(kind: str, model: type[Options], options: Mapping[str, object]) -> Options:
    """The options of params.yaml as `model`. Raises ConfigError, one line that names the option."""
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}".removeprefix(": ").replace("Value error, ", "")
            for item in error.errors(include_url=False)
        )
        known = ", ".join([*model.model_fields, "labels"])
        raise ConfigError(f"data.sources, {kind}: {wrong}; its options are {known}") from None


@dataclass(frozen=True, slots=True)
class About:
    """What is known of how a picture was taken: empty, or 0, where it is not."""

    site: str = ""
    stain: str = ""
    scanner: str = ""
    pixel_size_um: float = 0.0


@dataclass(frozen=True, slots=True)
class Listed:
    """One picture of a set: its path below the root, with forward slashes, and what the set says of it."""

    path: str
    label: str
    patient: str = ""
    about: About | None = None
    """Where it differs from the set's."""


class ListedSet:
    """A data set (`training.datasets.Dataset`) of files: it holds names, and reads pictures as they are asked for."""

    def __init__(
        self,
        name: str,
        root: Path,
        pictures: Sequence[Listed],
        *,
        labels: Sequence[str],
        malignant: Sequence[str],
        about: About,
        notes: Sequence[str],
    ) -> None:
        """`labels`: the set's, in order; those without pictures are dropped."""
        self.name = name
        found = Counter(picture.label for picture in pictures)
        self.counts: dict[str, int] = {label: found[label] for label in labels if found[label]}
        self.labels: tuple[str, ...] = tuple(self.counts)
        self.malignant: tuple[str, ...] = tuple(label for label in malignant if label in self.counts)
        self.scale_known = all((picture.about or about).pixel_size_um > 0 for picture in pictures)
        self.notes = list(notes)
        self._root, self._pictures, self._about = root, pictures, about

    def cells(self) -> Iterator[SourceCell]:
        """In the list's order. Raises DatasetError for a file that cannot be read."""
        for found in self._pictures:
            about = found.about or self._about
            yield SourceCell(
                image=read(self.name, self._root / found.path),
                label=found.label,
                patient=found.patient,
                site=about.site,
                stain=about.stain,
                scanner=about.scanner,
                pixel_size_um=about.pixel_size_um,
                source=f"{self.name}/{found.path}",
            )


def about_of(options: SetOptions, *, site: str = "", stain: str = "", scanner: str = "") -> About:
    """What params.yaml says, else what the set is known for."""
    return About(options.site or site, options.stain or stain, options.scanner or scanner, options.pixel_size_um)


def read(kind: str, path: Path) -> bytes:
    """A file's bytes. Raises DatasetError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{kind}: {path} cannot be read ({error.strerror}): check the file and its permissions"
        ) from error


def entries(kind: str, folder: Path) -> tuple[list[str], list[str]]:
    """(folders, files) in `folder`, names in natural order (2 before 10), without hidden ones.

    Raises DatasetError when the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as found:
            kept = [(entry.name, entry.is_dir()) for entry in found if not _is_hidden(entry.name)]
    except OSError as error:
        raise DatasetError(f"{kind}: {folder} cannot be listed ({error.strerror}): check its permissions") from error
    folders = sorted((name for name, is_dir in kept if is_dir), key=natural)
    return folders, sorted((name for name, is_dir in kept if not is_dir), key=natural)


def pictures_of(names: Sequence[str]) -> list[str]:
    """Those names that end like a picture."""
    return [name for name in names if name.lower().endswith(PICTURES)]


def existing_root(kind: str, root: str, obtain: str) -> Path:
    """`root` as a folder. Raises DatasetError that says how to obtain the set when there is none."""
    path = Path(root)
    if not path.is_dir():
        raise DatasetError(f"{kind}: there is no folder {root}: {obtain}")
    return path


def some(names: Sequence[str]) -> str:
    """The first few of many names, for a message."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Sorts names by the numbers in them; equal numbers by how they are written."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((int(part), part) if part.isdecimal() else (0, part) for part in parts)


def _is_hidden(name: str) -> bool:
    # ".DS_Store", "._Im001_1.tif" and "__MACOSX" come with copies from a Mac.
    return name.startswith((".", "__MACOSX"))
