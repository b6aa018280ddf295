"""Stain handling that belongs to the network: it is exported with it, so training and serving cannot differ.

Light that passes a stained cell falls off exponentially with the amount of stain (Beer–Lambert), so amounts add up
in optical density, −log of the transmitted share, and not in pixel values. A stronger stain, a longer exposure or
another white point scale and shift a channel's density; standardising each channel of each picture takes both away.
What is left is how dense a place is against the rest of its own picture, which is how basophilia is read by eye:
against the red cells beside it.
"""

import torch
from torch import Tensor

# A picture with hardly any contrast keeps it that way: without a floor, a blank field's noise would be blown up to
# a cell's.
FLOOR = 0.05


def transmitted(image: Tensor) -> Tensor:
    """uint8 [n, H, W, 3] → the share of light that passed, float32 [n, 3, H, W], 1/256 for black to 1 for white."""
    return (image.permute(0, 3, 1, 2).to(torch.float32) + 1.0) / 256.0


def optical_density(image: Tensor) -> Tensor:
    """uint8 [n, H, W, 3] → float32 [n, 3, H, W], natural log, 0 for white to 5.5 for black."""
    return -torch.log(transmitted(image))


def standardise(density: Tensor) -> Tensor:
    """Each channel of each picture to mean 0 and, above the floor, standard deviation 1; [n, 3, H, W] → the same."""
    centred = density - plane_mean(density)
    return centred * torch.rsqrt(plane_mean(centred * centred) + FLOOR**2)


def plane_mean(maps: Tensor) -> Tensor:
    """Mean of each plane, [n, c, H, W] → [n, c, 1, 1].

    Row by row: a runtime that adds up 16384 float32 numbers one after the other loses two digits, another one does
    not, and their answers would differ.
    """
    return maps.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
