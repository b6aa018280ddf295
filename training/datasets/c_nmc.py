"""C-NMC 2019 (ISBI challenge, AIIMS New Delhi): cells of 450 × 450 pixels on a blacked-out background, by patient.

    fold_N/all/UID_<patient>_<cell>_<k>_all.bmp      blasts
    fold_N/hem/UID_H<patient>_<cell>_<k>_hem.bmp     healthy precursors

The patient is in the name (11 and H11 are two people) and a split goes by it. Gupta and Gupta, The Cancer Imaging
Archive, doi 10.7937/tcia.2019.dc64i46r.
"""

import re
from collections.abc import Iterator, Mapping
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

_KIND = "c_nmc"
LABELS = ("hem", "all")
_NAME = re.compile(r"UID_(H?)([0-9]+)_([0-9]+)_([0-9]+)_(all|hem)\.bmp", re.IGNORECASE)
_DEPTH = 4
_OBTAIN = (
    "get the training data of C-NMC 2019 from https://doi.org/10.7937/tcia.2019.dc64i46r, unpack it, and give the "
    "folder that holds fold_0, fold_1 and fold_2 as root"
)


class CNmcOptions(SetOptions):
    """Options of kind `c_nmc`."""


def open_dataset(options: Mapping[str, object]) -> ListedSet:
    """From {root: folder, …}. Raises ConfigError for other options, DatasetError when the set is not there."""
    config = parsed(_KIND, CNmcOptions, options)
    root = existing_root(_KIND, config.root, _OBTAIN)
    folders = list(_class_folders(root, "", _DEPTH))
    if not folders:
        there = some([f"{name}/" for name in entries(_KIND, root)[0]]) or "no folders"
        raise DatasetError(f"{_KIND}: {root} has no fold_N/all or fold_N/hem below it, found {there}: {_OBTAIN}")
    pictures = [picture for folder in folders for picture in _pictures(root, folder)]
    if not pictures:
        raise DatasetError(f"{_KIND}: {', '.join(folders)} in {root} have no pictures: {_OBTAIN}")
    patients = {(picture.patient, picture.label) for picture in pictures}
    by_label = ", ".join(f"{sum(label == of for _, label in patients)} {of}" for of in LABELS)
    notes = [
        f"patients by the names of the files: {by_label}; the background is blacked out",
        "source: C-NMC 2019, Gupta and Gupta, The Cancer Imaging Archive, doi 10.7937/tcia.2019.dc64i46r",
    ]
    about = about_of(config, site="aiims-delhi")
    return ListedSet(_KIND, root, pictures, labels=LABELS, malignant=("all",), about=about, notes=notes)


def _class_folders(root: Path, below: str, depth: int) -> Iterator[str]:
    """fold_N/all and fold_N/hem, wherever copies have put them."""
    for name in entries(_KIND, root / below)[0] if depth else ():
        path = f"{below}/{name}".lstrip("/")
        if re.fullmatch(r"fold_[0-9]+", name, re.IGNORECASE):
            inside = [inner for inner in entries(_KIND, root / path)[0] if inner.lower() in LABELS]
            if inside:
                yield from (f"{path}/{inner}" for inner in inside)
                continue
        yield from _class_folders(root, path, depth - 1)


def _pictures(root: Path, folder: str) -> Iterator[Listed]:
    label = folder.rsplit("/", 1)[-1].lower()
    names = pictures_of(entries(_KIND, root / folder)[1])
    matches = {name: _NAME.fullmatch(name) for name in names}
    if strange := [name for name, match in matches.items() if match is None]:
        raise DatasetError(
            f"{_KIND}: {len(strange)} of {len(names)} pictures in {root / folder} are not named "
            f"UID_<patient>_<cell>_<k>_{label}.bmp, so their patient is unknown: {some(strange)}; remove them, or "
            "get the set again"
        )
    if wrong := [name for name, match in matches.items() if match and match[5].lower() != label]:
        raise DatasetError(
            f"{_KIND}: {len(wrong)} pictures in {root / folder} say another label in their names: {some(wrong)}; move "
            "them where they belong"
        )
    for name, match in matches.items():
        if match:
            yield Listed(f"{folder}/{name}", label, patient=f"{_KIND}:{match[1].upper()}{match[2]}")
