"""Work done again and again in a thread of its own, so that a slow disk or database never holds up an answer."""

import asyncio
import logging
import threading
from collections.abc import Callable

from service.priority import give_way

logger = logging.getLogger(__name__)

AFTER_SURPRISE_S = 5.0


class Periodic:
    """Calls `work` until it is stopped; `work` returns the seconds to wait before the next call.

    A call that raises is logged and tried again later: what `work` looks after must outlive its faults.
    """

    def __init__(self, name: str, work: Callable[[], float]) -> None:
        self._name = name
        self._work = work
        self._stopped = threading.Event()
        # A daemon: a database that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        """Begin, once."""
        self._thread.start()

    async def stop(self) -> None:
        """Wait for the call under way, if any; there is none after it."""
        self._stopped.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _loop(self) -> None:
        give_way()
        while not self._stopped.is_set():
            try:
                wait_s = self._work()
            except Exception:
                logger.exception("%s failed; it goes on", self._name)
                wait_s = AFTER_SURPRISE_S
            self._stopped.wait(wait_s)
