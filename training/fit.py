"""Training a CNN-GRU, without files: arrays in, weights out.

The same seed gives the same weights on one machine, bit for bit: threads are fixed, every draw comes from a seeded
generator, and batches are prepared in order. Processes that share a training (training.distributed) take their share of
every batch, and all end with the same weights.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from math import nan

import numpy as np
import numpy.typing as npt
import torch

from service.contract.errors import ConfigError
from training.arrays import Arrays
from training.augment import AugmentConfig
from training.checkpoint import Checkpoint
from training.distributed import ALONE, Group
from training.figures import Integers, balanced_accuracy, confusion_matrix
from training.learner import Examples, Learner
from training.losses import class_weights
from training.models.cnn_gru import CnnGru, CnnGruConfig
from training.models.inference import to_arrays
from training.recipe import TrainConfig

__all__ = ["Epoch", "Examples", "Fitted", "TrainConfig", "class_weights", "fit", "reproducible"]


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
    resumed: int = 0
    """Epochs of them that an earlier attempt had done."""
    waited: float = 0.0
    """Seconds in which training waited for a batch."""


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
    start: Callable[[CnnGru], object] = _nothing,
    checkpoint: Checkpoint | None = None,
    group: Group = ALONE,
) -> Fitted:
    """Train until the validation loss has not fallen for `patience` epochs, and keep the epoch where it was lowest.

    With a patience of 0 all epochs are run and the last weights kept; `validation` may then be empty, and its figures
    are NaN. `on_step` is called with the number of cells seen in a step. `start` may change the random weights first.
    With a `checkpoint` every epoch's state is saved there, and training goes on from what it holds, to the same weights
    as if it had never stopped; whoever has stored the weights deletes it. Raises ConfigError without cells to train or
    validate on, when CUDA is asked for and there is none, and for batches smaller than the group.
    """
    if not len(training) or (config.patience and not len(validation)):
        raise ConfigError("training needs cells in both the train and the validation split: see split in params.yaml")
    if min(config.batch, len(training)) < group.size:
        raise ConfigError(f"{group.size} processes cannot share a batch of {min(config.batch, len(training))} cells")
    device = _device(config.device, group)
    with reproducible(config.seed, max(1, config.threads // group.local_size), strict=device.type == "cpu"):
        learner = Learner(training, model, config, augmentation, device, group, start)
        history: list[Epoch] = []
        weights: Arrays = {}
        if checkpoint is not None and (saved := checkpoint.load()) is not None:
            learner.restore(saved)
            history = [Epoch(int(number), *rest) for number, *rest in saved["history"].tolist()]
            weights = {name.removeprefix("best/"): value for name, value in saved.items() if name.startswith("best/")}
        resumed = len(history)
        for epoch in history:
            on_step(learner.steps * learner.batch)
            on_epoch(epoch)
        while len(history) < config.epochs and not _over(history, config.patience):
            loss = learner.epoch(on_step)
            score, balanced = nan, nan
            if len(validation):
                score, balanced = _score(learner.logits(validation.images), validation.label)
            history.append(Epoch(len(history), learner.learning_rate, loss, score, balanced))
            on_epoch(history[-1])
            if _kept(history, config.patience) is history[-1]:
                weights = to_arrays(learner.average.state_dict())
            if checkpoint is not None:
                state = learner.state()
                state |= {f"best/{name}": value for name, value in weights.items()}
                state["history"] = np.array([astuple(epoch) for epoch in history], dtype=np.float64)
                if group.first:
                    checkpoint.save(state)
        return Fitted(weights, _kept(history, config.patience), tuple(history), resumed, learner.feed.waited)


def _kept(history: list[Epoch], patience: int) -> Epoch:
    return min(history, key=lambda epoch: epoch.validation_loss) if patience else history[-1]


def _over(history: list[Epoch], patience: int) -> bool:
    return bool(history and patience) and history[-1].number - _kept(history, patience).number >= patience


def _score(logits: npt.NDArray[np.float32], label: Integers) -> tuple[float, float]:
    """Class-balanced negative log-likelihood, and balanced accuracy."""
    log_p = logits.astype(np.float64)
    called = log_p.argmax(axis=1)
    log_p = log_p - log_p.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    losses = -log_p[np.arange(len(label)), label]
    by_class = [losses[label == k].mean() for k in np.unique(label)]
    return float(np.mean(by_class)), float(balanced_accuracy(confusion_matrix(label, called, logits.shape[1])))


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


def _device(wanted: str, group: Group) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("params.yaml: train.device is cuda, and there is none here: set it to auto or cpu")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", group.local_rank)
