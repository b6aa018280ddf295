"""What training minimises with classes of very different sizes: one number a batch, however many processes share it."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from training.figures import Integers
from training.recipe import TrainConfig


def class_weights(label: Integers, classes: int, power: float) -> npt.NDArray[np.float32]:
    """Loss weight of each class [C]: (cells of a mean class / its cells)^power; 0 for a class without cells."""
    count = np.bincount(label, minlength=classes)
    mean = len(label) / max(1, int(np.count_nonzero(count)))
    return np.where(count > 0, (mean / np.maximum(count, 1)) ** power, 0.0).astype(np.float32)


def log_priors(label: Integers, classes: int, power: float) -> npt.NDArray[np.float32]:
    """`power` times the log of each class's share [C]; a class without cells counts as one with a single cell."""
    count = np.maximum(np.bincount(label, minlength=classes), 1)
    return np.asarray(power * np.log(count / count.sum()), dtype=np.float32)


class Loss:
    """The configured loss of a batch's logits.

    weighted       cross-entropy; a cell counts by its class's weight, and the batch's sum is divided by all weights
    focal          the same, its part multiplied by (1 − p of its label)^gamma (Lin et al., arXiv 1708.02002, eq. 5)
    logit_adjusted cross-entropy of logits + log prior, cells counting alike (Menon et al., arXiv 2007.07314, eq. 10);
                   `class_weight` is the paper's τ, so that 0 leaves the imbalance and 1 undoes it here too
    """

    def __init__(self, config: TrainConfig, label: Integers, classes: int, device: torch.device | str) -> None:
        adjusted = config.loss == "logit_adjusted"
        weights = class_weights(label, classes, 0.0 if adjusted else config.class_weight)
        self.weight = torch.from_numpy(weights).to(device)
        self.smoothing = config.label_smoothing
        self.gamma = config.focal_gamma if config.loss == "focal" else 0.0
        self.shift = torch.from_numpy(log_priors(label, classes, config.class_weight)).to(device) if adjusted else None

    def __call__(self, logits: Tensor, label: Tensor, whole: Tensor | None = None) -> Tensor:
        """float32 [n, C], int64 [n] → scalar.

        `whole` are the labels of the batch of which this process has a share, whose mean over processes is then the
        batch's loss; it is left out where there is one process.
        """
        if self.shift is not None:
            logits = logits + self.shift
        if whole is None and not self.gamma:
            return functional.cross_entropy(logits, label, self.weight, label_smoothing=self.smoothing)
        each = self.each(logits, label)
        if whole is None:
            return each.sum() / self.weight[label].sum()
        return each.sum() / (self.weight[whole].sum() * (len(label) / len(whole)))

    def each(self, logits: Tensor, label: Tensor) -> Tensor:
        """Every cell's part [n], weighted but not yet divided."""
        loss = functional.cross_entropy(logits, label, self.weight, reduction="none", label_smoothing=self.smoothing)
        if not self.gamma:
            return loss
        p = functional.softmax(logits, dim=1).gather(1, label[:, None]).flatten()
        return (1 - p) ** self.gamma * loss
