"""What a network costs, counted and not timed."""

import warnings

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(network: nn.Module, picture: Tensor) -> int:
    """Multiplications with an addition of one forward pass over `picture`, [1, 3, H, W], in evaluation mode.

    Of convolutions and matrix products, which are nearly all of it; half of what torch calls floating-point operations.
    """
    training = network.training
    network.eval()
    with warnings.catch_warnings(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        warnings.simplefilter("ignore")  # of a setting for other processors, which the next line does not touch
        # oneDNN's fused LSTM is one opaque operation to the counter; without it the products inside are seen.
        with torch.backends.mkldnn.flags(enabled=False):
            network(picture)
    network.train(training)
    return int(counter.get_total_flops()) // 2
