"""Real white cells: "Dataset 1" of segmentation_WBC, 300 crops of about 120 × 120 pixels from Jiangxi Tecom, China.

    labels.csv             image ID,class label
    NNN.bmp  NNN.png       picture and mask (white nucleus, grey cytoplasm, black rest; see training.datasets.masks)

Source: github.com/zxaoyou/segmentation_WBC (GPL-3.0); cite Zheng et al., Micron 107 (2018) 55–71. The set names no
patients and no scale, its labels were not double-checked by experts, and it has no blasts: nothing in it is malignant.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

from training.datasets import DatasetError
from training.datasets.listing import Listed, ListedSet, SetOptions, about_of, parsed, some

_KIND = "tecom_wbc"
LABELS = ("neutrophil", "lymphocyte", "monocyte", "eosinophil")
_CODES = {"1": "neutrophil", "2": "lymphocyte", "3": "monocyte", "4": "eosinophil", "5": "basophil"}
_TOO_RARE = "basophil"
_HEADER = ["image ID", "class label"]
_OBTAIN = (
    "get it from https://github.com/zxaoyou/segmentation_WBC (folder 'Dataset 1' and the labels of it as labels.csv) "
    "and put 001.bmp … 300.bmp beside labels.csv"
)


class TecomWbcOptions(SetOptions):
    """Options of kind `tecom_wbc`."""


def open_dataset(options: Mapping[str, object]) -> ListedSet:
    """From {root: folder, …}. Raises ConfigError for other options, DatasetError naming what is missing or wrong."""
    config = parsed(_KIND, TecomWbcOptions, options)
    root = Path(config.root)
    rows = _rows(root / "labels.csv")
    pictures = [Listed(f"{number:03d}.bmp", label) for number, label in rows if label != _TOO_RARE]
    if absent := [picture.path for picture in pictures if not (root / picture.path).is_file()]:
        raise DatasetError(
            f"{_KIND}: {len(absent)} of {len(pictures)} pictures are not in {root}: {some(absent)}; {_OBTAIN}"
        )
    notes = [
        f"{len(rows) - len(pictures)} {_TOO_RARE} left out: too few to train on or to test with",
        "no patients are named, no scale is known, and labels were not double-checked by experts",
        "source: github.com/zxaoyou/segmentation_WBC, Zheng et al., Micron 107 (2018) 55–71",
    ]
    return ListedSet(
        _KIND, root, pictures, labels=LABELS, malignant=(), about=about_of(config, site="jiangxi-tecom"), notes=notes
    )


def _rows(path: Path) -> list[tuple[int, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = [row for row in csv.reader(file) if row] or [[]]
    except FileNotFoundError:
        raise DatasetError(f"tecom_wbc: there is no {path}; {_OBTAIN}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"tecom_wbc: {path} cannot be read ({error}); {_OBTAIN}") from error
    if [name.strip() for name in header] != _HEADER:
        raise DatasetError(
            f"tecom_wbc: {path} starts with {header}, not {_HEADER}: it is not this set's list; {_OBTAIN}"
        )
    found: dict[int, str] = {}
    for line, row in enumerate(rows, start=2):
        if len(row) != 2 or not row[0].strip().isdecimal():
            raise DatasetError(f"tecom_wbc: {path}, row {line}: expected a picture's number and a label, not {row}")
        number, code = int(row[0]), row[1].strip()
        if code not in _CODES:
            raise DatasetError(
                f"tecom_wbc: {path}, row {line}: label {code!r} is unknown, known are {', '.join(_CODES)}"
            )
        if number in found:
            raise DatasetError(f"tecom_wbc: {path}, row {line}: picture {number} is listed twice; keep one row")
        found[number] = _CODES[code]
    if not found:
        raise DatasetError(f"tecom_wbc: {path} lists no pictures; {_OBTAIN}")
    return list(found.items())
