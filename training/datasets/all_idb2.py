"""ALL-IDB2: 260 single cells, cut out of the fields of ALL-IDB1: never train on one and test on the other.

    ALL_IDB2/img/ImNNN_L.tif   L = 1: a probable blast, 0: another white cell; 257 × 257 pixels, some a little smaller

Masks of nucleus and cytoplasm: github.com/lputzu/ALL-IDB2_masks (MIT), see `training.datasets.masks`.
"""

from collections.abc import Mapping

from training.datasets.all_idb import BLAST, LABELS, NOTE, found_in
from training.datasets.listing import ListedSet, SetOptions, about_of, existing_root, parsed

_KIND = "all_idb2"
_WHOLE = 260
OBTAIN_MASKS = "clone https://github.com/lputzu/ALL-IDB2_masks and give its folder, or leave the option out"


class AllIdb2Options(SetOptions):
    """Options of kind `all_idb2`."""

    masks: str = ""
    """Folder of a copy of ALL-IDB2_masks, for reports on how much of the evidence lies inside the cell."""


def open_dataset(options: Mapping[str, object]) -> ListedSet:
    """From {root: folder, …}. Raises ConfigError for other options, DatasetError when the set is not there."""
    config = parsed(_KIND, AllIdb2Options, options)
    root, pictures = found_in(_KIND, config.root, ("ALL_IDB2/img", "img", ""), (".tif", ".tiff"))
    if config.masks:
        existing_root(_KIND, config.masks, OBTAIN_MASKS)
    notes = [NOTE, "cut out of ALL-IDB1, several cells of one field and one patient: figures are too good"]
    if len(pictures) != _WHOLE:
        notes.append(f"{len(pictures)} pictures, the whole set has {_WHOLE}")
    about = about_of(config, site="all-idb")
    return ListedSet(_KIND, root, pictures, labels=LABELS, malignant=(BLAST,), about=about, notes=notes)
