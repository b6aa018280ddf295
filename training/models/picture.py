"""Plain numbers that say what kind of picture it is, whatever the cell: how dense, how sharp, how coloured, where.

The network's features say which class a picture is most like and next to nothing about whether it shows a cell at
all: an empty field is "like" a small pale cell. These numbers are part of the graph's out-of-distribution score.
"""

import torch
from torch import Tensor
from torch.nn import functional

from training.models.stain import plane_mean

SCALES = 3
NUMBERS = 3 + 3 + 3 + SCALES + 3 + 3 + 6 + 2 * SCALES
_SMALL = 1e-4
_PAIRS = ((0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1))
_BRIGHT = 16


def describe(density: Tensor) -> Tensor:
    """Stain densities [n, 3, H, W] → [n, NUMBERS].

    Of each channel the mean and the logarithm of the standard deviation; the correlations between channels (which
    stain); at each scale the logarithm of the Laplacian's share of the variance (focus, noise); of each channel how
    much denser the middle is than the whole (is there a cell?); which dyes there are (`_dyes`); at each scale how much
    less, and how much more, detail there is in one direction than in all (`_directions`: the stage moved).
    """
    mean = plane_mean(density)  # (n, 3, 1, 1)
    centred = density - mean
    deviation = torch.sqrt(plane_mean(centred * centred).flatten(1) + _SMALL)  # (n, 3)
    red, green, blue = (centred[:, k] / deviation[:, k, None, None] for k in range(3))  # (n, H, W) each
    correlation = torch.stack(
        [(one * other).mean(dim=2).mean(dim=1) for one, other in ((red, green), (red, blue), (green, blue))], dim=1
    )
    high, wide = density.shape[2] * 3 // 8, density.shape[3] * 3 // 8
    middle = centred[:, :, high:-high, wide:-wide].mean(dim=(2, 3))  # (n, 3)
    grey = density.mean(dim=1, keepdim=True)  # (n, 1, H, W)
    plain = [mean.flatten(1), torch.log(deviation), correlation, _sharpness(grey), middle]
    return torch.cat([*plain, _dyes(density), _directions(grey)], dim=1)


def _dyes(density: Tensor) -> Tensor:
    """[n, 3, H, W] → [n, 9]: which colours there are above the glass, however much of them.

    Three correlations, of what red and what blue have more than green and of the whole density; six logarithms of how
    much, on average, one channel is denser than another where it is denser. Romanowsky dyes fill a narrow part of that
    space: hardly anything in a smear takes away blue alone, as DAB does, or red alone, as methyl green does.
    """
    small = functional.avg_pool2d(density, 2)  # less noise, and a quarter of the work
    # A mean of a high power of the light is near that of the brightest places: the glass, whatever the white balance.
    glass = -torch.log(plane_mean(torch.exp(-_BRIGHT * small))) / _BRIGHT
    red, green, blue = (small - glass).unbind(dim=1)  # (n, h, w) each
    whole = (red + green + blue) / 3
    centred = [one - _mean(one)[:, None, None] for one in (red - green, blue - green, whole)]
    scaled = [one * torch.rsqrt(_mean(one * one) + _SMALL)[:, None, None] for one in centred]
    correlations = [_mean(scaled[one] * scaled[other]) for one, other in ((0, 1), (0, 2), (1, 2))]
    channels = (red, green, blue)
    amount = _mean(whole).clamp_min(0.01)
    excess = [torch.log(_mean(torch.relu(channels[one] - channels[other])) / amount + 0.02) for one, other in _PAIRS]
    return torch.stack([*correlations, *excess], dim=1)


def _mean(plane: Tensor) -> Tensor:
    """[n, h, w] → [n]; row by row, see plane_mean."""
    return plane.mean(dim=2).mean(dim=1)


def _directions(grey: Tensor) -> Tensor:
    """[n, 1, H, W] → [n, 2 · SCALES]: of four directions' second differences (logarithms of their share of the
    variance) the least and the most less their mean. What moves while it is taken loses detail in one direction.
    """
    centred = grey - plane_mean(grey)
    variance = plane_mean(centred * centred).flatten() + _SMALL  # (n,)
    found = []
    for _ in range(SCALES):
        inner = 2 * grey[:, :, 1:-1, 1:-1]
        pairs = (
            grey[:, :, 1:-1, :-2] + grey[:, :, 1:-1, 2:],
            grey[:, :, :-2, 1:-1] + grey[:, :, 2:, 1:-1],
            grey[:, :, :-2, :-2] + grey[:, :, 2:, 2:],
            grey[:, :, :-2, 2:] + grey[:, :, 2:, :-2],
        )
        second = [inner - pair for pair in pairs]
        detail = torch.stack([torch.log(plane_mean(one * one).flatten() / variance + _SMALL) for one in second], dim=1)
        least, most = detail.min(dim=1).values, detail.max(dim=1).values
        found += [least - detail.mean(dim=1), most - detail.mean(dim=1)]
        grey = functional.avg_pool2d(grey, 2)
    return torch.stack(found, dim=1)


def _sharpness(grey: Tensor) -> Tensor:
    """[n, 1, H, W] → [n, SCALES], each scale half as fine as the one before."""
    centred = grey - plane_mean(grey)
    variance = plane_mean(centred * centred).flatten() + _SMALL  # (n,)
    found = []
    for _ in range(SCALES):
        inner = grey[:, :, 1:-1, 1:-1]
        across = grey[:, :, :-2, 1:-1] + grey[:, :, 2:, 1:-1] + grey[:, :, 1:-1, :-2] + grey[:, :, 1:-1, 2:]
        laplacian = 4 * inner - across
        found.append(torch.log(plane_mean(laplacian * laplacian).flatten() / variance + _SMALL))
        grey = functional.avg_pool2d(grey, 2)
    return torch.stack(found, dim=1)
