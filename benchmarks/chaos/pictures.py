"""A picture for each request that no other request has, and what a model says of it, computed in this process."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from service.contract.artifact import Artifact
from service.contract.decision import decide
from service.contract.image import encode_png, image_sha256, load_field, pixels_sha256
from service.contract.predictor import Predictor
from tests.support.images import smear

SIZE = 32
_BACKGROUNDS = 64
_CHUNK = 512


@dataclass(frozen=True)
class Truth:
    """What a right answer to one picture holds; labels and probabilities by the version of the model."""

    image_sha256: str
    pixels_sha256: str
    labels: dict[str, str]
    malignant: dict[str, float]


class Pictures:
    """Request `number` → its picture; the same seed gives the same pictures."""

    def __init__(self, seed: int) -> None:
        self._smears = [smear(seed * 1000 + number, SIZE) for number in range(_BACKGROUNDS)]

    def png(self, number: int) -> bytes:
        """The bytes of that request's picture."""
        picture = self._smears[number % _BACKGROUNDS].copy()
        # The number is written into a corner: no two requests have the same bytes or the same pixels.
        picture[0, :4, 0] = list(number.to_bytes(4, "big"))
        # Large areas of different colours, or every picture would have the same label.
        picture[:, SIZE // 2 :] = np.roll(picture[:, SIZE // 2 :], number % 3, axis=2)
        return encode_png(picture, level=1)

    def truths(self, numbers: Iterable[int], artifacts: Iterable[Artifact]) -> dict[int, Truth]:
        """What each of these models says of each of these requests' pictures."""
        wanted = sorted(set(numbers))
        predictors = [Predictor(artifact) for artifact in artifacts]
        found: dict[int, Truth] = {}
        for start in range(0, len(wanted), _CHUNK):
            chunk = wanted[start : start + _CHUNK]
            files = [self.png(number) for number in chunk]
            labels: list[dict[str, str]] = [{} for _ in chunk]
            malignant: list[dict[str, float]] = [{} for _ in chunk]
            pixels: list[str] = []
            for predictor in predictors:
                manifest = predictor.manifest
                batch = np.stack([load_field(data, manifest.field, 0.0) for data in files])
                pixels = [pixels_sha256(cell) for cell in batch]
                outputs = predictor.predict(batch)
                for row in range(len(chunk)):
                    decision = decide(manifest, outputs.probabilities[row], float(outputs.ood_score[row]), False)
                    labels[row][predictor.version] = decision.label
                    malignant[row][predictor.version] = decision.malignant_probability
            for row, number in enumerate(chunk):
                found[number] = Truth(image_sha256(files[row]), pixels[row], labels[row], malignant[row])
        return found
