"""Any set with one folder a class, with a table of what is known of each picture where there is one.

    ROOT/<class>/….png       also in folders below it; every class folder needs pictures
    TABLE                    optional CSV, one row a picture: file,patient,site,stain,scanner,pixel_size_um

`file` is a picture's path below the root. Patients' ids must be pseudonyms (`service.contract.pseudonym`), never names.
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from pydantic import Field

from service.contract.errors import ConfigError
from training.datasets import DatasetError
from training.datasets.listing import (
    About,
    Listed,
    ListedSet,
    SetOptions,
    about_of,
    entries,
    existing_root,
    parsed,
    pictures_of,
    some,
)

_KIND = "folder"
COLUMNS = ("file", "patient", "site", "stain", "scanner", "pixel_size_um")
_OBTAIN = "make it, with one folder of PNG, JPEG, TIFF or BMP pictures a class, or correct root"
_DEPTH = 8


class FolderOptions(SetOptions):
    """Options of kind `folder`."""

    table: str = ""
    """Path of a CSV with the columns `file` and any of patient, site, stain, scanner, pixel_size_um."""
    malignant: list[str] = Field(default=[])
    """Which class folders mean a blast."""
    name: str = Field(default=_KIND, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """What reports call the set; two folders in one pipeline need two names."""


def open_dataset(options: Mapping[str, object]) -> ListedSet:
    """From {root: folder, …}. Raises ConfigError for other options, DatasetError when the set is not there."""
    config = parsed(_KIND, FolderOptions, options)
    root = existing_root(_KIND, config.root, _OBTAIN)
    classes, loose = entries(_KIND, root)
    if pictures := pictures_of(loose):
        raise DatasetError(
            f"{_KIND}: {len(pictures)} pictures lie in {root} itself, so their class is unknown: {some(pictures)}; "
            "move each into the folder of its class"
        )
    if not classes:
        raise DatasetError(f"{_KIND}: {root} has no folders, expected one a class: {_OBTAIN}")
    if unknown := [name for name in config.malignant if name not in classes]:
        raise ConfigError(
            f"data.sources, {_KIND}: malignant names {', '.join(map(repr, unknown))}, but the folders of {root} are "
            f"{', '.join(classes)}"
        )
    found: list[Listed] = []
    others: list[str] = []
    for name in classes:
        inside = list(_files(root, name, _DEPTH))
        kept = pictures_of(inside)
        if not kept:
            raise DatasetError(f"{_KIND}: {root / name} has no pictures: fill it, or remove it")
        found += [Listed(path, name) for path in kept]
        others += sorted(set(inside) - set(kept))
    about = about_of(config, site=config.name)
    notes = [f"{len(others)} files are no pictures that can be read, left out: {some(others)}"] if others else []
    if config.table:
        found = _described(found, Path(config.table), about)
    if not config.malignant:
        notes.append("no class is named malignant: figures for blasts need the option malignant")
    return ListedSet(config.name, root, found, labels=classes, malignant=config.malignant, about=about, notes=notes)


def _files(root: Path, folder: str, depth: int) -> Iterator[str]:
    folders, files = entries(_KIND, root / folder)
    yield from (f"{folder}/{name}" for name in files)
    if depth:
        for name in folders:
            yield from _files(root, f"{folder}/{name}", depth - 1)


def _described(found: list[Listed], table: Path, about: About) -> list[Listed]:
    """The pictures with their rows of the table: exactly one each."""
    rows = _rows(table)
    paths = {picture.path for picture in found}
    if absent := [name for name in rows if name not in paths]:
        raise DatasetError(f"{_KIND}: {len(absent)} files of {table} are not among the pictures: {some(absent)}")
    if bare := [picture.path for picture in found if picture.path not in rows]:
        raise DatasetError(f"{_KIND}: {table} has no row for {len(bare)} pictures: {some(bare)}; add them")
    described = [_with_row(picture, rows[picture.path], about, table) for picture in found]
    unknown = [picture.path for picture in described if picture.about and not picture.about.pixel_size_um]
    if 0 < len(unknown) < len(described):
        raise DatasetError(
            f"{_KIND}: {table} gives no pixel_size_um for {len(unknown)} of {len(described)}: {some(unknown)}; "
            "a model cannot learn sizes from some: give it for all or none"
        )
    return described


def _with_row(picture: Listed, row: Mapping[str, str], about: About, table: Path) -> Listed:
    try:
        size = float(row.get("pixel_size_um") or about.pixel_size_um)
    except ValueError:
        size = -1.0
    if not 0 <= size < float("inf"):
        raise DatasetError(
            f"{_KIND}: {table}: pixel_size_um of {picture.path} is {row['pixel_size_um']!r}, not a number"
        )
    mine = About(
        row.get("site") or about.site, row.get("stain") or about.stain, row.get("scanner") or about.scanner, size
    )
    return Listed(picture.path, picture.label, row.get("patient", ""), mine)


def _rows(table: Path) -> dict[str, dict[str, str]]:
    """file → its row. Raises DatasetError for a table that is none, an unknown column, and a file listed twice."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            header, *lines = [[word.strip() for word in row] for row in csv.reader(file) if row] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{_KIND}: the table {table} cannot be read ({error}): correct it, or the path") from error
    strange = [name for name in header if name not in COLUMNS]
    if "file" not in header or strange or len(set(header)) < len(header):
        raise DatasetError(
            f"{_KIND}: {table} has the columns {', '.join(header) or 'none'}, expected file and any of "
            f"{', '.join(COLUMNS[1:])}"
        )
    rows: dict[str, dict[str, str]] = {}
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise DatasetError(f"{_KIND}: {table}, row {number} has {len(line)} fields instead of {len(header)}")
        row = dict(zip(header, line, strict=True))
        name = PurePosixPath(row["file"].replace("\\", "/")).as_posix()
        if name in rows:
            raise DatasetError(f"{_KIND}: {table}, row {number}: {name} is listed twice; keep one row")
        rows[name] = row
    return rows
