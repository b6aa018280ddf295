"""What ALL-IDB1 and ALL-IDB2 have in common: where they come from, and names that say the label.

Labati, Piuri, Scotti: ALL-IDB: the acute lymphoblastic leukemia image database for image processing, ICIP 2011.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from training.datasets import DatasetError
from training.datasets.listing import Listed, entries, existing_root, pictures_of, some

HEALTHY, BLAST = "healthy", "blast"
LABELS = (HEALTHY, BLAST)
_CODES = {"0": HEALTHY, "1": BLAST}
OBTAIN = "ask its authors for a copy at https://homes.di.unimi.it/scotti/all, unpack it, and give the folder as root"
NOTE = "source: ALL-IDB, Labati et al., ICIP 2011; no patients are named"


def found_in(kind: str, root: str, folders: Sequence[str], endings: Sequence[str]) -> tuple[Path, list[Listed]]:
    """(root, its pictures ImNNN_L) of the first of `folders` that is there; a folder "" is the root itself.

    Raises DatasetError for a root without such a folder, or a picture whose name is another.
    """
    base = existing_root(kind, root, OBTAIN)
    expected = f"{folders[0]}/ImNNN_L{endings[0]} (L is 1 or 0)"
    for folder in folders:
        if not (base / folder).is_dir():
            continue
        names = pictures_of(entries(kind, base / folder)[1])
        if folder == "" and not any(_code(name, endings) for name in names):
            continue
        if not names:
            raise DatasetError(f"{kind}: {base / folder} has no pictures, expected {expected}: {OBTAIN}")
        if strange := [name for name in names if _code(name, endings) is None]:
            raise DatasetError(
                f"{kind}: {len(strange)} of {len(names)} pictures in {base / folder} are not named {expected}, so "
                f"their label is unknown: {some(strange)}; remove them, or get the set again"
            )
        inside = f"{folder}/" if folder else ""
        return base, [Listed(f"{inside}{name}", _CODES[_code(name, endings) or ""]) for name in names]
    there, _ = entries(kind, base)
    raise DatasetError(
        f"{kind}: {root} is not laid out like the set, expected {expected} below it, found "
        f"{some([f'{name}/' for name in there]) or 'no folders'}: {OBTAIN}"
    )


def _code(name: str, endings: Sequence[str]) -> str | None:
    match = re.fullmatch(r"Im[0-9]{3}_([01])(\.[a-z]+)", name, re.IGNORECASE)
    return match[1] if match and match[2].lower() in endings else None
