"""Stain handling that belongs to the network: it is exported with it, so training and serving cannot differ.

Light that passes a stained cell falls off exponentially with the amount of stain (Beer–Lambert), so amounts add up
in optical density, −log of the transmitted share, and not in pixel values. A stronger stain, a longer exposure or
another white point scale and shift a channel's density; standardising each channel of each picture takes both away.
What is left is how dense a place is against the rest of its own picture, which is how basophilia is read by eye:
against the red cells beside it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

# A picture with hardly any contrast keeps it that way: without a floor, a blank field's noise would be blown up to
# a cell's.
FLOOR = 0.05

# How dense each is in red, green and blue: methylene blue and eosin, of which Giemsa's and Wright's stains are made
# (G. Landini's vectors "Giemsa" for colour deconvolution, after Ruifrok and Johnston 2001). What neither explains is
# the third.
METHYLENE_BLUE = (0.834750233, 0.513556283, 0.196330403)
EOSIN = (0.092789, 0.954111, 0.283111)


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


class Deconvolution(nn.Module):
    """Densities of red, green and blue → amounts of stains, by a matrix that is learned.

    The SD-layer of Duggal, Gupta, Gupta and Mallick (MICCAI 2017, reference 42 of the review): a 1×1 convolution in
    optical density that starts as the inverse of known stains' densities and then follows the gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        first, second = torch.tensor(METHYLENE_BLUE), torch.tensor(EOSIN)
        stains = torch.stack([first, second, torch.linalg.cross(first, second)])
        stains = stains / stains.norm(dim=1, keepdim=True)  # (stain, colour)
        self.weight = nn.Parameter(torch.linalg.inv(stains).T.reshape(3, 3, 1, 1).contiguous())

    def forward(self, density: Tensor) -> Tensor:
        """[n, 3, H, W] → [n, 3, H, W]: methylene blue, eosin, the rest."""
        return functional.conv2d(density, self.weight)
