"""What may change in a picture without changing the cell: applied to stain densities, a batch at a time.

Never zoomed: size is morphology. Every draw comes from the generator that is passed in.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as nn
from torch import Generator, Tensor

_NOISE_FIELDS = 8


@dataclass(frozen=True)
class AugmentConfig:
    """How far each change goes; 0 turns it off."""

    stain: float = 0.06
    """Standard deviation of each entry that mixes the three channels' densities."""
    exposure: float = 0.08
    """Largest shift of density either way; what gets brighter than white is white."""
    glare: float = 0.05
    """Largest share of stray light, which flattens the dark end."""
    blur: float = 0.6
    """Largest share of the local mean that is mixed in (blur) or taken out (sharpening)."""
    noise: float = 0.03
    """Largest standard deviation of noise in density."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense. Raises ValueError."""
        for name, value in vars(self).items():
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 0 and below 1")


def augment(density: Tensor, config: AugmentConfig, generator: Generator) -> Tensor:
    """A changed copy of float32 [n, 3, H, W] densities, each picture changed in its own way. H = W."""
    changed = turn(density, generator)
    n = len(changed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)

    if config.blur:
        mean = nn.avg_pool2d(changed, 3, stride=1, padding=1, count_include_pad=False)
        changed = torch.lerp(changed, mean, uniform(-config.blur, config.blur))
    if config.stain:
        mixing = torch.eye(3) + config.stain * torch.randn(n, 3, 3, generator=generator)
        changed = torch.einsum("nij,njhw->nihw", mixing, changed)
    if config.noise:
        fields = torch.randn(_NOISE_FIELDS, *changed.shape[1:], generator=generator)
        which = torch.randint(0, _NOISE_FIELDS, (n,), generator=generator)
        # A few fields serve the whole batch: drawing normals is slow, and each is seen at another strength and sign.
        changed = changed + uniform(-config.noise, config.noise) * fields[which]
    if config.exposure:
        changed = changed + uniform(-config.exposure, config.exposure)
    changed = changed.clamp_min(0.0)
    if config.glare:
        stray = uniform(0.0, config.glare)
        changed = -torch.log((1 - stray) * torch.exp(-changed) + stray)
    return changed


def turn(pictures: Tensor, generator: Generator) -> Tensor:
    """Each picture of [n, c, S, S] in one of the eight ways to lay a square: turned by quarters, mirrored or not."""
    way = torch.randint(0, 8, (len(pictures),), generator=generator)
    turned = torch.empty_like(pictures)
    for k in range(8):
        chosen = torch.nonzero(way == k).flatten()
        part = torch.rot90(pictures[chosen], k % 4, dims=(2, 3))
        turned[chosen] = part.flip(3) if k >= 4 else part
    return turned
