"""Features of an autoencoder that has seen a fold's training cells and none of their labels (section 2.4.3)."""

import torch
from torch import Tensor, nn

from service.contract.image import Pixels
from training.fit import reproducible
from training.models.stain import optical_density, standardise
from training.zoo.settings import ZooConfig

CHANNELS = (16, 32, 48, 16)
_CODE = 4


class Encoder(nn.Module):
    """Densities in, the code pooled to 4×4 places out."""

    def __init__(self) -> None:
        super().__init__()
        from monai.networks.nets import AutoEncoder

        self.network = AutoEncoder(
            spatial_dims=2, in_channels=3, out_channels=3, channels=CHANNELS, strides=(2,) * len(CHANNELS), norm="BATCH"
        )
        self.pool = nn.AdaptiveAvgPool2d(_CODE)

    def forward(self, density: Tensor) -> Tensor:
        """float32 [n, 3, H, W] → [n, 256]."""
        code: Tensor = self.pool(self.network.encode(standardise(density)))
        return code.flatten(1)

    def loss(self, density: Tensor) -> Tensor:
        """Mean squared error of the picture that the decoder makes of the code."""
        picture = standardise(density)
        return nn.functional.mse_loss(self.network(picture), picture)


def train_encoder(images: Pixels, config: ZooConfig, *, epochs: int, seed: int) -> Encoder:
    """An autoencoder (MONAI's) trained on uint8 [n, H, W, 3], sides multiples of 16."""
    with reproducible(seed, config.threads):
        encoder = Encoder().train()
        generator = torch.Generator().manual_seed(seed)
        optimiser = torch.optim.AdamW(encoder.parameters(), 2e-3, weight_decay=config.weight_decay)
        pictures = torch.from_numpy(images)
        for _ in range(epochs):
            order = torch.randperm(len(images), generator=generator)
            for chosen in torch.split(order, config.batch):
                if len(chosen) < 2:
                    continue  # nothing to normalise over
                loss = encoder.loss(optical_density(pictures[chosen]))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        return encoder.eval()
