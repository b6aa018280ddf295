"""Batches, each prepared while the one before it trains: the same ones in the same order, only sooner."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Generic, TypeVar

import torch

Batch = TypeVar("Batch")


class Feed(Generic[Batch]):
    """Calls `prepare` for one part of an order after the other, in a thread of its own where `ahead`.

    Draws are made in one thread, in order, so that being ahead changes no batch.
    """

    def __init__(self, prepare: Callable[[torch.Tensor], Batch], *, ahead: bool) -> None:
        self._prepare, self._ahead = prepare, ahead
        self.waited = 0.0
        """Seconds that whoever takes the batches has stood waiting for one."""

    def batches(self, parts: Sequence[torch.Tensor]) -> Iterator[Batch]:
        """One batch a part."""
        if not self._ahead:
            for part in parts:
                started = perf_counter()
                batch = self._prepare(part)
                self.waited += perf_counter() - started
                yield batch
            return
        # The step has the other threads; those of a thread are set in it.
        with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            coming = pool.submit(self._prepare, parts[0])
            for number in range(len(parts)):
                started = perf_counter()
                batch = coming.result()
                self.waited += perf_counter() - started
                if number + 1 < len(parts):
                    coming = pool.submit(self._prepare, parts[number + 1])
                yield batch
