"""Plain numbers that say what kind of picture it is, whatever the cell: how dense, how sharp, how coloured, where.

The network's features say which class a picture is most like and next to nothing about whether it shows a cell at
all: an empty field is "like" a small pale cell. These numbers are part of the graph's out-of-distribution score.
"""

import torch
from torch import Tensor
from torch.nn import functional

from training.models.stain import plane_mean

SCALES = 3
NUMBERS = 3 + 3 + 3 + SCALES + 3
_SMALL = 1e-4


def describe(density: Tensor) -> Tensor:
    """Stain densities [n, 3, H, W] → [n, NUMBERS].

    Of each channel the mean and the logarithm of the standard deviation; the correlations between channels (which
    stain); at each scale the logarithm of the Laplacian's share of the variance (focus, noise); of each channel how
    much denser the middle is than the whole (is there a cell?).
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
    return torch.cat([mean.flatten(1), torch.log(deviation), correlation, _sharpness(grey), middle], dim=1)


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
