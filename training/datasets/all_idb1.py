"""ALL-IDB1: 108 pictures of whole smear fields, of patients with leukemia (blast) and of healthy people.

    ALL_IDB1/im/ImNNN_L.jpg    L = 1: a patient with blasts, 0: healthy
    ALL_IDB1/xyc/ImNNN_L.xyc   a line `x y` a probable blast, tab separated; empty when healthy

A picture is one example with the label of its name, as in the papers of the review: a field, not a cell. It is fitted
like any picture of unknown scale, so that a cell is a dozen pixels wide at 128 × 128; a larger field shows more. The
points check the labels, no more: they mark blasts only, so that crops around them would have no healthy counterpart.
"""

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from PIL import Image
from pydantic import Field

from training.datasets import DatasetError
from training.datasets.all_idb import BLAST, LABELS, NOTE, found_in
from training.datasets.listing import About, Listed, ListedSet, SetOptions, about_of, parsed, read, some

_KIND = "all_idb1"
_WHOLE = 108


class AllIdb1Options(SetOptions):
    """Options of kind `all_idb1`."""

    size: list[int] = Field(default=[], max_length=2)
    """[width, height]: take only pictures of this many pixels; empty: all. Those of 1712 × 1368 are all blasts."""


def open_dataset(options: Mapping[str, object]) -> ListedSet:
    """From {root: folder, …}. Raises ConfigError for other options, DatasetError when the set is not there."""
    config = parsed(_KIND, AllIdb1Options, options)
    root, pictures = found_in(_KIND, config.root, ("ALL_IDB1/im", "im", ""), (".jpg", ".jpeg"))
    sizes = [_size(root / picture.path) for picture in pictures]
    wanted = tuple(config.size) or None
    kept = [(picture, size) for picture, size in zip(pictures, sizes, strict=True) if wanted in (None, size)]
    if not kept:
        raise DatasetError(
            f"{_KIND}: no picture in {config.root} is {'×'.join(map(str, config.size))}, they are "
            f"{', '.join(f'{width}×{height}' for width, height in sorted(set(sizes)))}: correct the option size"
        )
    about = about_of(config, site="all-idb")
    notes = [NOTE, "pictures of whole fields: the label is the patient's, not a cell's", *_size_notes(kept)]
    if len(kept) < len(pictures):
        notes.append(f"{len(pictures) - len(kept)} of {len(pictures)} pictures left out: another size than asked for")
    if len(pictures) != _WHOLE:
        notes.append(f"{len(pictures)} pictures, the whole set has {_WHOLE}")
    notes += _point_notes(root, pictures)
    return ListedSet(
        _KIND,
        root,
        [replace(picture, about=_with_camera(about, size)) for picture, size in kept],
        labels=LABELS,
        malignant=(BLAST,),
        about=about,
        notes=notes,
    )


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(read(_KIND, path))) as picture:
            return picture.size
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetError(f"{_KIND}: {path} cannot be read as a picture: get the file again") from error


def _with_camera(about: About, size: tuple[int, int]) -> About:
    # Two cameras took the set, and the resolution is what is left of them: reports can tell them apart by it.
    return about if about.scanner else replace(about, scanner=f"{size[0]}x{size[1]}")


def _size_notes(kept: list[tuple[Listed, tuple[int, int]]]) -> list[str]:
    sizes = Counter(size for _, size in kept)
    notes = []
    for (width, height), count in sorted(sizes.items()):
        labels = [picture.label for picture, size in kept if size == (width, height)]
        if len(sizes) > 1 and len(set(labels)) == 1 and count > 1:
            notes.append(
                f"WARNING: all {count} pictures of {width}×{height} are {labels[0]}, so the resolution tells the "
                "label; the option size takes pictures of one size"
            )
    return notes


def _point_notes(root: Path, pictures: list[Listed]) -> list[str]:
    """What the .xyc files say against the labels; they may be missing."""
    files = {picture.path: _points_of(root / picture.path) for picture in pictures}
    points = {path: _points(file) for path, file in files.items() if file.is_file()}
    wrong = [
        picture.path
        for picture in pictures
        if picture.path in points and bool(points[picture.path]) != (picture.label == BLAST)
    ]
    notes = []
    if wrong:
        notes.append(f"WARNING: the label and the .xyc file of {some(wrong)} contradict each other; look at them")
    if points:
        notes.append(f"{sum(points.values())} probable blasts are marked in {len(points)} .xyc files")
    return notes


def _points_of(picture: Path) -> Path:
    return picture.absolute().parent.parent / "xyc" / f"{picture.stem}.xyc"


def _points(path: Path) -> int:
    """How many points a .xyc file has. Raises DatasetError for a line that is none."""
    lines = [line for line in read(_KIND, path).decode("utf-8", "replace").splitlines() if line.strip()]
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if len(words) != 2 or not all(word.replace(".", "", 1).isdecimal() for word in words):
            raise DatasetError(f"{_KIND}: {path}, line {number}: expected a point `x y`, not {line.strip()[:40]!r}")
    return len(lines)
