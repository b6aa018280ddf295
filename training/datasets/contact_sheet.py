"""A sheet of example cells, one row block a label: what the data look like, at a glance."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from service.contract.image import Pixels

_GAP, _HEAD, _SIDE = 4, 26, 128
_PAPER, _INK = (255, 255, 255), (30, 30, 30)
_BAR_UM = 5.0


def contact_sheet(
    cells: Mapping[str, Sequence[Pixels]],
    *,
    columns: int = 10,
    captions: Mapping[str, str] | None = None,
    field_um: float = 0.0,
) -> bytes:
    """PNG bytes of a sheet with a caption and a block of pictures a label, each fitted to 128 pixels.

    With `field_um` > 0 (µm across a picture) the first picture of each block has a 5 µm bar.
    """
    font = ImageFont.load_default(size=15)
    lines = {label: -(-len(pictures) // columns) for label, pictures in cells.items()}
    width = columns * (_SIDE + _GAP) + _GAP
    height = sum(_HEAD + count * (_SIDE + _GAP) for count in lines.values()) + _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    top = 0
    for label, pictures in cells.items():
        pen.text((_GAP, top + 5), (captions or {}).get(label, label), fill=_INK, font=font)
        top += _HEAD
        for k, picture in enumerate(pictures):
            x, y = _GAP + k % columns * (_SIDE + _GAP), top + k // columns * (_SIDE + _GAP)
            tile = Image.fromarray(picture)
            tile.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
            sheet.paste(tile, (x, y))
            if k == 0 and field_um > 0:
                pen.rectangle((x + 6, y + _SIDE - 10, x + 6 + _BAR_UM / field_um * _SIDE, y + _SIDE - 7), fill=_INK)
        top += lines[label] * (_SIDE + _GAP)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def evenly(count: int, wanted: int) -> list[int]:
    """At most `wanted` of `count` indices, spread evenly: from many patients rather than from the first."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int)).tolist() if count else []
