"""Batches that are prepared ahead are the same batches, and their errors are not lost."""

import time

import pytest
import torch
from torch import Tensor

from training.feeding import Feed


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_come_in_order_with_the_draws_of_one_thread(ahead: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    feed: Feed[Tensor] = Feed(lambda part: part + torch.rand(len(part), generator=generator), ahead=ahead)
    found = list(feed.batches(torch.split(torch.arange(40.0), 8)))
    again = torch.Generator().manual_seed(0)
    expected = [part + torch.rand(8, generator=again) for part in torch.split(torch.arange(40.0), 8)]
    assert len(found) == 5 and all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("ahead", [False, True])
def test_an_error_while_preparing_reaches_whoever_trains(ahead: bool) -> None:
    def prepare(part: Tensor) -> Tensor:
        if int(part) == 2:
            raise OSError("the file is gone")
        return part

    seen = []
    with pytest.raises(OSError, match="gone"):
        for batch in Feed(prepare, ahead=ahead).batches([torch.tensor(k) for k in range(4)]):
            seen.append(int(batch))
    assert seen == [0, 1]


def test_the_next_batch_is_prepared_while_this_one_is_trained_on() -> None:
    made: list[int] = []

    def prepare(part: Tensor) -> int:
        made.append(int(part))
        return int(part)

    threads = torch.get_num_threads()
    batches = Feed(prepare, ahead=True).batches([torch.tensor(k) for k in range(3)])
    assert next(batches) == 0
    for _ in range(1000):
        if len(made) > 1:
            break
        time.sleep(0.01)
    assert made == [0, 1], "one ahead, no more: a batch is memory"
    assert list(batches) == [1, 2]
    assert torch.get_num_threads() == threads


def test_standing_still_counts_as_waiting() -> None:
    def slow(part: Tensor) -> Tensor:
        time.sleep(0.05)
        return part

    feed = Feed(slow, ahead=False)
    list(feed.batches([torch.tensor(k) for k in range(3)]))
    assert feed.waited >= 0.15
