"""Transfer learning: every weight of a network, trained on a fold's cells with the pipeline's own augmentation."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from service.contract.image import Pixels
from training.augment import AugmentConfig, augment
from training.figures import Floats, Integers
from training.fit import class_weights, reproducible
from training.models.stain import optical_density
from training.zoo.settings import ZooConfig

BATCH = 32


def fine_tune(
    build: Callable[[], nn.Module], images: Pixels, label: Integers, classes: int, config: ZooConfig,
    augmentation: AugmentConfig, *, epochs: int, seed: int,
) -> nn.Module:  # fmt: skip
    """A network (densities in, log-probabilities out) trained for `epochs`; the same seed gives the same weights.

    No validation cells are held back and no epoch is chosen: the last weights are kept. `build` is called under the
    seed, so that what is random in it is repeatable too.
    """
    with reproducible(seed, config.threads):
        network = build().train()
        generator = torch.Generator().manual_seed(seed)
        pictures, labels = torch.from_numpy(images), torch.from_numpy(label)
        size = min(config.batch, len(label))
        steps = len(label) // size
        weight = torch.from_numpy(class_weights(label, classes, config.class_weight))
        rate = config.learning_rate
        optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=config.weight_decay)
        total = max(steps * epochs + 1, 8)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, config.learning_rate, total_steps=total, pct_start=0.3
        )
        for _ in range(epochs):
            order = torch.randperm(len(label), generator=generator)
            for step in range(steps):
                chosen = order[step * size : (step + 1) * size]
                said = network(augment(pictures[chosen], augmentation, generator))
                loss = nn.functional.nll_loss(said, labels[chosen], weight)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
        return network.eval()


def in_batches(network: nn.Module, images: Pixels, *, threads: int = 1) -> Floats:
    """What a network (densities in) says of uint8 [n, H, W, 3] in evaluation mode, float64 [n, …]."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    network.eval()
    parts: list[Tensor] = []
    try:
        with torch.inference_mode():
            for start in range(0, len(images), BATCH):
                parts.append(network(optical_density(torch.from_numpy(images[start : start + BATCH]))))
    finally:
        torch.set_num_threads(before)
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float64)
