"""Taleqani Hospital's "Blood Cells Cancer (ALL)": 3256 fields of 224 × 224 pixels, benign and three kinds of blasts.

    Benign/  Early/  Pre/  Pro/        one folder a class; 504, 985, 963, 804 JPEG

Folder names differ between copies (`[Malignant] early Pre-B`, `Early Malignant`, …) and are told by their words. A copy
with `Original/` and `Segmented/` has every field twice; the original one is taken. Ghaderzadeh et al., Int J Intell
Syst 37 (2022).
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from training.datasets import DatasetError
from training.datasets.listing import (
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

_KIND = "taleqani"
LABELS = ("Benign", "Early", "Pre", "Pro")
BLASTS = ("Early", "Pre", "Pro")
_WHOLE = 3256
_DEPTH = 3
_OBTAIN = (
    "get it from https://www.kaggle.com/datasets/mehradaria/leukemia or "
    "https://www.kaggle.com/datasets/mohammadamireshraghi/blood-cell-cancer-all-4class, unpack it, and give the folder "
    "as root"
)
# In this order: an "early Pre-B" is Early.
_WORDS = {
    "Benign": {"benign", "hematogone", "hematogones"},
    "Early": {"early"},
    "Pre": {"pre", "preb"},
    "Pro": {"pro", "prob"},
}


class TaleqaniOptions(SetOptions):
    """Options of kind `taleqani`."""


def open_dataset(options: Mapping[str, object]) -> ListedSet:
    """From {root: folder, …}. Raises ConfigError for other options, DatasetError when the set is not there."""
    config = parsed(_KIND, TaleqaniOptions, options)
    root = existing_root(_KIND, config.root, _OBTAIN)
    folders, notes = _folders(root)
    if missing := [label for label in LABELS if label not in folders]:
        there = some(sorted(name for names in folders.values() for name in names)) or "none"
        raise DatasetError(
            f"{_KIND}: {root} has no folder with pictures of {', '.join(missing)}, expected one a class "
            f"({', '.join(LABELS)}; found: {there}): {_OBTAIN}"
        )
    pictures: list[Listed] = []
    for label in LABELS:
        for folder in folders[label]:
            pictures += _pictures(root, folder, label)
    if len(pictures) != _WHOLE:
        notes.append(f"{len(pictures)} pictures, the whole set has {_WHOLE}")
    notes += [
        "WARNING: the stain tells the label: a forest on six colour numbers reached 0.87 to 0.95 on this set",
        "no patients are named (there were 89); scale bars are burnt into a corner; many near-duplicates",
        "source: Taleqani Hospital, Tehran; Ghaderzadeh et al., Int J Intell Syst 37 (2022)",
    ]
    return ListedSet(
        _KIND, root, pictures, labels=LABELS, malignant=BLASTS, about=about_of(config, site="taleqani"), notes=notes
    )


def class_of(folder: str) -> str | None:
    """The class that a folder's name says: `[Malignant] early Pre-B` is Early; None when it says none."""
    words = set(re.findall(r"[a-z]+", folder.lower()))
    return next((label for label, known in _WORDS.items() if known & words), None)


def _folders(root: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Class → folders with pictures below the root, and notes. Raises DatasetError for one that says no class."""
    found: dict[str, list[str]] = defaultdict(list)
    level, strange, notes = [""], list[str](), list[str]()
    for _ in range(_DEPTH):
        below = [f"{folder}/{name}".lstrip("/") for folder in level for name in entries(_KIND, root / folder)[0]]
        originals = [path for path in below if not path.lower().rsplit("/", 1)[-1].startswith("segmented")]
        if originals and len(originals) < len(below):
            notes.append("the folder Segmented is not used: it shows the same fields as the original pictures")
            below = originals
        level = []
        for path in below:
            label = class_of(path.rsplit("/", 1)[-1])
            if not pictures_of(entries(_KIND, root / path)[1]):
                level.append(path)  # such as archive/, or Malignant/ around three classes
            elif label:
                found[label].append(path)
            else:
                strange.append(path)
    if found and strange:
        raise DatasetError(
            f"{_KIND}: folder {some(strange)} in {root} has pictures, but its name says none of {', '.join(LABELS)}: "
            "rename it, or move it elsewhere"
        )
    return found, notes


def _pictures(root: Path, folder: str, label: str) -> list[Listed]:
    names = pictures_of(entries(_KIND, root / folder)[1])
    # WBC-Malignant-Early-001.jpg says its class; other copies have names that do not.
    wrong = [name for name in names if name.upper().startswith("WBC-") and class_of(name) not in (label, None)]
    if wrong:
        raise DatasetError(
            f"{_KIND}: {len(wrong)} files in {root / folder} ({label}) are named after another class: {some(wrong)}; "
            "move them where they belong, or get the set again"
        )
    return [Listed(f"{folder}/{name}", label) for name in names]
