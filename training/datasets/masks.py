"""Where the nucleus and the cell are, for the sets that come with masks: what attribution is held against."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from service.contract.errors import BadImage
from service.contract.image import Field, Pixels, decode, to_field
from training.datasets import DatasetError

REST: Final = 0
CYTOPLASM: Final = 1
NUCLEUS: Final = 2
_GREYS = {REST: 0, CYTOPLASM: 128, NUCLEUS: 255}
_TOLERANCE = 16  # grey levels: some editors store 127 for 128

Mask = npt.NDArray[np.uint8]


def mask_of(
    config: Mapping[str, object], source: str, field: Field | None = None, pixel_size_um: float = 0.0
) -> Mask | None:
    """The mask of one cell: uint8 [h, w] of REST, CYTOPLASM, NUCLEUS; None when its set has none.

    `config` is the entry of data.sources, `source` the cell's name in the manifest. With `field` the mask is brought to
    it, [H, W], as the picture is (`pixel_size_um` as in the manifest). Raises DatasetError for a mask that cannot be
    read, has other grey levels, or another size than its picture.
    """
    files = _files(config, source)
    if files is None or not files[1].is_file():
        return None
    picture, path = files
    mask = levels(_pixels(path), path)
    expected = _pixels(picture).shape[:2]
    if mask.shape != expected:
        raise DatasetError(
            f"{path} is {mask.shape[1]}×{mask.shape[0]}, but {picture.name} is {expected[1]}×{expected[0]}: get both "
            "again"
        )
    return mask if field is None else in_field(mask, field, pixel_size_um)


def levels(pixels: Pixels, path: Path) -> Mask:
    """uint8 [h, w, 3] → uint8 [h, w] of REST (black), CYTOPLASM (grey), NUCLEUS (white).

    Of a mask with other greys, three at most, the darkest is the rest and the lightest the nucleus. Raises DatasetError
    for any other picture.
    """
    grey = pixels[..., 0].astype(np.int16)
    distance = np.stack([np.abs(grey - level) for level in _GREYS.values()])
    # A mask in colour would otherwise be read by one of its channels.
    coloured = (np.ptp(pixels.astype(np.int16), axis=2) > _TOLERANCE).any()
    if not coloured and grey.max() > _TOLERANCE and (distance.min(axis=0) <= _TOLERANCE).all():
        nearest: Mask = distance.argmin(axis=0).astype(np.uint8)
        return nearest
    found, index = np.unique(grey, return_inverse=True)
    if coloured or not 2 <= len(found) <= len(_GREYS):
        raise DatasetError(f"{path} is no mask of white nucleus, grey cytoplasm and black rest: get the file again")
    regions = np.array([REST, CYTOPLASM, NUCLEUS] if len(found) == len(_GREYS) else [REST, NUCLEUS], dtype=np.uint8)
    return regions[index.reshape(grey.shape)]


def in_field(mask: Mask, field: Field, pixel_size_um: float) -> Mask:
    """uint8 [h, w] → [H, W], by the very function that brings the picture to the field.

    Each region goes through it as a channel of its own, and a pixel belongs to the one that covers most of it: the
    nearest region, without a second copy of the geometry that could come apart from the first.
    """
    regions = np.stack([np.where(mask == region, 255, 0) for region in _GREYS], axis=2).astype(np.uint8)
    found: Mask = to_field(regions, field, pixel_size_um).argmax(axis=2).astype(np.uint8)
    return found


def _files(config: Mapping[str, object], source: str) -> tuple[Path, Path] | None:
    """(picture, mask) of a cell of a set that can have masks."""
    kind, _, name = source.partition("/")
    root, masks = config.get("root"), config.get("masks")
    if kind != config.get("kind") or not isinstance(root, str):
        return None
    picture = Path(root) / name
    if kind == "tecom_wbc":
        return picture, picture.with_suffix(".png")
    if kind == "all_idb2" and isinstance(masks, str) and masks:
        # In copies of ALL-IDB2_masks they lie in gt/ under the pictures' names.
        folder = Path(masks) / "gt" if (Path(masks) / "gt").is_dir() else Path(masks)
        return picture, folder / picture.name
    return None


def _pixels(path: Path) -> Pixels:
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}): check the file and its permissions") from error
    except BadImage as error:
        raise DatasetError(f"{path}: {error}; get the file again") from error
