"""What the review prints in its tables 4 and 5: data, never measured here."""

from dataclasses import dataclass
from pathlib import Path

from training.io import read_json

FILE = Path(__file__).with_name("published.json")


@dataclass(frozen=True)
class Published:
    """One row of table 4 or 5: the first four figures in %, F1 as a share, as printed."""

    table: str
    data: str
    reference: str
    classifier: str
    accuracy: float
    sensitivity: float
    specificity: float
    precision: float
    f1: float


def published() -> tuple[Published, ...]:
    """All rows of both tables, in the review's order."""
    return tuple(
        Published(number, table["data"], *row)
        for number, table in read_json(FILE)["tables"].items()
        for row in table["rows"]
    )


def source() -> str:
    """The review, to be cited beside the figures."""
    return str(read_json(FILE)["source"])
