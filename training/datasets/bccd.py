"""BCCD: 364 stained smear fields of 640 × 480 pixels with a box around each cell, cut into one picture a cell.

    Annotations/BloodImage_NNNNN.xml   Pascal VOC: 4155 RBC, 372 WBC, 361 Platelets
    JPEGImages/BloodImage_NNNNN.jpg

Size is morphology, so a crop has the same number of pixels whatever the box: a small cell stays small. It is centred on
the box; what lies outside the field is filled by reflection. Source: github.com/Shenggan/BCCD_Dataset (MIT).
"""

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from pydantic import Field, field_validator

from service.contract.errors import BadImage
from service.contract.image import Pixels, decode
from training.datasets import DatasetError, SourceCell
from training.datasets.listing import (
    SetOptions,
    about_of,
    entries,
    existing_root,
    parsed,
    pictures_of,
    read,
    some,
)

_KIND = "bccd"
LABELS = ("WBC", "RBC", "Platelets")
_OBTAIN = (
    "clone https://github.com/Shenggan/BCCD_Dataset and give its folder BCCD (with Annotations and JPEGImages) as root"
)


class BccdOptions(SetOptions):
    """Options of kind `bccd`."""

    classes: list[str] = Field(default=["WBC"], min_length=1)
    """Which boxes are cut out: WBC, RBC, Platelets."""
    side: int = Field(default=288, ge=32, le=480)
    """Pixels along a crop's side. 288 are about 20 µm: the median red cell's box, 105 pixels, is about 7.2 µm."""
    cut_cells: bool = True
    """Whether cells that the field's edge cuts are taken too."""

    @field_validator("classes")
    @classmethod
    def _known(cls, classes: list[str]) -> list[str]:
        if unknown := [name for name in classes if name not in LABELS]:
            raise ValueError(f"{', '.join(unknown)} is no class of the set, known are {', '.join(LABELS)}")
        return list(dict.fromkeys(classes))


@dataclass(frozen=True, slots=True)
class Box:
    """A cell in its field: label and edges in pixels, right and bottom exclusive."""

    label: str
    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True, slots=True)
class Annotated:
    """A field: the name of its picture, its size as (width, height), and the boxes in it, with their number there."""

    name: str
    size: tuple[int, int]
    boxes: tuple[tuple[int, Box], ...]


class Bccd:
    """Crops around the boxes of the fields under `root`."""

    def __init__(self, root: Path, config: BccdOptions) -> None:
        """Reads every annotation. Raises DatasetError naming the file that is missing or wrong."""
        self.name = _KIND
        self._pictures = _picture_names(root)
        self._root, self._side, self._about = root, config.side, about_of(config, site=_KIND)
        fields = [_annotated(root / "Annotations" / f"{stem}.xml", name) for stem, name in self._pictures.items()]
        whole = [(field, _usable(field, config)) for field in fields]
        self._fields = [Annotated(field.name, field.size, boxes) for field, boxes in whole if boxes]
        found = Counter(box.label for field in self._fields for _, box in field.boxes)
        if not found:
            raise DatasetError(
                f"{_KIND}: no box in {root / 'Annotations'} is a {' or a '.join(config.classes)}: {_OBTAIN}"
            )
        self.counts: dict[str, int] = {label: found[label] for label in LABELS if found[label]}
        self.labels: tuple[str, ...] = tuple(self.counts)
        self.malignant: tuple[str, ...] = ()
        self.scale_known = self._about.pixel_size_um > 0
        self.notes = [
            f"crops of {config.side} pixels around boxes; no patients are named, and nothing in the set is malignant",
            "source: github.com/Shenggan/BCCD_Dataset",
        ]
        if empty := sum(_is_empty(box) for field in fields for _, box in field.boxes):
            self.notes.append(f"{empty} boxes without an area left out")
        if not config.cut_cells:
            self.notes.append("cells that the edge of their field cuts are left out")

    def cells(self) -> Iterator[SourceCell]:
        """Field by field, in the order of their names. Raises DatasetError for a field that cannot be read."""
        for field in self._fields:
            path = self._root / "JPEGImages" / field.name
            try:
                pixels = decode(read(_KIND, path))
            except BadImage as error:
                raise DatasetError(f"{_KIND}: {path}: {error}; get the file again") from error
            if pixels.shape[1::-1] != field.size:
                raise DatasetError(
                    f"{_KIND}: {path} is {pixels.shape[1]}×{pixels.shape[0]}, its annotation says "
                    f"{field.size[0]}×{field.size[1]}: the boxes would be elsewhere; get both files again"
                )
            for number, box in field.boxes:
                yield SourceCell(
                    image=_bmp(crop(pixels, box, self._side)),
                    label=box.label,
                    patient="",
                    site=self._about.site,
                    stain=self._about.stain,
                    scanner=self._about.scanner,
                    pixel_size_um=self._about.pixel_size_um,
                    source=f"{_KIND}/{field.name}#{number}",
                    field=f"{_KIND}/{field.name}",
                )


def open_dataset(options: Mapping[str, object]) -> Bccd:
    """From {root: folder, …}. Raises ConfigError for other options, DatasetError when the set is not there."""
    config = parsed(_KIND, BccdOptions, options)
    root = existing_root(_KIND, config.root, _OBTAIN)
    # The set is the folder BCCD of its repository, beside others.
    return Bccd(root if (root / "Annotations").is_dir() or not (root / "BCCD").is_dir() else root / "BCCD", config)


def crop(pixels: Pixels, box: Box, side: int) -> Pixels:
    """uint8 [side, side, 3] of uint8 [h, w, 3], centred on `box`; beyond the edges the field is mirrored."""
    top = (box.top + box.bottom) // 2 - side // 2
    left = (box.left + box.right) // 2 - side // 2
    rows, columns = (
        _mirrored(start, side, length) for start, length in zip((top, left), pixels.shape[:2], strict=True)
    )
    return np.ascontiguousarray(pixels[rows[:, None], columns])


def _bmp(pixels: Pixels) -> bytes:
    # The crop is decoded again a moment later: compressing it would take most of the time.
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="BMP")
    return buffer.getvalue()


def _mirrored(start: int, side: int, length: int) -> "np.ndarray[tuple[int], np.dtype[np.intp]]":
    period = 2 * (length - 1)
    index = np.arange(start, start + side) % period
    return np.minimum(index, period - index)


def _picture_names(root: Path) -> dict[str, str]:
    """Annotation → picture, by the stem of their names, which the annotations' own `filename` does not always match."""
    for folder in ("Annotations", "JPEGImages"):
        if not (root / folder).is_dir():
            raise DatasetError(f"{_KIND}: {root} has no folder {folder}: {_OBTAIN}")
    stems = [name[:-4] for name in entries(_KIND, root / "Annotations")[1] if name.lower().endswith(".xml")]
    if not stems:
        raise DatasetError(f"{_KIND}: {root / 'Annotations'} has no .xml files: {_OBTAIN}")
    pictures = {Path(name).stem: name for name in pictures_of(entries(_KIND, root / "JPEGImages")[1])}
    if missing := [f"{stem}.jpg" for stem in stems if stem not in pictures]:
        raise DatasetError(
            f"{_KIND}: {len(missing)} of {len(stems)} pictures are not in {root / 'JPEGImages'}: {some(missing)}; "
            f"{_OBTAIN}"
        )
    return {stem: pictures[stem] for stem in stems}


def _annotated(path: Path, picture: str) -> Annotated:
    try:
        # The file is the user's own data, and Python's expat limits what entities may grow to.
        tree = ElementTree.fromstring(read(_KIND, path))  # noqa: S314
        size = int(_text(tree, "size/width")), int(_text(tree, "size/height"))
        boxes = tuple((number, _box(node)) for number, node in enumerate(tree.iter("object"), start=1))
    except (ElementTree.ParseError, ValueError) as error:
        raise DatasetError(f"{_KIND}: {path} is no Pascal-VOC annotation ({error}): get the file again") from error
    if unknown := sorted({box.label for _, box in boxes} - set(LABELS)):
        raise DatasetError(
            f"{_KIND}: {path} names {', '.join(map(repr, unknown))}, known are {', '.join(LABELS)}: correct the file"
        )
    return Annotated(picture, size, boxes)


def _box(node: ElementTree.Element) -> Box:
    left, top, right, bottom = (int(float(_text(node, f"bndbox/{name}"))) for name in ("xmin", "ymin", "xmax", "ymax"))
    return Box(_text(node, "name"), left, top, right, bottom)


def _text(node: ElementTree.Element, path: str) -> str:
    text = (node.findtext(path) or "").strip()
    if not text:
        raise ValueError(f"it lacks {path}")
    return text


def _usable(field: Annotated, config: BccdOptions) -> tuple[tuple[int, Box], ...]:
    return tuple(
        (number, box)
        for number, box in field.boxes
        if box.label in config.classes and not _is_empty(box) and (config.cut_cells or not _is_cut(box, field.size))
    )


def _is_empty(box: Box) -> bool:
    return box.right <= box.left or box.bottom <= box.top


def _is_cut(box: Box, size: Sequence[int]) -> bool:
    return box.left <= 1 or box.top <= 1 or box.right >= size[0] - 1 or box.bottom >= size[1] - 1
