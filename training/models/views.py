"""A cell has no up and no down: the same picture turned and mirrored, for an average over what the network makes of it.

What is averaged are the features. The last layer is linear, so the logits are averaged with them, and the embedding
and its distance stay functions of what the classifier saw.
"""

import torch
from torch import Tensor


def stack_views(maps: Tensor, number: int) -> Tensor:
    """The first `number` (1, 2, 4, 8) of the dihedral group's views: [n, c, H, W] → [number·n, c, H, W].

    Each number is a subgroup: 2 adds the half turn, 4 the mirror images, 8 (H = W) the quarter turns. So the average
    is the same whichever of its views a picture comes in.
    """
    found = [maps]
    if number >= 2:
        found.append(maps.flip((2, 3)))
    if number >= 4:
        found += [maps.flip(2), maps.flip(3)]
    if number == 8:
        found += [view.transpose(2, 3) for view in found]
    return torch.cat(found)


def mean_of_views(features: Tensor, number: int) -> Tensor:
    """[number·n, F] → [n, F]."""
    return features.reshape(number, -1, features.shape[1]).mean(dim=0)
