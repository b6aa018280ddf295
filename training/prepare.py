"""Stage `prepare`: the sources of params.yaml → decoded cells of one field, their manifest, and sheets to look at.

Every picture goes through `service.contract.image`, as in the service. Written:

    prepared/cells/<pixels_sha256>.png   the decoded pixels
    prepared/manifest.parquet            one row a cell, see COLUMNS
    prepared/dataset.json                labels in order, which are malignant, counts, notes
    reports/contact_sheet.png            examples of each label
    reports/near_duplicates.png          examples of near-duplicates
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryFile

import numpy as np
import pandas as pd

from service.contract.errors import CommandParser, ConfigError, run_command
from service.contract.files import aside_of, replace_dir, write_atomic
from service.contract.image import Field, Pixels, decode
from service.contract.statistics import STATISTICS
from training import grouping
from training.datasets import Dataset, DatasetError, open_datasets
from training.datasets.contact_sheet import contact_sheet, evenly
from training.decoding import CELLS, cores, decoded
from training.duplicates import DETAIL, near_duplicates
from training.io import read_params, write_json, write_parquet
from training.relabel import readers_win

PREPARED = Path("prepared")
CONTACT_SHEET = Path("reports/contact_sheet.png")
TWINS_SHEET = Path("reports/near_duplicates.png")
COLUMNS = (
    "path",
    "sha256",
    "pixels_sha256",
    "label",
    "patient",
    "site",
    "stain",
    "scanner",
    "pixel_size_um",
    "source",
    "order",
    "width",
    "height",
    "file_bytes",
    "group",
    "near",
    "unit",
    *STATISTICS,
)
"""path: relative to the manifest's folder. sha256: of the source's bytes. pixel_size_um, width and height (pixels),
file_bytes: of the source, pixel_size_um 0 unknown. order: position in its set. group: the same for exact copies.
near: the same for near-duplicates. unit: what must not be divided by a split (training/grouping.py)."""
_EXAMPLES = 20
_TWIN_GROUPS = 12


@dataclass(frozen=True)
class Prepared:
    """What `prepare` found: the manifest's rows, and what dataset.json says."""

    manifest: pd.DataFrame
    summary: dict[str, object]


def prepare(
    datasets: Sequence[Dataset],
    labels: Sequence[str],
    field: Field,
    cells_dir: Path,
    *,
    block: int = 1,
    workers: int = 1,
    quiet: bool = False,
) -> Prepared:
    """Decode every cell of `datasets` to `field` and write it to the folder `cells_dir`, in one step.

    `block` consecutive cells of one label make a unit where nobody is named. Raises DatasetError for an unknown label,
    a label without cells, a picture that cannot be read, and one picture with two labels; each names the source.
    Nothing is left behind then.
    """
    aside = aside_of(cells_dir)
    aside.mkdir(parents=True)
    try:
        with TemporaryFile(dir=cells_dir.parent) as details:
            table = decoded(datasets, labels, field, aside, details, workers=workers, quiet=quiet)
            _refuse_missing(labels, table)
            details.flush()
            detail = np.memmap(details, dtype=np.int8, mode="r", shape=(len(table), DETAIL))
            table = table.assign(
                path=f"{CELLS}/" + table["pixels_sha256"] + ".png", group="pixels:" + table["pixels_sha256"].str[:32]
            )
            table, corrected = readers_win(table)
            table, copies = grouping.without_copies(table)
            named = (table["patient"] != "").to_numpy()
            pairs = near_duplicates(table["phash"].to_numpy(), detail, table.index.to_numpy(dtype=np.int64), named)
        table = grouping.with_units(table.reset_index(drop=True), pairs, block)
        notes = [f"{dataset.name}: {note}" for dataset in datasets for note in dataset.notes]
        summary = _summary(datasets, labels, table, [*notes, *corrected, *grouping.notes(table, copies, block)])
        replace_dir(aside, cells_dir)
    finally:
        rmtree(aside, ignore_errors=True)
    return Prepared(table[list(COLUMNS)], summary)


def _refuse_missing(labels: Sequence[str], table: pd.DataFrame) -> None:
    if missing := [label for label in labels if not (table["label"] == label).any()]:
        raise DatasetError(
            f"no cell has the label {', '.join(missing)}: take it out of data.labels in params.yaml, or add a source "
            "that has it"
        )


def _summary(
    datasets: Sequence[Dataset], labels: Sequence[str], manifest: pd.DataFrame, notes: list[str]
) -> dict[str, object]:
    counts = Counter(manifest["label"])
    malignant = {label for dataset in datasets for label in dataset.malignant}
    with_patient = manifest[(manifest["patient"] != "").to_numpy()]
    return {
        "labels": list(labels),
        "malignant": [label for label in labels if label in malignant],
        "scale_known": all(dataset.scale_known for dataset in datasets),
        "notes": notes,
        "cells": len(manifest),
        "counts": {label: counts[label] for label in labels},
        "counts_by_site": {
            site: {label: int((rows["label"] == label).sum()) for label in labels}
            for site, rows in manifest.groupby("site", sort=True)
        },
        "units": int(manifest["unit"].nunique()),
        "near_duplicates": int((manifest.groupby("near")["near"].transform("size") > 1).sum()),
        "patients": int(with_patient["patient"].nunique()),
        "patients_by_label": {
            label: int(with_patient.loc[with_patient["label"] == label, "patient"].nunique()) for label in labels
        },
    }


def examples(
    manifest: pd.DataFrame, prepared: Path, labels: Sequence[str], field: Field, *, scale_known: bool
) -> bytes:
    """The contact sheet (PNG bytes) of a manifest whose cells lie under `prepared`."""
    pictures: dict[str, list[Pixels]] = {}
    captions = {}
    for label in labels:
        rows = manifest[manifest["label"] == label]
        paths = rows["path"].tolist()
        chosen = [paths[k] for k in evenly(len(rows), _EXAMPLES)]
        pictures[label] = [decode((prepared / path).read_bytes()) for path in chosen]
        captions[label] = f"{label}: {len(rows)} cells of {rows['unit'].nunique()} patients or pictures"
    return contact_sheet(pictures, captions=captions, field_um=field.field_um if scale_known else 0.0)


def twins(manifest: pd.DataFrame, prepared: Path) -> bytes:
    """A sheet (PNG bytes) of the first groups of near-duplicates; without any it says so."""
    size = manifest.groupby("near", sort=False)["near"].transform("size")
    pictures: dict[str, list[Pixels]] = {}
    captions = {}
    for name, rows in list(manifest[(size > 1).to_numpy()].groupby("near", sort=True))[:_TWIN_GROUPS]:
        first = rows.iloc[:10]
        pictures[str(name)] = [decode((prepared / path).read_bytes()) for path in first["path"]]
        captions[str(name)] = f"{len(rows)} near-duplicates: {', '.join(first['source'])}"
    return contact_sheet(pictures or {"none": []}, captions=captions or {"none": "no near-duplicates"})


def field_of(values: Mapping[str, object]) -> Field:
    """Section `field` of params.yaml as a Field.

    Raises ConfigError for other than positive numbers, crop at most 1, and for `reduced` neither true nor false.
    """
    names = {"height": int, "width": int, "field_um": float, "crop": float}
    numbers = {"crop": 1.0, **values}
    reduced = numbers.pop("reduced", False)
    if not isinstance(reduced, bool):
        raise ConfigError(f"params.yaml: field.reduced is {reduced!r}: give true or false")
    wrong = [n for n, v in numbers.items() if isinstance(v, bool) or not isinstance(v, int | float) or not v > 0]
    if wrong or set(numbers) != set(names) or float(str(numbers["crop"])) > 1:
        raise ConfigError(
            "params.yaml: field needs height, width (pixels) and field_um (µm), all above 0, and crop (a share, up "
            f"to 1), not {dict(values)}"
        )
    return Field(**{name: kind(numbers[name]) for name, kind in names.items()}, reduced=reduced)


def main(argv: list[str] | None = None) -> int:
    """Decode the cells of params.yaml's data.sources into prepared/, and draw reports/contact_sheet.png."""
    CommandParser(prog="python -m training.prepare", description=main.__doc__).parse_args(argv)
    data, field = read_params("data"), field_of(read_params("field"))
    labels, sources = data.get("labels"), data.get("sources")
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise ConfigError("params.yaml: data.labels must be a list of names")
    if len(set(labels)) != len(labels):
        raise ConfigError("params.yaml: data.labels names a label twice")
    if not isinstance(sources, list) or not sources or not all(isinstance(source, dict) for source in sources):
        raise ConfigError("params.yaml: data.sources must be a list with at least one entry {kind: …}")
    block = data.get("block", 1)
    if not isinstance(block, int) or isinstance(block, bool) or block < 1:
        raise ConfigError(f"params.yaml: data.block is {block!r}: it is a number of consecutive cells, at least 1")
    done = prepare(open_datasets(sources), labels, field, PREPARED / CELLS, block=block, workers=cores())
    sheet = examples(done.manifest, PREPARED, labels, field, scale_known=bool(done.summary["scale_known"]))
    write_parquet(PREPARED / "manifest.parquet", done.manifest)
    write_json(PREPARED / "dataset.json", done.summary)
    write_atomic(CONTACT_SHEET, sheet)
    write_atomic(TWINS_SHEET, twins(done.manifest, PREPARED))
    for note in done.summary["notes"] if isinstance(done.summary["notes"], list) else []:
        print(note, file=sys.stderr if note.startswith("WARNING") else sys.stdout)
    print(f"{done.summary['cells']} cells of {done.summary['patients']} patients: {done.summary['counts']}")
    return 0


if __name__ == "__main__":
    run_command(main)
