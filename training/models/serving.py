"""The graph that is exported: everything between pixels and answers, so that no second implementation can differ.

image uint8 [n, H, W, 3]
  ├─ density ─┬─ CNN-GRU ─┬─ logits ─ ÷ temperature ─ softmax ─▶ probabilities [n, C]
  │           │           └─ features ─ projection ─▶ embedding [n, E] ─ distance ─┬─▶ ood_score [n]
  │           └─ picture numbers ─ distance ───────────────────────────────────────┘
  └─▶ row_check [n]
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from service.contract.image import CHECK_MODULUS, CHECK_MULTIPLIER, Pixels
from training.calibration import Calibration, Distance
from training.models.cnn_gru import CnnGru
from training.models.picture import describe
from training.models.stain import optical_density


class Answers(NamedTuple):
    """probabilities float32 [n, C], embedding float32 [n, E], ood_score float32 [n], row_check int64 [n]."""

    probabilities: Tensor
    embedding: Tensor
    ood_score: Tensor
    row_check: Tensor


class Serving(nn.Module):
    """A trained network and its calibration as one graph."""

    temperature: Tensor
    scale: Tensor
    shift: Tensor
    centre: Tensor
    projection: Tensor
    check: Tensor

    def __init__(self, network: CnnGru, calibration: Calibration) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("temperature", torch.tensor(calibration.temperature, dtype=torch.float32))
        # Where each class has a scale of its own it takes the temperature's place.
        self.by_class = calibration.scale is not None
        if calibration.scale is not None and calibration.shift is not None:
            self.register_buffer("scale", torch.from_numpy(calibration.scale.copy()))
            self.register_buffer("shift", torch.from_numpy(calibration.shift.copy()))
        self.register_buffer("centre", torch.from_numpy(calibration.centre.copy()))
        self.register_buffer("projection", torch.from_numpy(calibration.projection.copy()))
        self.like_a_cell = _Distance(calibration.embedding)
        self.like_a_picture = _Distance(calibration.picture)
        length = network.config.height * network.config.width * 3
        weights = np.arange(length, dtype=np.int64) * CHECK_MULTIPLIER % CHECK_MODULUS + 1
        self.register_buffer("check", torch.from_numpy(weights.astype(np.float64)))
        self.eval()

    def forward(self, image: Tensor) -> Answers:
        """Answers for uint8 [n, H, W, 3], n ≥ 1."""
        density = optical_density(image)  # (n, 3, H, W)
        logits, features = self.network(density)  # (n, C), (n, F)
        calibrated = logits * self.scale + self.shift if self.by_class else logits / self.temperature
        probabilities = torch.softmax(calibrated, dim=1)  # (n, C)
        embedding = (features - self.centre) @ self.projection  # (n, E)
        ood_score = torch.maximum(self.like_a_cell(embedding), self.like_a_picture(describe(density)))  # (n,)
        # In float64 the sum is exact, in whatever order it is taken: every partial sum is an integer below 2^53.
        flat = image.flatten(1).to(torch.float64)  # (n, H·W·3)
        return Answers(probabilities, embedding, ood_score, (flat @ self.check).to(torch.int64))


class _Distance(nn.Module):
    """calibration.Distance in torch."""

    whitening: Tensor
    means: Tensor

    def __init__(self, distance: Distance) -> None:
        super().__init__()
        # Divided by the edge and applied to the means once, so that what is left is a plain difference.
        whitening = distance.whitening.astype(np.float64) / distance.edge
        self.register_buffer("whitening", torch.from_numpy(whitening.astype(np.float32)))
        self.register_buffer("means", torch.from_numpy((distance.means @ whitening).astype(np.float32)))

    def forward(self, values: Tensor) -> Tensor:
        """[n, d] → [n]."""
        apart = (values @ self.whitening).unsqueeze(1) - self.means  # (n, K, d)
        return torch.sqrt((apart * apart).sum(dim=2)).min(dim=1).values


class Said(NamedTuple):
    """Answers as arrays: probabilities [n, C], embedding [n, E], ood_score [n], row_check [n]."""

    probabilities: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float32]
    ood_score: npt.NDArray[np.float32]
    row_check: npt.NDArray[np.int64]


def answers(graph: Serving, images: Pixels, *, batch: int = 64) -> Said:
    """What the graph says of uint8 [n, H, W, 3], n ≥ 1, in batches on the CPU."""
    with torch.inference_mode():
        parts = [graph(torch.from_numpy(images[start : start + batch])) for start in range(0, len(images), batch)]
    return Said(*(torch.cat(column).numpy() for column in zip(*parts, strict=True)))
