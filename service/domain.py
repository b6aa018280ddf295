"""What goes in and out of the core, whatever the transport: plain values, no framework, no wire format."""

import math
import unicodedata
from dataclasses import dataclass, field

from service.contract.errors import InvalidRequest

MAX_TEXT = 256
TEXTS = ("request_id", "patient_id", "specimen_id", "site", "stain", "scanner")


@dataclass(frozen=True)
class Cell:
    """One white cell to classify, as the caller sent it.

    image: PNG, JPEG, TIFF or BMP bytes. pixel_size_um: micrometres a pixel, 0 when unknown. test: answered and
    recorded, never monitored or trained on. The image and the patient id stay out of repr, and so out of any log.
    """

    image: bytes = field(repr=False)
    request_id: str = ""
    patient_id: str = field(default="", repr=False)
    specimen_id: str = ""
    site: str = ""
    stain: str = ""
    scanner: str = ""
    pixel_size_um: float = 0.0
    test: bool = False

    def check(self) -> None:
        """Raises InvalidRequest that names the field, never its value."""
        if not self.image:
            raise InvalidRequest("image is empty: send the bytes of a PNG, JPEG, TIFF or BMP file")
        for name in TEXTS:
            check_text(name, getattr(self, name))
        if not math.isfinite(self.pixel_size_um) or self.pixel_size_um < 0:
            raise InvalidRequest("pixel_size_um must be a finite number of micrometres, or 0 when it is not known")


@dataclass(frozen=True)
class PixelCell(Cell):
    """A cell whose caller has decoded it. image: its RGB pixels, row by row, `height` · `width` · 3 bytes."""

    height: int = 0
    width: int = 0


@dataclass(frozen=True)
class Answer:
    """What the service says about one cell.

    probabilities: label → probability, in the model's order, adding up to 1. malignant_probability: their sum over the
    malignant labels. refer: a person must look, for each of refer_reasons. ood_score: distance from the training data.
    """

    record_id: str
    request_id: str
    image_sha256: str
    pixels_sha256: str
    label: str
    probabilities: dict[str, float]
    malignant_probability: float
    refer: bool
    refer_reasons: tuple[str, ...]
    ood_score: float
    model_version: str


@dataclass(frozen=True)
class Review:
    """What a reader says about an answered cell. sampled: the cell was drawn at random, not picked."""

    record_id: str
    label: str
    role: str
    sampled: bool = False

    def check(self) -> None:
        """Raises InvalidRequest that names the field."""
        for name in ("record_id", "label", "role"):
            value: str = getattr(self, name)
            check_text(name, value)
            if not value.strip():
                raise InvalidRequest(f"{name} is empty: a review names the record, the label and the reader's role")


@dataclass(frozen=True)
class ReviewAnswer:
    """A review that was taken. note: why the cell does not count for training, if it does not."""

    record_id: str
    review_id: str
    counts_for_training: bool
    note: str


@dataclass(frozen=True)
class ModelInfo:
    """The model that answers now. height and width in pixels; field_um: micrometres along the width.

    card: the model card, Markdown; empty unless it was asked for.
    """

    version: str
    labels: tuple[str, ...]
    malignant: tuple[str, ...]
    height: int
    width: int
    field_um: float
    scale_known: bool
    abstain: float
    ood: float
    created: str
    metrics: dict[str, object]
    card: str = field(default="", repr=False)


def check_text(name: str, value: str) -> None:
    """Raises InvalidRequest when a caller's text is longer than 256 characters or has control characters."""
    if len(value) > MAX_TEXT:
        raise InvalidRequest(f"{name} has {len(value)} characters: at most {MAX_TEXT} are taken")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise InvalidRequest(f"{name} has control characters: send plain text")
