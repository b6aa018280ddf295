"""What a system costs: weights, multiply-adds and milliseconds of one picture on one core."""

from collections.abc import Callable
from dataclasses import dataclass
from time import process_time

import numpy as np
import torch
from torch import nn

from service.contract.image import Pixels
from training.models.cost import multiply_adds
from training.models.stain import optical_density

_RUNS = 9


@dataclass(frozen=True)
class Cost:
    """`parameters` and `multiply_adds` are of networks alone, None without one; `ms` is of one picture, one core."""

    parameters: int | None
    multiply_adds: int | None
    ms: float


def network_size(network: nn.Module, picture: Pixels) -> tuple[int, int]:
    """Weights, and multiply-adds of uint8 [1, H, W, 3]."""
    density = optical_density(torch.from_numpy(picture))
    return sum(weight.numel() for weight in network.parameters()), multiply_adds(network, density)


def milliseconds(answer: Callable[[Pixels], object], picture: Pixels) -> float:
    """Processor time of one picture on one thread, the least of nine: other work on the machine hardly counts in it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    try:
        answer(picture)
        for _ in range(_RUNS):
            started = process_time()
            answer(picture)
            times.append(process_time() - started)
    finally:
        torch.set_num_threads(before)
    return float(np.min(times) * 1000)
