"""Cells that readers labelled in service: exported from the review store into a folder, and read back as a data set.

    python -m training.datasets.reviewed export --store URL --pixels DIR --out data/reviewed/cells

The folder (cells.parquet, provenance.jsonl and images/<pixels_sha256>.png) is what DVC versions. A cell's label is what
its readers agree on or an adjudicator decided, never the model's own answer, which is not even exported: a model must
not learn from itself.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from shutil import rmtree
from typing import NamedTuple

import numpy as np
import pandas as pd

from service.contract.errors import CommandParser, ConfigError, NotFound, run_command
from service.contract.files import aside_of, replace_dir
from service.contract.image import encode_png
from service.contract.ledger import Ledger
from service.contract.pixels import PixelStore
from service.contract.reading import EXPORTED, Asked, asked_for
from service.contract.store import Store, StoredPrediction
from training.datasets import FAB_BLASTS, DatasetError, SourceCell
from training.datasets.carried import Row, earlier_rows, tested_pictures
from training.datasets.readings import provenance, read_pictures, read_provenance, table_row, write_provenance
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
NOBODY: Mapping[str, Asked] = {}


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


class Exported(NamedTuple):
    """Cells in the export; those among them that only an earlier export had the pixels of; reviewed cells left out, for
    their pixels are gone, because the test set has them under another source's label, and because their readers are not
    done: they disagree, or one is missing.
    """

    written: int
    carried: int
    gone: int
    tested: int
    unsettled: int


def export(
    store: Store,
    pixels: PixelStore,
    out: Path,
    *,
    field_um: float,
    prepared: Path | None = None,
    fresh: bool = False,
    asked: Mapping[str, Asked] = NOBODY,
) -> Exported:
    """Write the reviewed cells whose pixels are kept, here or in the export that `out` has, to `out`, in one step.

    Kept pixels show the model's field: `field_um` across their width. Test traffic and disputed records stay out.
    `fresh` leaves out the cells that only `out` has; `asked` says how many readers a cell needs. Pictures that the
    split in the folder `prepared` tests with keep the label that they are tested under. Raises DatasetError when there
    is nothing to export, or when `out` is something else; StoreUnavailable as the store does.
    """
    earlier = {} if fresh else {str(row["pixels_sha256"]): row for row in earlier_rows(out / TABLE, COLUMNS)}
    origins = {} if fresh else read_provenance(out)
    pictures, unsettled = read_pictures(store, asked)
    tested_with = tested_pictures(prepared) if prepared else {}
    rows: dict[str, Row] = {}
    gone = tested = carried = 0
    for name, picture in pictures.items():
        known = earlier.get(name)
        try:
            size: object = field_um / pixels.load(name).shape[1]
        except NotFound:
            if known is None:
                gone += 1
                continue
            size = known["pixel_size_um"]
        row = table_row(picture, size)
        rows[name] = known if known and str(known["reviewed"]) > str(row["reviewed"]) else row
    for name, row in earlier.items():
        if name not in rows and name not in unsettled and _may_stay(store.get(str(row["record_id"]))):
            rows[name] = row
    for name, test in tested_with.items():
        if name in rows and test.by_reader:
            rows[name] = {**rows[name], "label": test.label}
        elif rows.pop(name, None):
            tested += 1
    if not rows:
        raise DatasetError(
            f"no reviewed cells with pixels to export ({gone} had pixels that are gone, {len(unsettled)} wait for a "
            "reader or an adjudicator): review some, and see that BLASTWATCH_IMAGE_RETENTION keeps pixels"
        )
    aside = aside_of(out)
    (aside / IMAGES).mkdir(parents=True)
    try:
        for name in sorted(rows):
            try:
                image = encode_png(pixels.load(name))
            except NotFound:
                image, carried = _picture(out, name), carried + 1
            (aside / IMAGES / f"{name}.png").write_bytes(image)
        table = pd.DataFrame([rows[name] for name in sorted(rows)], columns=list(COLUMNS))
        write_parquet(aside / TABLE, table.astype({"sampled": np.bool_}))
        write_provenance(aside, provenance(rows, pictures, origins))
        replace_dir(aside, out)
    finally:
        rmtree(aside, ignore_errors=True)
    return Exported(len(rows), carried, gone, tested, len(unsettled))


def _may_stay(stored: StoredPrediction | None) -> bool:
    """Whether a cell of an earlier export stays: a store that has forgotten its record says nothing against it."""
    return stored is None or not (stored.disputed or stored.record.test)


def _picture(folder: Path, name: str) -> bytes:
    path = folder / IMAGES / f"{name}.png"
    try:
        return path.read_bytes()
    except OSError:
        raise DatasetError(
            f"reviewed: {path}, a cell of an earlier export, cannot be read: bring it back with `dvc checkout`, or "
            "start anew, without the cells of earlier exports, with --fresh"
        ) from None


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
    command.add_argument(
        "--prepared",
        type=Path,
        default=Path("prepared"),
        help="folder of the last split, whose test pictures keep their labels (default: %(default)s)",
    )
    command.add_argument("--fresh", action="store_true", help="leave out the cells that only earlier exports have")
    options = parser.parse_args(argv)
    store, ledger = Store(options.store), Ledger(options.store)
    try:
        done = export(
            store,
            PixelStore(options.pixels),
            options.out,
            field_um=options.field_um,
            prepared=options.prepared,
            fresh=options.fresh,
            asked=asked_for(ledger.rows(EXPORTED)),
        )
    finally:
        ledger.close()
        store.close()
    notes = [
        f"; {number} {what}"
        for number, what in (
            (done.carried, "of them are in earlier exports only, their pixels are no longer kept"),
            (done.gone, "more were reviewed, but their pixels are no longer kept"),
            (done.tested, "more are pictures of the test set, which keep the label that they are tested under"),
            (done.unsettled, "more wait for another reader or an adjudicator"),
        )
        if number
    ]
    print(f"{done.written} reviewed cells in {options.out}{''.join(notes)}")
    return 0


if __name__ == "__main__":
    run_command(main)
