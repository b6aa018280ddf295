"""One training shared by the processes that `torchrun` starts: who this one is, and what they say to each other.

Alone, every step below is the identity, so that the code that trains has no branch for it.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed

from service.contract.errors import ConfigError
from training.models.cnn_gru import CnnGru


@dataclass(frozen=True)
class Group:
    """The processes that share a training, and which one this is."""

    rank: int = 0
    """The one with 0 is the one that writes."""
    size: int = 1
    local_rank: int = 0
    """Its number on its machine, and of the GPU that it takes."""
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and talks."""
        return self.rank == 0

    def share(self, index: Tensor) -> Tensor:
        """Of a batch's cells those that this process takes."""
        return index[self.rank :: self.size]

    def wrap(self, network: CnnGru) -> torch.nn.Module:
        """The network with its gradients averaged over the processes.

        Each process normalises with the statistics of its own share of a batch; `average` keeps the running ones equal.
        """
        if self.size == 1:
            return network
        return torch.nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Floating-point tensors become their mean over the processes, in place and in one message."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= self.size
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def put_together(self, part: npt.NDArray[np.float32], rows: int, device: torch.device) -> npt.NDArray[np.float32]:
        """Of each process the rows rank, rank + size, … → all rows [rows, …]."""
        if self.size == 1:
            return part
        whole = torch.zeros(rows, *part.shape[1:], device=device)
        whole[self.rank :: self.size] = torch.from_numpy(part).to(device)
        distributed.all_reduce(whole)
        return whole.cpu().numpy()

    def gather(self, state: Tensor, device: torch.device) -> list[Tensor]:
        """A CPU tensor of every process, of one shape and type, in the order of their ranks."""
        if self.size == 1:
            return [state]
        mine = state.to(device)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        distributed.all_gather(found, mine)
        return [tensor.cpu() for tensor in found]

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            distributed.barrier()


ALONE = Group()


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """The group that torchrun's environment names, left at the end; ALONE without it.

    nccl between GPUs, gloo between processors. Raises ConfigError for more processes than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda:
        if local_size > torch.cuda.device_count():
            raise ConfigError(
                f"{local_size} processes and {torch.cuda.device_count()} GPUs: start torchrun with as many as GPUs, "
                "or set train.device to cpu"
            )
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=size)
    try:
        yield Group(rank, size, local, local_size)
    finally:
        distributed.destroy_process_group()
