"""The parts of a backfill: an archive cut into shards, a shard scored, and what is written of it.

A shard is a fixed piece of the archive's listing, and its part is one Parquet file that is there whole or not at all:
what is done is what is there. Files are named by fsspec, so that a folder and a bucket (s3://…) are the same.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from service.contract.decision import decide
from service.contract.errors import BadImage, BlastwatchError, ConfigError
from service.contract.files import write_atomic
from service.contract.image import Pixels, decode, image_sha256, load_field, pixels_sha256, row_check
from service.contract.predictor import Predictor
from service.identity import IdentityError

IMAGES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
PARQUET: Final = ".parquet"
PLAN: Final = "backfill.json"
SHARD: Final = 512
BATCH: Final = 16
MOST_ROWS: Final = 8192
"""Of a row group: it is read whole for each of its shards."""
IMAGE: Final = "image"
"""The column of a Parquet archive with a picture's bytes; `name` and `pixel_size_um` are read where they are there."""
CELLS: Final = "cells"
"""The folder of the answers."""
REJECTED: Final = "rejected"
"""That of what could not be answered, with the reason."""


@dataclass(frozen=True)
class Shard:
    """A piece of the archive: files, or `rows` rows from `first` of a row group; its number in the listing."""

    number: int
    names: tuple[str, ...]
    row_group: int = -1
    first: int = 0
    rows: int = 0

    @property
    def part(self) -> str:
        """The file's name below the output."""
        return f"part-{self.number:08d}{PARQUET}"


@dataclass(frozen=True)
class Plan:
    """What a backfill is of: anything else in the same output would be mixed up with it.

    kept: the pictures are a service's kept pixels, decoded and in the model's field already.
    """

    archive: str
    listing: str
    shards: int
    model: str
    pixel_size_um: float
    kept: bool
    embedding: bool

    def to_json(self) -> str:
        """As written beside the parts."""
        return json.dumps(self.__dict__, indent=2, sort_keys=True) + "\n"


@dataclass(frozen=True)
class Cell:
    """A picture of the archive."""

    name: str
    data: bytes
    pixel_size_um: float
    fault: str = ""
    """Why there is no picture."""


def opened(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """File system and path. Raises ConfigError for an address that nothing here can open."""
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{url} cannot be opened: {error}") from None
    return system, str(path).rstrip("/")


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
    """Whatever a bucket, a disk or a missing credential says becomes one line. Raises ConfigError."""
    try:
        yield
    except BlastwatchError:
        raise
    except Exception as error:  # each kind of address has errors of its own
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"{url} cannot be read or written: {said}") from None


def shards(url: str, size: int = SHARD) -> tuple[list[Shard], str]:
    """The archive's shards, and a hash of its listing (names and sizes): the same archive is cut the same way.

    Raises ConfigError for an archive that is not there, or that has nothing in it.
    """
    system, path = opened(url)
    found = {path: system.info(path)} if system.isfile(path) else system.find(path, detail=True)
    files = sorted((name, int(info["size"] or 0)) for name, info in found.items())
    tables = [name for name, _ in files if name.endswith(PARQUET)]
    images = [name for name, _ in files if PurePosixPath(name).suffix.lower() in IMAGES]
    if tables and images:
        raise ConfigError(f"{url} has pictures and Parquet files: give one of them")
    if not tables and not images:
        raise ConfigError(f"{url} has no picture ({', '.join(IMAGES)}) and no Parquet file in it")
    cut = [tuple(images[start : start + size]) for start in range(0, len(images), size)]
    every = [Shard(number, names) for number, names in enumerate(cut)]
    for name in tables:
        with system.open(name, "rb") as handle:
            about = _table(name, handle).metadata
        for group in range(about.num_row_groups):
            rows = about.row_group(group).num_rows
            if rows > MOST_ROWS:
                raise ConfigError(
                    f"{name} has row groups of {rows} rows, which a worker would have to hold whole: write it with "
                    f"row_group_size={size}"
                )
            for first in range(0, rows, size):
                every.append(Shard(len(every), (name,), group, first, min(size, rows - first)))
    return every, hashlib.sha256(json.dumps(files).encode()).hexdigest()


def cells(system: fsspec.AbstractFileSystem, shard: Shard, pixel_size_um: float) -> Iterator[Cell]:
    """Its pictures; a file that is there and cannot be read is a cell with a fault. Raises OSError, ConfigError."""
    if shard.row_group < 0:
        for name in shard.names:
            try:
                yield Cell(name, system.cat_file(name), pixel_size_um)
            except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
                yield Cell(name, b"", pixel_size_um, f"cannot be read: {error.strerror or type(error).__name__}")
        return
    (name,) = shard.names
    with system.open(name, "rb") as handle:
        table = _table(name, handle).read_row_group(shard.row_group, use_threads=False).slice(shard.first, shard.rows)
    columns = {column: table.column(column) for column in table.column_names}
    for row in range(table.num_rows):
        said = columns["name"][row].as_py() if "name" in columns else f"{name}#{shard.row_group}.{shard.first + row}"
        size = columns["pixel_size_um"][row].as_py() if "pixel_size_um" in columns else None
        yield Cell(str(said), columns[IMAGE][row].as_py() or b"", pixel_size_um if size is None else float(size))


def score(
    predictor: Predictor, every: Iterator[Cell], *, kept: bool = False, embedding: bool = False
) -> tuple[pa.Table, pa.Table]:
    """Answers, one a distinct picture, and what was rejected. The answers are those that the service gives.

    Raises IdentityError when the graph's row check is not that of the picture.
    """
    answers: list[dict[str, Any]] = []
    rejected: list[dict[str, str]] = []
    seen: set[str] = set()
    waiting: list[tuple[Cell, Pixels, str]] = []
    field = predictor.manifest.field

    def answer() -> None:
        if waiting:
            answers.extend(_answers(predictor, waiting, embedding=embedding))
            waiting.clear()

    for cell in every:
        if cell.fault:
            rejected.append({"name": cell.name, "reason": cell.fault})
            continue
        try:
            pixels = _as_kept(cell, predictor) if kept else load_field(cell.data, field, cell.pixel_size_um)
        except BlastwatchError as error:
            rejected.append({"name": cell.name, "reason": str(error)})
            continue
        digest = pixels_sha256(pixels)
        if digest in seen:
            continue
        seen.add(digest)
        waiting.append((cell, pixels, digest))
        if len(waiting) == BATCH:
            answer()
    answer()
    return (
        pa.Table.from_pylist(answers, schema=schema(predictor, embedding=embedding)),
        pa.Table.from_pylist(rejected, schema=pa.schema([("name", pa.string()), ("reason", pa.string())])),
    )


def schema(predictor: Predictor, *, embedding: bool) -> pa.Schema:
    """Of the answers."""
    fields = [
        ("pixels_sha256", pa.string()),
        ("image_sha256", pa.string()),
        ("name", pa.string()),
        ("label", pa.string()),
        ("malignant_probability", pa.float64()),
        ("refer", pa.bool_()),
        ("refer_reasons", pa.list_(pa.string())),
        ("ood_score", pa.float32()),
        ("model_version", pa.string()),
        *((f"p_{label}", pa.float32()) for label in predictor.manifest.labels),
    ]
    if embedding:
        fields.append(("embedding", pa.list_(pa.float32())))
    return pa.schema(fields)


def _answers(
    predictor: Predictor, waiting: Sequence[tuple[Cell, Pixels, str]], *, embedding: bool
) -> Iterator[dict[str, Any]]:
    batch = np.stack([pixels for _, pixels, _ in waiting])
    outputs = predictor.predict(batch)
    if len(outputs.row_check) != len(batch) or not np.array_equal(outputs.row_check, row_check(batch)):
        raise IdentityError
    labels = predictor.manifest.labels
    for row, (cell, _, digest) in enumerate(waiting):
        shares: npt.NDArray[np.float32] = outputs.probabilities[row]
        decision = decide(predictor.manifest, shares, float(outputs.ood_score[row]), cell.pixel_size_um > 0)
        yield {
            "pixels_sha256": digest,
            "image_sha256": image_sha256(cell.data),
            "name": cell.name,
            "label": decision.label,
            "malignant_probability": decision.malignant_probability,
            "refer": decision.refer,
            "refer_reasons": list(decision.reasons),
            "ood_score": outputs.ood_score[row],
            "model_version": predictor.version,
            **{f"p_{label}": share for label, share in zip(labels, shares, strict=True)},
            **({"embedding": outputs.embedding[row].tolist()} if embedding else {}),
        }


def _as_kept(cell: Cell, predictor: Predictor) -> Pixels:
    """A kept picture is what a model saw, and nothing is done to it again."""
    pixels = decode(cell.data)
    field = predictor.manifest.field
    if pixels.shape[:2] != (field.height, field.width):
        raise BadImage(f"kept as {pixels.shape[1]} × {pixels.shape[0]}, the model sees {field.width} × {field.height}")
    return pixels


def put(system: fsspec.AbstractFileSystem, path: str, table: pa.Table) -> None:
    """Write a Parquet file that is there whole or not at all. Raises OSError."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    put_bytes(system, path, buffer.getvalue())


def put_bytes(system: fsspec.AbstractFileSystem, path: str, data: bytes) -> None:
    """The same for any content: a bucket does it by itself, a folder by a rename."""
    if "file" not in _protocols(system):
        system.pipe_file(path, data)
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(Path(path), data)


def rows_of(system: fsspec.AbstractFileSystem, path: str) -> int:
    """How many rows a part has."""
    return int(pq.read_metadata(pa.BufferReader(system.cat_file(path))).num_rows)


def hashes(system: fsspec.AbstractFileSystem, path: str) -> list[str]:
    """The pixel hashes of a part, in its order."""
    column: list[str] = part(system, path, ["pixels_sha256"]).column(0).to_pylist()
    return column


def part(system: fsspec.AbstractFileSystem, path: str, columns: list[str] | None = None) -> pa.Table:
    """A part, read at once: it is small, and no thread of Arrow's is left with a file when the command ends."""
    return pq.read_table(pa.BufferReader(system.cat_file(path)), columns=columns, use_threads=False)


def distinct(system: fsspec.AbstractFileSystem, parts: Sequence[str], prefixes: Sequence[str]) -> int:
    """Leave each pixel hash where it comes first; → how many rows went. What is done again changes nothing.

    prefixes: of the hashes, one at a time, so that memory holds a share of them.
    """
    gone = 0
    for prefix in prefixes:
        seen: set[str] = set()
        for path in parts:
            again = set()
            for row, name in enumerate(hashes(system, path)):
                if name.startswith(prefix):
                    if name in seen:
                        again.add(row)
                    seen.add(name)
            if again:
                table = part(system, path)
                put(system, path, table.take([row for row in range(table.num_rows) if row not in again]))
                gone += len(again)
    return gone


def _protocols(system: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    said = system.protocol
    return (said,) if isinstance(said, str) else tuple(said)


def _binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _table(name: str, handle: Any) -> pq.ParquetFile:
    try:
        found = pq.ParquetFile(handle)
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{name} is no Parquet file: {error}") from None
    if IMAGE not in found.schema_arrow.names or not _binary(found.schema_arrow.field(IMAGE).type):
        raise ConfigError(f"{name} has no column {IMAGE!r} with the pictures' bytes")
    return found
