"""Cells that readers labelled in service: exported from the review store into a folder, and read back as a data set.

    python -m training.datasets.reviewed export --store URL --pixels DIR --out data/reviewed/cells

The folder (cells.parquet and images/<pixels_sha256>.png) is what DVC versions. A cell's label is the reader's, never
the model's own answer, which is not even exported: a model must not learn from itself.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from shutil import rmtree

import numpy as np
import pandas as pd

from service.contract.errors import CommandParser, ConfigError, NotFound, run_command
from service.contract.files import aside_of, replace_dir
from service.contract.image import encode_png
from service.contract.pixels import PixelStore
from service.contract.records import ReviewRecord
from service.contract.store import Store, StoredPrediction
from training.datasets import FAB_BLASTS, DatasetError, SourceCell
from training.io import read_parquet, write_parquet

TABLE = "cells.parquet"
IMAGES = "images"
COLUMNS = (
    "pixels_sha256",
    "label",
    "patient",
    "key_id",
    "site",
    "stain",
    "scanner",
    "pixel_size_um",
    "record_id",
    "model_version",
    "role",
    "reviewed",
    "sampled",
)
"""pixel_size_um is the picture's own, 0 when the sender knew no scale; role and reviewed (time) are the reader's;
model_version answered the cell; sampled: drawn at random for review."""

Pair = tuple[StoredPrediction, ReviewRecord]


class Reviewed:
    """The exported cells under `root`."""

    def __init__(self, root: Path) -> None:
        """Reads cells.parquet. Raises DatasetError when it is missing or not an export."""
        self.name = "reviewed"
        self._root = root
        if not (root / TABLE).is_file():
            raise DatasetError(
                f"reviewed: there is no {root / TABLE}: run `python -m training.datasets.reviewed export "
                f"--out {root}`, or `dvc pull` if the export is versioned"
            )
        table = read_parquet(root / TABLE)
        if tuple(table.columns) != COLUMNS or table.empty:
            raise DatasetError(f"reviewed: {root / TABLE} is not an export of reviewed cells: export it again")
        known = table["pixel_size_um"] > 0
        self.scale_known = bool(known.any())
        self.notes = [f"{len(table)} cells labelled by readers, exported from the review store"]
        # A cell without a scale would teach a model that goes by size the wrong sizes.
        if self.scale_known and not known.all():
            self.notes.append(f"{int((~known).sum())} reviewed cells left out: their scale is not known")
            table = table[known]
        self._table = table
        self.labels: tuple[str, ...] = tuple(sorted(set(table["label"])))
        self.malignant: tuple[str, ...] = tuple(label for label in FAB_BLASTS if label in self.labels)

    def cells(self) -> Iterator[SourceCell]:
        """In the table's order. Raises DatasetError for a picture that is missing."""
        for row in self._table.itertuples(index=False):
            path = self._root / IMAGES / f"{row.pixels_sha256}.png"
            try:
                image = path.read_bytes()
            except OSError:
                raise DatasetError(f"reviewed: {path} cannot be read: export the reviewed cells again") from None
            yield SourceCell(
                image=image,
                label=str(row.label),
                patient=str(row.patient),
                site=str(row.site),
                stain=str(row.stain),
                scanner=str(row.scanner),
                pixel_size_um=float(row.pixel_size_um),  # type: ignore[arg-type]
                source=f"reviewed/{row.record_id}",
                fitted=True,
            )


def open_dataset(options: Mapping[str, object]) -> Reviewed:
    """From {root: folder}. Raises ConfigError for other options, DatasetError when the export is not there."""
    if set(options) != {"root"} or not isinstance(options["root"], str):
        raise ConfigError(f"reviewed takes one option, root (a folder), not {sorted(options)}")
    return Reviewed(Path(options["root"]))


def newest_per_picture(pairs: list[Pair]) -> list[Pair]:
    """One review for each picture, the newest: readers may have met the same pixels under several records.

    Ordered by picture and not by arrival, so that the same reviews give the same export from any store.
    """
    newest: dict[str, Pair] = {}
    for stored, review in pairs:
        picture = stored.record.pixels_sha256
        held = newest.get(picture)
        if held is None or (held[1].time, held[1].review_id) < (review.time, review.review_id):
            newest[picture] = stored, review
    return [newest[picture] for picture in sorted(newest)]


def export(store: Store, pixels: PixelStore, out: Path, *, field_um: float) -> tuple[int, int]:
    """Write the reviewed cells whose pixels are kept to the folder `out`, in one step; → (written, pixels gone).

    Kept pixels show the model's field: `field_um` across their width. Test traffic and disputed records stay out.
    Raises DatasetError when there is nothing to export; StoreUnavailable as the store does.
    """
    rows: list[dict[str, object]] = []
    gone = 0
    aside = aside_of(out)
    (aside / IMAGES).mkdir(parents=True)
    try:
        for stored, review in newest_per_picture(store.reviewed(with_pixels=True)):
            record = stored.record
            try:
                picture = pixels.load(record.pixels_sha256)
            except NotFound:
                gone += 1
                continue
            (aside / IMAGES / f"{record.pixels_sha256}.png").write_bytes(encode_png(picture))
            rows.append(
                {
                    "pixels_sha256": record.pixels_sha256,
                    "label": review.label,
                    "patient": record.patient,
                    "key_id": record.key_id,
                    "site": record.site,
                    "stain": record.stain,
                    "scanner": record.scanner,
                    "pixel_size_um": field_um / picture.shape[1] if record.pixel_size_um > 0 else 0.0,
                    "record_id": record.record_id,
                    "model_version": record.model_version,
                    "role": review.role,
                    "reviewed": review.time,
                    "sampled": review.sampled,
                }
            )
        if not rows:
            raise DatasetError(
                f"no reviewed cells with pixels to export ({gone} had pixels that are gone): review some, and see that "
                "BLASTWATCH_IMAGE_RETENTION keeps pixels"
            )
        write_parquet(aside / TABLE, pd.DataFrame(rows, columns=list(COLUMNS)).astype({"sampled": np.bool_}))
        replace_dir(aside, out)
    finally:
        rmtree(aside, ignore_errors=True)
    return len(rows), gone


def main(argv: list[str] | None = None) -> int:
    """Export the cells that readers labelled, with their pixels, as a data set that DVC can version."""
    parser = CommandParser(prog="python -m training.datasets.reviewed", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("export", help="write reviewed cells to a folder", description=main.__doc__)
    command.add_argument(
        "--store",
        default=os.environ.get("BLASTWATCH_STORE_URL") or "sqlite:///var/store.db",
        help="database of records and reviews (default: BLASTWATCH_STORE_URL, else %(default)s)",
    )
    command.add_argument(
        "--pixels",
        type=Path,
        default=Path(os.environ.get("BLASTWATCH_PIXELS_DIR") or "var/pixels"),
        help="folder of kept pixels (default: BLASTWATCH_PIXELS_DIR, else %(default)s)",
    )
    command.add_argument(
        "--out", type=Path, default=Path("data/reviewed/cells"), help="folder to write (default: %(default)s)"
    )
    command.add_argument(
        "--field-um",
        type=float,
        default=20.0,
        help="µm that kept pixels show across their width (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    store = Store(options.store)
    try:
        written, gone = export(store, PixelStore(options.pixels), options.out, field_um=options.field_um)
    finally:
        store.close()
    lost = f"; {gone} more were reviewed, but their pixels are no longer kept" if gone else ""
    print(f"{written} reviewed cells in {options.out}{lost}")
    return 0


if __name__ == "__main__":
    run_command(main)
