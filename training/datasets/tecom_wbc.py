"""Real white cells: "Dataset 1" of segmentation_WBC, 300 crops of about 120 × 120 pixels from Jiangxi Tecom, China.

Source: github.com/zxaoyou/segmentation_WBC (GPL-3.0); cite Zheng et al., Micron 107 (2018) 55–71. The set names no
patients and no scale, its labels were not double-checked by experts, and it has no blasts: nothing in it is malignant.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from service.contract.errors import ConfigError
from training.datasets import DatasetError, SourceCell

LABELS = ("neutrophil", "lymphocyte", "monocyte", "eosinophil")
_CODES = {"1": "neutrophil", "2": "lymphocyte", "3": "monocyte", "4": "eosinophil", "5": "basophil"}
_TOO_RARE = "basophil"
_HEADER = ["image ID", "class label"]
_OBTAIN = (
    "get it from https://github.com/zxaoyou/segmentation_WBC (folder 'Dataset 1' and the labels of it as labels.csv) "
    "and put 001.bmp … 300.bmp beside labels.csv"
)


class TecomWbc:
    """The set under `root`: labels.csv and NNN.bmp. Masks (NNN.png) are not used."""

    scale_known = False
    labels = LABELS
    malignant: tuple[str, ...] = ()

    def __init__(self, root: Path) -> None:
        """Reads labels.csv and looks for every picture. Raises DatasetError naming what is missing or wrong."""
        self.name = "tecom_wbc"
        self._root = root
        rows = _rows(root / "labels.csv")
        self._rows = [(number, label) for number, label in rows if label != _TOO_RARE]
        absent = [path.name for number, _ in self._rows if not (path := self._picture(number)).is_file()]
        if absent:
            some = ", ".join(absent[:5]) + (" …" if len(absent) > 5 else "")
            raise DatasetError(
                f"tecom_wbc: {len(absent)} of {len(self._rows)} pictures are not in {root}: {some}; {_OBTAIN}"
            )
        dropped = Counter(label for _, label in rows)[_TOO_RARE]
        self.notes = [
            f"{dropped} {_TOO_RARE} left out: too few to train on or to test with",
            "no patients are named, no scale is known, and labels were not double-checked by experts",
            "source: github.com/zxaoyou/segmentation_WBC, Zheng et al., Micron 107 (2018) 55–71",
        ]

    def cells(self) -> Iterator[SourceCell]:
        """In the order of labels.csv. Raises DatasetError for a picture that cannot be read."""
        for number, label in self._rows:
            path = self._picture(number)
            try:
                image = path.read_bytes()
            except OSError as error:
                raise DatasetError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
            yield SourceCell(
                image=image,
                label=label,
                patient="",
                site="jiangxi-tecom",
                stain="",
                scanner="",
                pixel_size_um=0.0,
                source=f"tecom_wbc/{path.name}",
            )

    def _picture(self, number: int) -> Path:
        return self._root / f"{number:03d}.bmp"


def open_dataset(options: Mapping[str, object]) -> TecomWbc:
    """From {root: folder}. Raises ConfigError for other options, DatasetError when the set is not there."""
    if set(options) != {"root"} or not isinstance(options["root"], str):
        raise ConfigError(f"tecom_wbc takes one option, root (a folder), not {sorted(options)}")
    return TecomWbc(Path(options["root"]))


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
