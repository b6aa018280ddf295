"""Which reviewed pictures have a label that counts, and where each label comes from.

A label counts when its readers agree or an adjudicator decided (service/contract/reading.py). The file PROVENANCE of an
export has a JSON object for each of its cells, ordered by `pixels_sha256`:

    record_id, label, sampled    as in the table
    how                          single, agreed or adjudicated; `unknown` for a cell of an export before this file
    readers                      [{reader, label, time}]: each reader's last word, oldest first
    asked                        why it was on work lists; ["unasked"] when a reader chose it
"""

import json
from collections.abc import Mapping
from pathlib import Path

from service.contract.files import write_atomic
from service.contract.reading import UNASKED, Asked, Picture, pictures
from service.contract.store import Store
from training.datasets import DatasetError
from training.datasets.carried import Row

PROVENANCE = "provenance.jsonl"


def read_pictures(store: Store, asked: Mapping[str, Asked]) -> tuple[dict[str, Picture], set[str]]:
    """{pixels_sha256: picture} of those that are settled, and the names of the others. Raises StoreUnavailable."""
    found = {picture.stored.record.pixels_sha256: picture for picture in pictures(store, asked)}
    settled = {name: picture for name, picture in found.items() if picture.reading.settled}
    return settled, found.keys() - settled.keys()


def table_row(picture: Picture, size: object) -> Row:
    """The cell as the export's table has it; `size`: µm of a pixel, if the sender knew the scale."""
    record, reading = picture.stored.record, picture.reading
    return {
        "pixels_sha256": record.pixels_sha256,
        "label": reading.decisive.label,
        "patient": record.patient,
        "key_id": record.key_id,
        "site": record.site,
        "stain": record.stain,
        "scanner": record.scanner,
        "pixel_size_um": size if record.pixel_size_um > 0 else 0.0,
        "record_id": record.record_id,
        "model_version": record.model_version,
        "role": reading.decisive.role,
        "reviewed": reading.decisive.time,
        "sampled": reading.sampled,
    }


def provenance(rows: Mapping[str, Row], read: Mapping[str, Picture], earlier: Mapping[str, Row]) -> str:
    """The file's text for an export of these rows; what the store no longer has is taken over from `earlier`."""
    lines = []
    for name in sorted(rows):
        row = rows[name]
        entry: Row = {key: row[key] for key in ("pixels_sha256", "record_id", "label", "sampled")}
        picture = read.get(name)
        if picture is not None and picture.reading.decisive.time == row["reviewed"]:
            readers = [{"reader": r.role, "label": r.label, "time": r.time} for r in picture.reading.readers]
            entry |= {
                "how": picture.reading.how,
                "readers": readers,
                "asked": list(picture.asked.reasons) or [UNASKED],
            }
        else:
            known = earlier.get(name, {})
            entry |= {"how": known.get("how", "unknown"), "readers": known.get("readers", [_only(row)])}
            entry |= {"asked": known.get("asked", [UNASKED])}
        entry["sampled"] = bool(entry["sampled"])
        lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
    return "".join(lines)


def read_provenance(folder: Path) -> dict[str, Row]:
    """{pixels_sha256: entry} of an export; empty when it is from before there was the file. Raises DatasetError."""
    path = folder / PROVENANCE
    if not path.is_file():
        return {}
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {str(entry["pixels_sha256"]): entry for entry in entries}
    except (OSError, ValueError, KeyError, TypeError):
        raise DatasetError(f"reviewed: {path} is damaged: bring it back with `dvc checkout`") from None


def write_provenance(folder: Path, text: str) -> None:
    """Beside the table."""
    write_atomic(folder / PROVENANCE, text)


def _only(row: Row) -> Row:
    return {"reader": row["role"], "label": row["label"], "time": row["reviewed"]}
