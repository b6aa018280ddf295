"""The network in training: its running average, its optimiser and its random draws, one epoch at a time.

Everything that the next step depends on can be taken out (`state`) and put back (`restore`), to the bit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.contract.image import Pixels
from training.arrays import Arrays
from training.augment import AugmentConfig, augment, mix
from training.distributed import Group
from training.feeding import Feed
from training.figures import Integers
from training.losses import Loss
from training.models.cnn_gru import CnnGru, CnnGruConfig
from training.models.inference import BATCH, outputs, to_arrays
from training.models.stain import optical_density
from training.recipe import TrainConfig

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Examples:
    """Pictures uint8 [n, H, W, 3], in memory or mapped from a file, and the index of their label [n]."""

    images: Pixels
    label: Integers

    def __len__(self) -> int:
        return len(self.label)


class Batch(NamedTuple):
    """A process's share of a batch."""

    pictures: Tensor
    """uint8 [n, H, W, 3]; augmented, densities [n, 3, H, W]."""
    label: Tensor
    whole: Tensor | None = None
    """The labels of the batch that this is a share of; None where there is one process."""
    partner: Tensor | None = None
    """The picture that each is mixed with; None where they are not."""
    share: float = 1.0
    """Of each picture itself in the mixture."""


class Learner:
    """Trains on `training`; one of `group`'s processes, each with its share of every batch."""

    def __init__(
        self,
        training: Examples,
        model: CnnGruConfig,
        config: TrainConfig,
        augmentation: AugmentConfig,
        device: torch.device,
        group: Group,
        start: Callable[[CnnGru], object],
    ) -> None:
        self.config, self.augmentation, self.device, self.group = config, augmentation, device, group
        self.training, self.label = training, torch.from_numpy(np.asarray(training.label))
        self.batch = min(config.batch, len(training)) // group.size * group.size
        self.steps = len(training) // self.batch
        self.taken = 0
        self.network = CnnGru(model)
        self.average = CnnGru(model)
        start(self.network)
        self.average.load_state_dict(self.network.state_dict())
        self.average.to(device)
        # Channels last is the layout that the processor's convolutions want: half as fast again.
        self.network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        self.schedule = _one_cycle(self.optimiser, config, self.steps * config.epochs + 1)
        self.loss = Loss(config, training.label, model.classes, device)
        mixed = config.amp == "on" or (config.amp == "auto" and device.type == "cuda")
        half = torch.bfloat16 if device.type == "cpu" or torch.cuda.is_bf16_supported() else torch.float16
        self.precision = torch.autocast(device.type, half, enabled=mixed)
        # float16 loses small gradients unless they are scaled up; without it this does nothing.
        self.scaler = torch.amp.GradScaler(device.type, enabled=mixed and half == torch.float16)
        # One order for all processes, and draws of their own for what they do to their cells. Alone on the CPU one
        # generator does both, and torch's own, which dropout draws from, goes on from the random weights.
        self.order = torch.Generator().manual_seed(config.seed)
        self.draws = self.order
        if group.size > 1 or device.type != "cpu":
            self.draws = torch.Generator(device).manual_seed(config.seed + 1 + group.rank)
        if group.size > 1:
            torch.manual_seed(config.seed + 1 + group.rank)
        self.module = group.wrap(self.network)
        self.feed: Feed[Batch] = Feed(self._prepare, ahead=torch.get_num_threads() > 1 or device.type != "cpu")
        self._followed = list(zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True))
        self._statistics = [value for value in self.network.buffers() if value.is_floating_point()]

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.schedule.get_last_lr()[0])

    def epoch(self, on_step: Callable[[int], None]) -> float:
        """One pass in a new order; the mean loss. Cells that do not fill a batch wait for another epoch's order."""
        self.network.train()
        order = torch.randperm(len(self.label), generator=self.order)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for batch in self.feed.batches(torch.split(order[: self.steps * self.batch], self.batch)):
            total += self._step(batch)
            on_step(self.batch)
        self.group.average([total])
        return float(total) / self.steps

    def _prepare(self, chosen: Tensor) -> Batch:
        mine = self.group.share(chosen)
        pictures = torch.from_numpy(self.training.images[mine.numpy()])
        batch = Batch(pictures, self.label[mine], self.label[chosen] if self.group.size > 1 else None)
        if self.device.type == "cpu":
            return self._augmented(batch)
        # The device augments: it would wait for the processor otherwise.
        pinned = (None if part is None else part.pin_memory() for part in batch[:3])
        return Batch(*pinned)  # type: ignore[arg-type]

    def _augmented(self, batch: Batch) -> Batch:
        """All that draws from `draws`: in one thread, or the draws would be whoever's comes first."""
        density = augment(batch.pictures, self.augmentation, self.draws)
        if not self.augmentation.mixup:
            return batch._replace(pictures=density)
        mixed = mix(density, self.augmentation.mixup, self.draws)
        return batch._replace(pictures=mixed.density, partner=mixed.partner, share=mixed.share)

    def _step(self, batch: Batch) -> Tensor:
        if self.device.type != "cpu":
            there = (None if part is None else part.to(self.device, non_blocking=True) for part in batch[:3])
            batch = self._augmented(Batch(*there))  # type: ignore[arg-type]
        density, label, whole, partner, share = batch
        with self.precision:
            logits = self.module(density.contiguous(memory_format=torch.channels_last))[0]
        loss = self.loss(logits.float(), label, whole)
        if partner is not None:
            loss = share * loss + (1 - share) * self.loss(logits.float(), label[partner], whole)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.step()
        self.taken += 1
        self.group.average(self._statistics)
        # The average starts from the first weights that were learned, not from the random ones.
        self._follow(min(self.config.average, self.taken / (self.taken + 10)))
        return loss.detach()

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        """Polyak averaging (Polyak and Juditsky 1992) of weights and normalisation statistics."""
        for kept, new in self._followed:
            if kept.is_floating_point():
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)

    def logits(self, images: Pixels) -> npt.NDArray[np.float32]:
        """Of the running average, for uint8 [n, H, W, 3]: float32 [n, C], each process doing its share."""
        mine = images if self.group.size == 1 else images[self.group.rank :: self.group.size]
        if not len(mine):
            part = np.zeros((0, self.average.config.classes), dtype=np.float32)
        elif self.device.type == "cpu":
            part = outputs(self.average, mine).logits
        else:
            part = self._logits_there(mine)
        return self.group.put_together(part, len(images), self.device)

    @torch.inference_mode()
    def _logits_there(self, images: Pixels) -> npt.NDArray[np.float32]:
        self.average.eval()
        parts = []
        for start in range(0, len(images), BATCH):
            pictures = torch.from_numpy(np.array(images[start : start + BATCH])).to(self.device)
            parts.append(self.average(optical_density(pictures))[0].float().cpu())
        return torch.cat(parts).numpy()

    def state(self) -> Arrays:
        """Named arrays; every process must ask, and all get the same."""
        arrays = {f"network/{name}": value for name, value in to_arrays(self.network.state_dict()).items()}
        arrays |= {f"average/{name}": value for name, value in to_arrays(self.average.state_dict()).items()}
        for number, weight in enumerate(self.network.parameters()):
            moments = self.optimiser.state[weight]  # {} for a weight that nothing depends on
            arrays |= {f"optimiser/{number}/{name}": value.cpu().numpy().copy() for name, value in moments.items()}
        setting = self.optimiser.param_groups[0]
        arrays["schedule"] = np.array([self.taken, setting["lr"], *setting["betas"]], dtype=np.float64)
        arrays |= {f"random/{name}": self._gathered(state) for name, state in self._random().items()}
        if scaling := self.scaler.state_dict():
            arrays["scaler"] = np.array([scaling["scale"], scaling["_growth_tracker"]], dtype=np.float64)
        return arrays

    def restore(self, arrays: Arrays) -> None:
        """The reverse of `state`."""
        for kind, network in (("network", self.network), ("average", self.average)):
            network.load_state_dict({name: torch.from_numpy(arrays[f"{kind}/{name}"]) for name in network.state_dict()})
        for number, weight in enumerate(self.network.parameters()):
            for name in _MOMENTS if f"optimiser/{number}/step" in arrays else ():
                value = torch.from_numpy(arrays[f"optimiser/{number}/{name}"])
                # In the layout that the weight has: in another one the next step would round otherwise.
                kept = value if name == "step" else torch.empty_like(weight.detach()).copy_(value)
                self.optimiser.state[weight][name] = kept
        taken, rate, *betas = arrays["schedule"].tolist()
        self.taken = int(taken)
        self.schedule.load_state_dict({"last_epoch": self.taken, "_step_count": self.taken + 1, "_last_lr": [rate]})
        self.optimiser.param_groups[0].update(lr=rate, betas=tuple(betas))
        if "scaler" in arrays:
            scale, tracker = arrays["scaler"].tolist()
            known = self.scaler.state_dict()
            self.scaler.load_state_dict({**known, "scale": scale, "_growth_tracker": int(tracker)})
        found = {name: torch.from_numpy(arrays[f"random/{name}"][self.group.rank].copy()) for name in self._random()}
        self.order.set_state(found["order"])
        self.draws.set_state(found["draws"])
        torch.set_rng_state(found["torch"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(found["cuda"], self.device)

    def _random(self) -> Mapping[str, Tensor]:
        states = {"order": self.order.get_state(), "draws": self.draws.get_state(), "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def _gathered(self, state: Tensor) -> npt.NDArray[np.uint8]:
        return np.stack([part.numpy() for part in self.group.gather(state, self.device)])


def _one_cycle(
    optimiser: torch.optim.Optimizer, config: TrainConfig, steps: int
) -> torch.optim.lr_scheduler.OneCycleLR:
    total = max(steps, 4)
    # A phase of no step divides by zero in OneCycleLR; a handful of cells and epochs gets there.
    warm_up = max(config.warm_up, min(2 / total, 0.5))
    return torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=total, pct_start=warm_up)
