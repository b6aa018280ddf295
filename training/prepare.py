"""Stage `prepare`: the sources of params.yaml → decoded cells of one field, their manifest, and a sheet to look at.

Every picture goes through `service.contract.image.load_field`, as in the service. Written:

    prepared/cells/<pixels_sha256>.png   the decoded pixels
    prepared/manifest.parquet            one row a cell, see COLUMNS
    prepared/dataset.json                labels in order, which are malignant, counts, notes
    reports/contact_sheet.png            examples of each label
"""

import os
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import rmtree
from typing import Any

import pandas as pd
from tqdm import tqdm

from service.contract.errors import CommandParser, ConfigError, InvalidRequest, run_command
from service.contract.files import aside_of, replace_dir, write_atomic
from service.contract.image import Field, Pixels, decode, encode_png, image_sha256, load_field, pixels_sha256
from service.contract.statistics import STATISTICS, statistics
from training.datasets import Dataset, DatasetError, SourceCell, open_datasets
from training.datasets.contact_sheet import contact_sheet, evenly
from training.io import read_params, write_json, write_parquet

PREPARED = Path("prepared")
CONTACT_SHEET = Path("reports/contact_sheet.png")
CELLS = "cells"
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
    "group",
    "unit",
    *STATISTICS,
)
"""path: relative to the manifest's folder. sha256: of the source's bytes. pixel_size_um: of the source, 0 unknown.
group: the same for exact copies. unit: what must not be divided by a split: the patient, else the group."""
_CHUNK = 32
_EXAMPLES = 20


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
    workers: int = 1,
    quiet: bool = False,
) -> Prepared:
    """Decode every cell of `datasets` to `field` and write it to the folder `cells_dir`, in one step.

    Raises DatasetError for an unknown label, a label without cells, a picture that cannot be read, and one picture with
    two labels; each names the source. Nothing is left behind then.
    """
    aside = aside_of(cells_dir)
    aside.mkdir(parents=True)
    try:
        rows: list[dict[str, Any]] = []
        for dataset in datasets:
            rows += _decoded(dataset, labels, field, aside, workers, quiet)
        rows, copies = _without_copies(rows)
        manifest = pd.DataFrame(rows, columns=list(COLUMNS))
        summary = _summary(datasets, labels, manifest, copies)
        replace_dir(aside, cells_dir)
    finally:
        rmtree(aside, ignore_errors=True)
    return Prepared(manifest, summary)


def _decoded(
    dataset: Dataset, labels: Sequence[str], field: Field, folder: Path, workers: int, quiet: bool
) -> Iterator[dict[str, Any]]:
    cells = _checked(dataset, labels)
    progress = tqdm(desc=f"prepare {dataset.name}", unit=" cells", disable=True if quiet else None)
    with progress:
        for part in _in_order(cells, field, folder, workers):
            progress.update(len(part))
            yield from part


def _checked(dataset: Dataset, labels: Sequence[str]) -> Iterator[SourceCell]:
    for cell in dataset.cells():
        if cell.label not in labels:
            raise DatasetError(
                f"{cell.source} has the label {cell.label!r}, which data.labels in params.yaml lacks "
                f"({', '.join(labels)}): add it there, or correct the source"
            )
        yield cell


def _in_order(cells: Iterable[SourceCell], field: Field, folder: Path, workers: int) -> Iterator[list[dict[str, Any]]]:
    """Rows of each chunk, in the order of `cells` however many workers there are; few chunks are in memory at once."""
    chunks = _chunks(cells)
    if workers <= 1:
        for chunk in chunks:
            yield _decode_chunk(chunk, field, folder)
        return
    with ProcessPoolExecutor(workers) as pool:
        waiting: deque[Future[list[dict[str, Any]]]] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(_decode_chunk, chunk, field, folder))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _chunks(cells: Iterable[SourceCell]) -> Iterator[list[SourceCell]]:
    chunk: list[SourceCell] = []
    for cell in cells:
        chunk.append(cell)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _decode_chunk(chunk: list[SourceCell], field: Field, folder: Path) -> list[dict[str, Any]]:
    return [_decode_cell(cell, field, folder) for cell in chunk]


def _decode_cell(cell: SourceCell, field: Field, folder: Path) -> dict[str, Any]:
    try:
        pixels = load_field(cell.image, replace(field, crop=1.0) if cell.fitted else field, cell.pixel_size_um)
    except InvalidRequest as error:
        raise DatasetError(f"{cell.source}: {error}; correct or remove it") from None
    name = pixels_sha256(pixels)
    # Equal pixels have equal bytes, so that it does not matter which worker writes last.
    (folder / f"{name}.png").write_bytes(encode_png(pixels))
    described = {key: value for key, value in asdict(cell).items() if key != "image"}
    group = f"pixels:{name[:32]}"
    return {
        "path": f"{CELLS}/{name}.png",
        "sha256": image_sha256(cell.image),
        "pixels_sha256": name,
        **described,
        "group": group,
        "unit": cell.patient or group,
        **statistics(pixels),
    }


def _without_copies(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Rows without repeats of the same pixels of the same unit; copies under two patients stay, as one group."""
    first: dict[str, dict[str, Any]] = {}
    kept: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        other = first.setdefault(row["pixels_sha256"], row)
        if other["label"] != row["label"]:
            raise DatasetError(
                f"{other['source']} and {row['source']} are the same picture, but labelled {other['label']!r} and "
                f"{row['label']!r}: correct one, or remove both"
            )
        kept.setdefault((row["pixels_sha256"], row["unit"]), row)
    return list(kept.values()), len(rows) - len(kept)


def _summary(
    datasets: Sequence[Dataset], labels: Sequence[str], manifest: pd.DataFrame, copies: int
) -> dict[str, object]:
    counts = Counter(manifest["label"])
    if missing := [label for label in labels if not counts[label]]:
        raise DatasetError(
            f"no cell has the label {', '.join(missing)}: take it out of data.labels in params.yaml, or add a source "
            "that has it"
        )
    notes = [f"{dataset.name}: {note}" for dataset in datasets for note in dataset.notes]
    if copies:
        notes.append(f"{copies} exact copies left out (the same pixels of one patient, or of nobody named)")
    anonymous = manifest["patient"] == ""
    if anonymous.any():
        notes.append(
            f"WARNING: {int(anonymous.sum())} cells of {', '.join(sorted(set(manifest.loc[anonymous, 'site'])))} name "
            "no patient. Each picture is a unit of its own, so cells of one person may be both trained on and tested "
            "with: figures on them are too good"
        )
    malignant = {label for dataset in datasets for label in dataset.malignant}
    with_patient = manifest[~anonymous]
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


def field_of(values: Mapping[str, object]) -> Field:
    """Section `field` of params.yaml as a Field. Raises ConfigError when it is not positive numbers, or crop above 1."""
    names = {"height": int, "width": int, "field_um": float, "crop": float}
    numbers = {"crop": 1.0, **values}
    wrong = [n for n, v in numbers.items() if isinstance(v, bool) or not isinstance(v, int | float) or not v > 0]
    if wrong or set(numbers) != set(names) or float(str(numbers["crop"])) > 1:
        raise ConfigError(
            f"params.yaml: field needs height, width (pixels) and field_um (µm), all above 0, and crop (a share, at most "
            f"1), not {dict(values)}"
        )
    return Field(**{name: kind(numbers[name]) for name, kind in names.items()})


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
    datasets = open_datasets(sources)
    done = prepare(datasets, labels, field, PREPARED / CELLS, workers=os.cpu_count() or 1)
    sheet = examples(done.manifest, PREPARED, labels, field, scale_known=bool(done.summary["scale_known"]))
    write_parquet(PREPARED / "manifest.parquet", done.manifest)
    write_json(PREPARED / "dataset.json", done.summary)
    write_atomic(CONTACT_SHEET, sheet)
    for note in done.summary["notes"] if isinstance(done.summary["notes"], list) else []:
        print(note, file=sys.stderr if note.startswith("WARNING") else sys.stdout)
    print(f"{done.summary['cells']} cells of {done.summary['patients']} patients: {done.summary['counts']}")
    return 0


if __name__ == "__main__":
    run_command(main)
