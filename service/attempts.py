"""Failed attempts to get in, counted by address: after so many, an address is not listened to for a while."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MAX_ADDRESSES = 4096


@dataclass
class _Tally:
    since: float
    failures: int = 0
    closed_until: float = 0.0


class Attempts:
    """At most `limit` failures within `window_s`, then refusals for `pause_s`; remembers 4096 addresses at most.

    Every client behind one address (a proxy, say) shares its fate. A success does not wipe failures out: whoever has
    one good token could guess on with it.
    """

    def __init__(
        self, *, limit: int, window_s: float, pause_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._window_s = window_s
        self._pause_s = pause_s
        self._clock = clock
        self._tallies: OrderedDict[str, _Tally] = OrderedDict()

    def pause(self, address: str) -> float:
        """Seconds that this address must still wait; 0 for one that may try."""
        if not self._tallies:
            return 0.0
        tally = self._tallies.get(network_of(address))
        return 0.0 if tally is None else max(0.0, tally.closed_until - self._clock())

    def failed(self, address: str) -> None:
        """Counts one failure."""
        now, network = self._clock(), network_of(address)
        tally = self._tallies.get(network)
        if tally is None or now - tally.since > self._window_s:
            tally = self._tallies[network] = _Tally(now)
        self._tallies.move_to_end(network)
        tally.failures += 1
        if tally.failures >= self._limit:
            self._tallies[network] = _Tally(now + self._pause_s, closed_until=now + self._pause_s)
        while len(self._tallies) > MAX_ADDRESSES:
            self._tallies.popitem(last=False)

    def __len__(self) -> int:
        return len(self._tallies)


def network_of(address: str) -> str:
    """The address, or of IPv6 its /64: one machine may take any address of that."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
    return str(found)
