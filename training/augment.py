"""What may change in a picture without changing the cell: pixels in, stain densities out, a batch at a time.

In the order of what happens to light: stain, then optics, then the sensor; but the stain is mixed last, where the
densities are at hand. Never zoomed: size is morphology. Every draw comes from the generator that is passed in.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from training.models.stain import transmitted

_NOISE_FIELDS = 8
_DARKEST = 1 / 256
_LIMITS = {"rotate": 180, "mixup": 10}


@dataclass(frozen=True)
class AugmentConfig:
    """How far each change goes; 0 turns it off."""

    blur: float = 0.6
    """Largest share of the local mean that is mixed in (blur) or taken out (sharpening), in half of the pictures."""
    noise: float = 0.02
    """Largest standard deviation of the sensor's noise, as a share of white, in the other half."""
    glare: float = 0.05
    """Largest share of stray light, which flattens the dark end."""
    exposure: float = 0.08
    """Largest change of exposure either way; what gets brighter than white is white."""
    stain: float = 0.06
    """Standard deviation of each entry of the matrix that mixes the three channels' densities."""
    rotate: float = 0.0
    """Largest angle either way, in degrees."""
    zoom: float = 0.0
    """Largest relative change of size either way. Size is morphology: only where the scale is not known anyway."""
    shift: float = 0.0
    """Largest shift either way along each side, as a share of it."""
    erase: float = 0.0
    """Largest share of the area that a rectangle of the picture's mean colour covers, in half of the pictures."""
    mixup: float = 0.0
    """Alpha of the Beta distribution by which pictures and labels are mixed in pairs (arXiv 1710.09412)."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense. Raises ValueError."""
        for name, value in vars(self).items():
            limit = _LIMITS.get(name, 1)
            if not (0 <= value < limit or value == limit > 1):
                raise ValueError(
                    f"{name} is {value}: it must be at least 0 and {'below 1' if limit == 1 else f'at most {limit}'}"
                )
        if self.rotate or self.zoom or self.shift or self.erase or self.mixup:
            raise ValueError("rotate, zoom, shift, erase and mixup cannot be set yet")


def augment(image: Tensor, config: AugmentConfig, generator: Generator) -> Tensor:
    """uint8 [n, S, S, 3] → optical densities float32 [n, 3, S, S], each picture changed in its own way."""
    light = transmitted(turn(image, generator)).contiguous()
    n, half = len(light), len(light) // 2  # pictures come in random order: halves are random halves

    def uniform(number: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(number, 1, 1, 1, generator=generator)

    light[:half].lerp_(_local_mean(light[:half]), uniform(half, -config.blur, config.blur))
    # A few fields serve the whole batch: drawing normals is slow, and each is seen at another strength and sign.
    fields = torch.randn(_NOISE_FIELDS, *light.shape[1:], generator=generator)
    which = torch.randint(0, _NOISE_FIELDS, (n - half,), generator=generator)
    light[half:].addcmul_(fields[which], uniform(n - half, -config.noise, config.noise))
    stray = uniform(n, 0.0, config.glare)
    light.mul_((1 - stray) * (1 + uniform(n, -config.exposure, config.exposure))).add_(stray)
    density = light.clamp_(_DARKEST, 1.0).log_().neg_()
    mixing = torch.eye(3) + config.stain * torch.randn(n, 3, 3, generator=generator)
    return torch.bmm(mixing, density.flatten(2)).view_as(density)


def turn(image: Tensor, generator: Generator) -> Tensor:
    """Each picture of [n, S, S, c] in one of the eight ways to lay a square: turned by quarters, mirrored or not."""
    way = torch.randint(0, 8, (len(image),), generator=generator)
    turned = torch.empty_like(image)
    for k in range(8):
        chosen = torch.nonzero(way == k).flatten()
        part = torch.rot90(image[chosen], k % 4, dims=(1, 2))
        turned[chosen] = part.flip(2) if k >= 4 else part
    return turned


def _local_mean(light: Tensor) -> Tensor:
    """Mean of each 3×3 neighbourhood, the edge repeated."""
    rows = torch.cat([light[:, :, :1], light, light[:, :, -1:]], dim=2)
    rows = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    both = torch.cat([rows[..., :1], rows, rows[..., -1:]], dim=3)
    return (both[..., :-2] + both[..., 1:-1] + both[..., 2:]) / 9
