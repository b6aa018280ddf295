"""The two systems of the review that no library has, put together from parts that libraries do have."""

import numpy as np
import torch
from torch import Tensor, nn

from training.models.stain import Deconvolution, standardise
from training.zoo.networks import Backbone, Classifier


class Hybrid(nn.Module):
    """Two networks whose probabilities are mixed by how sure each is: the probability-based weights of reference 36."""

    def __init__(self, one: Backbone, other: Backbone, classes: int, height: int, width: int) -> None:
        super().__init__()
        self.one, self.other = (Classifier(part, classes, height, width) for part in (one, other))

    def forward(self, density: Tensor) -> Tensor:
        """float32 [n, 3, H, W] → log-probabilities [n, C]."""
        said = torch.stack([self.one(density).exp(), self.other(density).exp()])  # (2, n, C)
        sure = said.max(dim=2, keepdim=True).values
        return torch.log((said * sure / sure.sum(dim=0)).sum(dim=0))


class SdctNet(nn.Module):
    """Stain deconvolution → DCT → convolutions → bilinear pooling, with an auxiliary classifier (reference 41).

    The layer's convolutions are MONAI's, its cosine transform scipy's. Both classifiers are trained; the surer one of
    the two answers.
    """

    cosine: Tensor

    def __init__(self, classes: int, height: int, width: int, channels: tuple[int, ...] = (16, 32, 48, 64)) -> None:
        super().__init__()
        from monai.networks.blocks import Convolution
        from scipy.fft import dct

        if height != width:
            raise ValueError(f"{height}×{width} pixels: the cosine transform is of square pictures")
        self.stem = Deconvolution()
        basis = dct(np.eye(height), axis=0, norm="ortho").astype(np.float32)
        self.register_buffer("cosine", torch.from_numpy(basis), persistent=False)
        widths = (3, *channels)
        self.blocks = nn.Sequential(
            *(
                Convolution(2, before, after, strides=2, kernel_size=3, act="RELU", norm="BATCH")
                for before, after in zip(widths, channels, strict=False)
            )
        )
        self.classify = nn.Linear(channels[-1] ** 2, classes)
        self.auxiliary = nn.Linear(channels[-1], classes)

    def forward(self, density: Tensor) -> Tensor:
        """float32 [n, 3, H, W] → log-probabilities [n, C]: of both while training, else of the surer one."""
        maps = standardise(self.stem(density))
        maps = self.cosine @ maps @ self.cosine.T
        # Coefficients span orders of magnitude; their sign matters.
        maps = self.blocks(torch.sign(maps) * torch.log1p(maps.abs())).flatten(2)  # (n, c, h·w)
        bilinear = (maps @ maps.transpose(1, 2) / maps.shape[2]).flatten(1)  # (n, c²)
        bilinear = nn.functional.normalize(torch.sqrt(bilinear + 1e-6))
        main = torch.log_softmax(self.classify(bilinear), dim=1)
        auxiliary = torch.log_softmax(self.auxiliary(maps.mean(dim=2)), dim=1)
        if self.training:
            # The loss of this is the mean of both losses.
            return (main + auxiliary) / 2
        surer = main.max(dim=1, keepdim=True).values >= auxiliary.max(dim=1, keepdim=True).values
        return torch.where(surer, main, auxiliary)
