"""What may change in a picture without changing the cell: pixels in, stain densities out, a batch at a time.

In the order of what happens to light: stain, then optics, then the sensor; but the stain is mixed last, where the
densities are at hand. Not zoomed unless asked to: size is morphology. Every draw comes from the generator passed in, on
whose device everything is done, and what is off draws nothing.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

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


class Mixed(NamedTuple):
    """Pictures mixed in pairs: `share` of each picture itself, the rest of the batch's picture `partner` [n]."""

    density: Tensor
    partner: Tensor
    share: float


def augment(image: Tensor, config: AugmentConfig, generator: Generator) -> Tensor:
    """uint8 [n, S, S, 3] → optical densities float32 [n, 3, S, S], each picture changed in its own way."""
    light = transmitted(turn(image, generator)).contiguous()
    if config.rotate or config.zoom or config.shift:
        light = move(light, config, generator)
    n, half = len(light), len(light) // 2  # pictures come in random order: halves are random halves
    device = light.device
    light[:half].lerp_(_local_mean(light[:half]), _uniform(half, -config.blur, config.blur, generator))
    # A few fields serve the whole batch: drawing normals is slow, and each is seen at another strength and sign.
    fields = torch.randn(_NOISE_FIELDS, *light.shape[1:], generator=generator, device=device)
    which = torch.randint(0, _NOISE_FIELDS, (n - half,), generator=generator, device=device)
    light[half:].addcmul_(fields[which], _uniform(n - half, -config.noise, config.noise, generator))
    stray = _uniform(n, 0.0, config.glare, generator)
    light.mul_((1 - stray) * (1 + _uniform(n, -config.exposure, config.exposure, generator))).add_(stray)
    density = light.clamp_(_DARKEST, 1.0).log_().neg_()
    mixing = torch.randn(n, 3, 3, generator=generator, device=device)
    mixing = torch.eye(3, device=device) + config.stain * mixing
    density = torch.bmm(mixing, density.flatten(2)).view_as(density)
    return erase(density, config.erase, generator) if config.erase else density


def turn(image: Tensor, generator: Generator) -> Tensor:
    """Each picture of [n, S, S, c] in one of the eight ways to lay a square: turned by quarters, mirrored or not."""
    way = torch.randint(0, 8, (len(image),), generator=generator, device=image.device)
    if image.is_cuda:  # whoever asks which pictures go which way waits for the device; doing all is nothing to it
        way = way[:, None, None, None]
        image = torch.where(way & 1 == 1, torch.rot90(image, 1, dims=(1, 2)), image)
        image = torch.where(way & 2 == 2, torch.rot90(image, 2, dims=(1, 2)), image)
        return torch.where(way >= 4, image.flip(2), image)
    turned = torch.empty_like(image)
    for k in range(8):
        chosen = torch.nonzero(way == k).flatten()
        part = torch.rot90(image[chosen], k % 4, dims=(1, 2))
        turned[chosen] = part.flip(2) if k >= 4 else part
    return turned


def move(light: Tensor, config: AugmentConfig, generator: Generator) -> Tensor:
    """[n, c, S, S] rotated, zoomed and shifted about the centre in one bilinear step; mirrored beyond the edge."""
    n = len(light)
    angle = _uniform(n, -math.radians(config.rotate), math.radians(config.rotate), generator).flatten()
    size = 1 + _uniform(n, -config.zoom, config.zoom, generator).flatten()
    # A picture is two units wide in grid_sample's coordinates.
    across, down = (2 * _uniform(n, -config.shift, config.shift, generator).flatten() for _ in range(2))
    cosine, sine = torch.cos(angle) / size, torch.sin(angle) / size
    theta = torch.stack([cosine, -sine, across, sine, cosine, down], dim=1).view(n, 2, 3)
    grid = functional.affine_grid(theta, list(light.shape), align_corners=False)
    return functional.grid_sample(light, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def erase(density: Tensor, largest: float, generator: Generator) -> Tensor:
    """In every other picture a rectangle of up to that share of the area gets the picture's mean density.

    Random erasing (Zhong et al., arXiv 1708.04896), with sides up to 1 : 3. Changes `density` [n, c, S, S] in place.
    """
    part = density[::2]
    n, (height, width) = len(part), part.shape[2:]
    area, slant = _uniform(n, 0.0, largest, generator), _uniform(n, -math.log(3), math.log(3), generator)
    high, wide = ((area * torch.exp(sign * slant)).sqrt().clamp(max=1.0) for sign in (1, -1))
    top, left = (_uniform(n, 0.0, 1.0, generator) * (1 - side) for side in (high, wide))
    y = ((torch.arange(height, device=part.device) + 0.5) / height).view(1, 1, -1, 1)
    x = ((torch.arange(width, device=part.device) + 0.5) / width).view(1, 1, 1, -1)
    inside = (y >= top) & (y < top + high) & (x >= left) & (x < left + wide)
    density[::2] = torch.where(inside, part.mean(dim=(2, 3), keepdim=True), part)
    return density


def mix(density: Tensor, alpha: float, generator: Generator) -> Mixed:
    """Mixup (Zhang et al., arXiv 1710.09412) of the densities of a batch, one share a batch as in the paper's code."""
    device = generator.device
    partner = torch.randperm(len(density), generator=generator, device=device)
    # torch draws no Beta variates from a generator of one's own.
    seed = int(torch.randint(0, 2**62, (), generator=generator, device=device))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    return Mixed(torch.lerp(density[partner], density, share), partner, share)


def _uniform(number: int, low: float, high: float, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(number, 1, 1, 1, generator=generator, device=generator.device)


def _local_mean(light: Tensor) -> Tensor:
    """Mean of each 3×3 neighbourhood, the edge repeated."""
    rows = torch.cat([light[:, :, :1], light, light[:, :, -1:]], dim=2)
    rows = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    both = torch.cat([rows[..., :1], rows, rows[..., -1:]], dim=3)
    return (both[..., :-2] + both[..., 1:-1] + both[..., 2:]) / 9
