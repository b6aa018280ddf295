"""One small model for all tests of behaviour: trained on synthetic cells in seconds, calibrated, and asked as it is
served.
"""

from dataclasses import dataclass

import numpy as np
import pytest

from service.contract.artifact import Manifest, Thresholds
from service.contract.decision import Decision, decide
from service.contract.image import Field, Pixels, load_field
from training.augment import AugmentConfig
from training.calibrate import CalibrateConfig, Seen, calibrate
from training.calibration import OOD_EDGE
from training.datasets.synthetic import stream
from training.figures import Integers
from training.fit import Examples, TrainConfig, fit
from training.models import inference
from training.models.cnn_gru import CnnGruConfig
from training.models.serving import Said, Serving, answers

LABELS = ("healthy", "L1", "L2", "L3")
FIELD = Field(64, 64, 20.0)


@dataclass(frozen=True)
class Model:
    """The serving graph, its manifest, and cells of patients that it was not trained on."""

    graph: Serving
    manifest: Manifest
    images: Pixels
    label: Integers

    def say(self, images: Pixels) -> Said:
        """What the graph says."""
        return answers(self.graph, np.ascontiguousarray(images))

    def decide(self, images: Pixels) -> list[Decision]:
        """What the service would answer."""
        said = self.say(images)
        return [
            decide(self.manifest, p, float(score), pixel_size_known=True)
            for p, score in zip(said.probabilities, said.ood_score, strict=True)
        ]


def cells(seed: int, patients: int, each: int) -> Examples:
    """Balanced synthetic cells in a field of half the usual resolution."""
    drawn = stream(
        "site-a", seed=seed, patients=dict.fromkeys(LABELS, patients), cells_per_patient=each, prefix="model"
    )
    images = np.stack([load_field(cell.image, FIELD, cell.pixel_size_um) for cell in drawn])
    return Examples(images, np.array([LABELS.index(cell.label) for cell in drawn], dtype=np.int64))


@pytest.fixture(scope="session")
def model() -> Model:
    """About twenty seconds on one core."""
    training, validation, test = cells(1, 14, 7), cells(2, 7, 5), cells(3, 7, 5)
    shape = CnnGruConfig(len(LABELS), 64, 64, channels=(16, 24, 32), gru_hidden=32, features=32, dropout=0.1)
    config = TrainConfig(epochs=12, patience=12, batch=32, threads=1, device="cpu", learning_rate=0.006)
    fitted = fit(training, validation, shape, config, AugmentConfig())
    network = inference.build(shape, fitted.weights)
    calibration, _ = calibrate(
        Seen(*inference.outputs(network, training.images), training.label),
        Seen(*inference.outputs(network, validation.images), validation.label),
        CalibrateConfig(embedding=12, picture_slack=1.0),  # few validation patients
    )
    manifest = Manifest(
        labels=LABELS, malignant=LABELS[1:], height=64, width=64, field_um=20.0, scale_known=True, embedding_size=12,
        thresholds=Thresholds(abstain=calibration.abstain, ood=OOD_EDGE),
    )  # fmt: skip
    return Model(Serving(network, calibration), manifest, test.images, test.label)
