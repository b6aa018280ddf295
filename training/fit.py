"""Training a CNN-GRU, without files: arrays in, weights out.

The same seed gives the same weights on one machine, bit for bit: threads are fixed, every draw comes from a seeded
generator, and batches are prepared one after the other in one thread of control.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.contract.errors import ConfigError
from service.contract.image import Pixels
from training.arrays import Arrays
from training.augment import AugmentConfig, augment
from training.figures import Integers, balanced_accuracy, confusion_matrix
from training.models.cnn_gru import CnnGru, CnnGruConfig
from training.models.inference import outputs, to_arrays

LOSSES = ("weighted", "focal", "logit_adjusted")


@dataclass(frozen=True)
class TrainConfig:
    """Section `train` of params.yaml, less `augment`."""

    seed: int = 0
    threads: int = 2
    """Of the processor; part of what makes two runs equal."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    epochs: int = 22
    """At most."""
    patience: int = 6
    """Epochs without a better validation loss after which training ends."""
    batch: int = 64
    learning_rate: float = 3e-3
    """The highest of the one-cycle schedule (Smith and Topin, arXiv 1708.07120)."""
    warm_up: float = 0.2
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = 0.01
    class_weight: float = 0.5
    """A class counts (cells of a mean class / its cells) to this power: 0 leaves the imbalance, 1 undoes it."""
    label_smoothing: float = 0.05
    average: float = 0.98
    """Decay of the running average of the weights, which is what is validated and kept; 0 keeps the last weights."""
    loss: str = "weighted"
    """weighted: cross-entropy by class weight; focal: also by how wrong a cell is; logit_adjusted: with the classes'
    priors added to the logits."""
    focal_gamma: float = 2.0
    """How much less a cell that is already right counts; only for the focal loss, where 0 is the weighted one."""
    amp: str = "auto"
    """Mixed precision, on or off; auto: on with CUDA. On the CPU it is bfloat16, which is faster on few of them."""
    initial: str = ""
    """Weights to start from: the .npz of a train or pretrain stage, an artifact's folder, or torchvision's .pth of the
    trunk; empty starts from random ones."""
    initial_sha256: str = ""
    """Their hash, which is how the pipeline sees that they have changed."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with. Raises ValueError."""
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device is {self.device!r}: it is auto, cpu or cuda")
        for name in ("threads", "epochs", "patience", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.loss not in LOSSES:
            raise ValueError(f"loss is {self.loss!r}: it is one of {', '.join(LOSSES)}")
        if self.amp not in ("auto", "on", "off"):
            raise ValueError(f'amp is {self.amp!r}: it is auto, "on" or "off", in quotes (YAML reads on as true)')
        if self.focal_gamma < 0:
            raise ValueError(f"focal_gamma is {self.focal_gamma}: it must be at least 0")
        if self.loss != "weighted" or self.amp == "on" or self.initial:
            raise ValueError("loss, amp and initial cannot be set yet")
        for name in ("warm_up", "label_smoothing", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 0 and below 1")


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training cells came to."""

    number: int
    learning_rate: float
    train_loss: float
    validation_loss: float
    """Mean over the classes of their mean negative log-likelihood, so that a rare class has its say in when to stop."""
    validation_balanced_accuracy: float


@dataclass(frozen=True)
class Fitted:
    """The weights of the best epoch, and how it got there."""

    weights: Arrays
    best: Epoch
    history: tuple[Epoch, ...] = field(repr=False)


@dataclass(frozen=True)
class Examples:
    """Pictures uint8 [n, H, W, 3] and the index of their label [n]."""

    images: Pixels
    label: Integers

    def __len__(self) -> int:
        return len(self.label)


def _nothing(_: object) -> None:
    pass


def fit(
    training: Examples,
    validation: Examples,
    model: CnnGruConfig,
    config: TrainConfig,
    augmentation: AugmentConfig,
    *,
    on_step: Callable[[int], None] = _nothing,
    on_epoch: Callable[[Epoch], None] = _nothing,
) -> Fitted:
    """Train until the validation loss has not fallen for `patience` epochs, and keep the epoch where it was lowest.

    `on_step` is called with the number of cells seen in a step. Raises ConfigError without cells to train or validate
    on, and when CUDA is asked for and there is none.
    """
    if not len(training) or not len(validation):
        raise ConfigError("training needs cells in both the train and the validation split: see split in params.yaml")
    device = _device(config.device)
    with reproducible(config.seed, config.threads, strict=device == "cpu"):
        run = _Run(training, model, config, augmentation, device)
        history: list[Epoch] = []
        for number in range(config.epochs):
            loss = run.epoch(on_step)
            score, balanced = _validate(run.average, validation)
            history.append(Epoch(number, run.learning_rate, loss, score, balanced))
            on_epoch(history[-1])
            best = min(history, key=lambda epoch: epoch.validation_loss)
            if best.number == number:
                weights = to_arrays(run.average.state_dict())
            if number - best.number >= config.patience:
                break
        return Fitted(weights, best, tuple(history))


class _Run:
    """The network, its running average and the optimiser, one epoch at a time."""

    def __init__(
        self, training: Examples, model: CnnGruConfig, config: TrainConfig, augmentation: AugmentConfig, device: str
    ) -> None:
        self.config, self.augmentation, self.device = config, augmentation, device
        self.images, self.label = torch.from_numpy(training.images), torch.from_numpy(training.label)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.batch = min(config.batch, len(training))
        self.steps = len(training) // self.batch
        self.taken = 0
        self.network = CnnGru(model)
        self.average = CnnGru(model)
        self.average.load_state_dict(self.network.state_dict())
        # Channels last is the layout that the processor's convolutions want: half as fast again.
        self.network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        total = max(self.steps * config.epochs + 1, 4)
        # A phase of no step divides by zero in OneCycleLR; a handful of cells and epochs gets there.
        warm_up = max(config.warm_up, min(2 / total, 0.5))
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, config.learning_rate, total_steps=total, pct_start=warm_up
        )
        weight = torch.from_numpy(class_weights(training.label, model.classes, config.class_weight)).to(device)
        self.criterion = torch.nn.CrossEntropyLoss(weight, label_smoothing=config.label_smoothing)

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.schedule.get_last_lr()[0])

    def epoch(self, on_step: Callable[[int], None]) -> float:
        """One pass in a new order; the mean loss. Cells that do not fill a batch wait for another epoch's order."""
        self.network.train()
        order = torch.randperm(len(self.label), generator=self.generator)
        total = 0.0
        for step in range(self.steps):
            chosen = order[step * self.batch : (step + 1) * self.batch]
            total += self._step(self.images[chosen], self.label[chosen])
            on_step(self.batch)
        return total / self.steps

    def _step(self, images: Tensor, label: Tensor) -> float:
        density = augment(images, self.augmentation, self.generator)
        density = density.to(self.device).contiguous(memory_format=torch.channels_last)
        loss = self.criterion(self.network(density)[0], label.to(self.device))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.schedule.step()
        self.taken += 1
        # The average starts from the first weights that were learned, not from the random ones.
        self._follow(min(self.config.average, self.taken / (self.taken + 10)))
        return float(loss.detach())

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        """Polyak averaging (Polyak and Juditsky 1992) of weights and normalisation statistics."""
        for kept, new in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(new.to("cpu"), 1 - decay)
            else:
                kept.copy_(new)


def _validate(network: CnnGru, validation: Examples) -> tuple[float, float]:
    """Class-balanced negative log-likelihood, and balanced accuracy."""
    logits = outputs(network, validation.images).logits.astype(np.float64)
    log_p = logits - logits.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    losses = -log_p[np.arange(len(validation)), validation.label]
    by_class = [losses[validation.label == k].mean() for k in np.unique(validation.label)]
    called = logits.argmax(axis=1)
    return float(np.mean(by_class)), float(
        balanced_accuracy(confusion_matrix(validation.label, called, logits.shape[1]))
    )


def class_weights(label: Integers, classes: int, power: float) -> npt.NDArray[np.float32]:
    """Loss weight of each class [C]: (cells of a mean class / its cells)^power; 0 for a class without cells."""
    count = np.bincount(label, minlength=classes)
    mean = len(label) / max(1, int(np.count_nonzero(count)))
    return np.where(count > 0, (mean / np.maximum(count, 1)) ** power, 0.0).astype(np.float32)


@contextmanager
def reproducible(seed: int, threads: int, *, strict: bool = True) -> Iterator[None]:
    """Fixed threads, deterministic algorithms and torch's own generator seeded; all as before afterwards.

    With `strict` an operation that has no deterministic form is an error, else a warning (CUDA lacks some).
    """
    before = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state())
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.set_rng_state(before[2])


def _device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("params.yaml: train.device is cuda, and there is none here: set it to auto or cpu")
    return wanted
