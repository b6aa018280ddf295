"""Small networks, calibrations and pictures for tests of training: real ones, in a size that trains in seconds."""

import numpy as np
import torch

from service.contract.image import Pixels
from tests.support.images import smear
from training.calibration import Calibration, Distance
from training.figures import Integers
from training.models.cnn_gru import CnnGru, CnnGruConfig
from training.models.picture import NUMBERS

SMALL = CnnGruConfig(classes=3, height=32, width=32, channels=(4, 8, 8), gru_hidden=8, features=12, dropout=0.1)


def network(config: CnnGruConfig = SMALL, seed: int = 0, scale: float = 3.0) -> CnnGru:
    """With random weights, large enough that different pictures get different answers."""
    torch.manual_seed(seed)
    found = CnnGru(config)
    with torch.no_grad():
        for weight in found.parameters():
            weight.mul_(scale)
        for name, value in found.named_buffers():
            if name.endswith("running_mean"):
                value.normal_(0, 0.3)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 2)
    return found.eval()


def calibration(config: CnnGruConfig = SMALL, embedding: int = 5, seed: int = 0) -> Calibration:
    """Random, but of the right shapes."""
    rng = np.random.default_rng(seed)

    def some(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return rng.normal(size=shape).astype(np.float32)

    return Calibration(
        temperature=1.5,
        abstain=0.6,
        centre=some(config.features),
        projection=some(config.features, embedding),
        embedding=Distance(some(config.classes, embedding), some(embedding, embedding), 2.5),
        picture=Distance(some(config.classes, NUMBERS), some(NUMBERS, NUMBERS), 30.0),
    )


def smears(number: int, size: int = 32, seed: int = 0) -> Pixels:
    """uint8 [number, size, size, 3]."""
    return np.stack([smear(seed + k, size) for k in range(number)])


def discs(number: int, classes: int = 3, size: int = 32, seed: int = 0) -> tuple[Pixels, Integers]:
    """Pictures whose label is the size of the disc in the middle; the background is any colour."""
    rng = np.random.default_rng(seed)
    label = np.arange(number) % classes
    y, x = np.mgrid[:size, :size] / size - 0.5
    images = np.empty((number, size, size, 3))
    images[:] = rng.uniform(200, 250, (number, 1, 1, 3))
    radius = 0.12 + 0.3 * label / classes + rng.uniform(0, 0.03, number)
    inside = np.hypot(y, x)[None] < radius[:, None, None]
    images[inside] *= 0.4
    images += rng.normal(0, 4, images.shape)
    return np.clip(images, 0, 255).astype(np.uint8), label.astype(np.int64)
