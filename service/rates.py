"""How many cells a second a client may send: a token bucket for each (Turner, 1986)."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from service.contract.errors import RateLimited

MAX_CLIENTS = 4096


@dataclass
class _Bucket:
    tokens: float
    at: float


class Rates:
    """`rate` cells a second for each client, `burst` at once after a pause; a rate of 0 is no limit.

    A message with more cells than the burst passes when the bucket is full, and the client pays it off afterwards.
    """

    def __init__(self, rate: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def spend(self, client: str, cells: int) -> None:
        """Takes so many cells off the client's account. Raises RateLimited, and takes none then."""
        if not self._rate:
            return
        now = self._clock()
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = _Bucket(self._burst, now)
        self._buckets.move_to_end(client)
        while len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._rate)
        bucket.at = now
        wanted = min(float(cells), self._burst)
        if bucket.tokens < wanted:
            missing = (wanted - bucket.tokens) / self._rate
            raise RateLimited(f"more than {self._rate:g} cells a second: send them more slowly", retry_after_s=missing)
        bucket.tokens -= cells

    def __len__(self) -> int:
        return len(self._buckets)
