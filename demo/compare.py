"""Both models on the same unseen cells: balanced accuracy before and after, and a patient-bootstrap interval of the gain."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.contract.artifact import read_artifact
from service.contract.image import load_field
from service.contract.predictor import Predictor
from training.datasets import SourceCell

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Comparison:
    """Balanced accuracies (mean of the class sensitivities) in 0–1; the interval is the 95 % bootstrap interval of the gain."""

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


def compare(before: Path, after: Path, cells: Sequence[SourceCell], *, resamples: int = 2000, seed: int = 0) -> Comparison:
    """Score both artifacts on `cells`; patients are resampled, within the class that most of their cells have."""
    labels = sorted({cell.label for cell in cells})
    patients = sorted({cell.patient for cell in cells})
    truth = np.array([labels.index(cell.label) for cell in cells])
    owner = np.array([patients.index(cell.patient) for cell in cells])
    right = np.stack([np.array(predicted(model, cells)) == np.array([c.label for c in cells]) for model in (before, after)])

    total = _per_patient(np.ones(len(cells)), owner, truth, len(patients), len(labels))
    hits = np.stack([_per_patient(row.astype(float), owner, truth, len(patients), len(labels)) for row in right])
    stratum = total.argmax(1)
    rng = np.random.default_rng(seed)
    draws = np.concatenate(
        [rng.choice(np.flatnonzero(stratum == s), (resamples, int((stratum == s).sum()))) for s in np.unique(stratum)], axis=1
    )  # (resamples, patients)
    sums = total[draws].sum(1)  # (resamples, classes)
    with np.errstate(invalid="ignore"):
        scores = np.nanmean(hits[:, draws].sum(2) / sums, axis=2)  # (2, resamples)
    low, high = np.quantile(scores[1] - scores[0], [0.025, 0.975])
    whole = (hits.sum(1) / total.sum(0)).mean(1)
    return Comparison(
        before=float(whole[0]),
        after=float(whole[1]),
        interval=(float(low), float(high)),
        cells=len(cells),
        patients=len(patients),
        smallest_class=int(total.sum(0).min()),
    )


def _per_patient(
    values: npt.NDArray[np.float64], owner: Integers, truth: Integers, patients: int, labels: int
) -> npt.NDArray[np.float64]:
    table = np.zeros((patients, labels))
    np.add.at(table, (owner, truth), values)
    return table
