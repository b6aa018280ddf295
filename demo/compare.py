"""Both models on the same unseen cells, and a patient-bootstrap interval of what was gained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.contract.artifact import read_artifact
from service.contract.errors import InvalidRequest
from service.contract.image import load_field
from service.contract.predictor import Predictor
from training.bootstrap import confusions, interval, patient_weights
from training.datasets import SourceCell


@dataclass(frozen=True)
class Comparison:
    """Balanced accuracies (mean of the class sensitivities) in 0–1, and the 95 % bootstrap interval of the gain."""

    before: float
    after: float
    interval: tuple[float, float]
    cells: int
    patients: int
    smallest_class: int

    @property
    def gain(self) -> float:
        """After minus before."""
        return self.after - self.before


def predicted(model: Path, cells: Sequence[SourceCell], batch: int = 64) -> list[str]:
    """Labels that the artifact in folder `model` gives to `cells`, referred or not."""
    predictor = Predictor(read_artifact(model), threads=2)
    labels = predictor.manifest.labels
    field = predictor.manifest.field
    pixels = np.stack([load_field(cell.image, field, cell.pixel_size_um) for cell in cells])
    answers = [predictor.predict(pixels[k : k + batch]).probabilities.argmax(1) for k in range(0, len(pixels), batch)]
    return [labels[k] for k in np.concatenate(answers)]


def compare(
    before: Path, after: Path, cells: Sequence[SourceCell], *, resamples: int = 2000, seed: int = 0
) -> Comparison:
    """Score both artifacts on `cells`; patients are resampled within their class, the same draws for both."""
    labels = sorted({cell.label for cell in cells})
    truth = np.array([labels.index(cell.label) for cell in cells])
    patient = np.array([cell.patient for cell in cells])
    weight = patient_weights(patient, truth, len(labels), draws=resamples, seed=seed)
    ones = np.ones((1, len(cells)), dtype=np.float32)
    whole, drawn = [], []
    for model in (before, after):
        called = np.array([labels.index(name) for name in predicted(model, cells)])
        whole.append(_balanced(confusions(ones, truth, called, len(labels)))[0])
        drawn.append(_balanced(confusions(weight, truth, called, len(labels))))
    span = interval(drawn[1] - drawn[0])
    if span is None:
        raise InvalidRequest("nothing to compare on: no cells")
    return Comparison(
        before=float(whole[0]),
        after=float(whole[1]),
        interval=span,
        cells=len(cells),
        patients=len(set(patient.tolist())),
        smallest_class=int(np.bincount(truth).min()),
    )


def _balanced(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean of the class sensitivities of confusion matrices [draws, C, C], rows true."""
    sensitivities: npt.NDArray[np.float64] = np.diagonal(counts, axis1=1, axis2=2) / counts.sum(2)
    balanced: npt.NDArray[np.float64] = sensitivities.mean(1)
    return balanced
