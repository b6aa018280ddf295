"""A reviewer's work list as a folder: a table to fill in, the pictures, and a page to look at. And the table read back.

Nothing in it says what the model answered: a reader who knows tends to agree.
"""

import csv
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Final

import numpy as np
from PIL import Image

from service.contract.errors import ConfigError
from service.contract.files import aside_of, replace_dir
from service.contract.image import Pixels, encode_png
from service.contract.store import StoredPrediction

TABLE: Final = "cells.csv"
PAGE: Final = "index.html"
IMAGES: Final = "images"
COLUMNS: Final = ("number", "list", "record_id", "why", "site", "stain", "scanner", "picture", "label")
NEEDED: Final = ("list", "record_id", "label")
SIDE: Final = 512
"""Pixels of a picture's side, about: a model's field has 128 and is hard to look at."""

_HTML = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Work list {list_id}</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem}}
main{{display:grid;grid-template-columns:repeat(auto-fill,minmax(16rem,1fr));gap:1rem}}
figure{{margin:0}}img{{width:100%;border:1px solid #bbb}}figcaption{{color:#333}}b{{font-size:1.2em}}</style>
<h1>Work list {list_id}</h1>
<p>{count} cells. Write one of <b>{labels}</b> into the column <code>label</code> of <code>{table}</code>, each reader
in a copy of their own; leave it empty where you cannot say. The number is the table's.</p>
<main>
{figures}
</main></html>
"""


@dataclass(frozen=True)
class Filled:
    """One row of a table that came back: its line in the file, counted from 1, and what it says."""

    line: int
    list_id: str
    record_id: str
    label: str


def write_list(
    out: Path,
    list_id: str,
    cells: Sequence[tuple[StoredPrediction, str]],
    labels: Sequence[str],
    load: Callable[[str], Pixels],
) -> None:
    """Write the folder `out` in one step. Raises ConfigError when it is there already; NotFound as `load` does."""
    if out.exists():
        raise ConfigError(f"{out} is there already: name another folder with --out, a list is never written over")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(out)
    (aside / IMAGES).mkdir(parents=True)
    try:
        table, figures = io.StringIO(), []
        writer = csv.writer(table, lineterminator="\r\n")
        writer.writerow(COLUMNS)
        for number, (item, why) in enumerate(cells, start=1):
            record, picture = item.record, f"{IMAGES}/{number:04d}.png"
            (aside / picture).write_bytes(encode_png(enlarged(load(record.pixels_sha256))))
            where = [record.site, record.stain, record.scanner]
            writer.writerow([number, list_id, record.record_id, why, *map(_plain, where), picture, ""])
            shown = html.escape(" · ".join([why, *(word for word in where if word)]))
            figures.append(
                f'<figure><img src="{picture}" alt="cell {number}" loading="lazy">'
                f"<figcaption><b>{number}</b> {shown}</figcaption></figure>"
            )
        (aside / TABLE).write_text(table.getvalue(), encoding="utf-8-sig", newline="")
        page = _HTML.format(
            list_id=html.escape(list_id),
            count=len(cells),
            labels="</b>, <b>".join(map(html.escape, labels)),
            table=TABLE,
            figures="\n".join(figures),
        )
        (aside / PAGE).write_text(page, encoding="utf-8")
        replace_dir(aside, out)
    finally:
        rmtree(aside, ignore_errors=True)


def read_list(path: Path) -> list[Filled]:
    """The rows of a filled table, separated by commas or, as some spreadsheets save it, semicolons.

    Raises ConfigError when it cannot be read or lacks a column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): give the filled {TABLE}, saved as UTF-8") from None
    first = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if ";" in first else ",")
    if missing := [name for name in NEEDED if name not in (reader.fieldnames or ())]:
        raise ConfigError(f"{path} has no column {', '.join(missing)}: give the filled {TABLE} of a work list")
    return [
        Filled(reader.line_num, *((row[name] or "").strip() for name in NEEDED))
        for row in reader
        if any(value for value in row.values())
    ]


def enlarged(pixels: Pixels) -> Pixels:
    """uint8 [h, w, 3] → the same a whole number of times larger, about SIDE on its longer side."""
    height, width = pixels.shape[:2]
    times = max(1, SIDE // max(height, width))
    size = (width * times, height * times)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), dtype=np.uint8)


def _plain(text: str) -> str:
    """What a client sent, so that no spreadsheet takes it for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
