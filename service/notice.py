"""The time between SIGTERM and the end of taking calls: readiness is off, and callers go elsewhere meanwhile."""

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType

log = logging.getLogger(__name__)


def give_notice(seconds: float, drain: Callable[[], None]) -> None:
    """From now on SIGTERM calls `drain` at once, and the handler that was there only after `seconds`.

    A second SIGTERM does not wait. For the event loop's thread, which must be the main one; does nothing elsewhere.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    stop = signal.getsignal(signal.SIGTERM)
    if not callable(stop):
        return
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.TimerHandle] = []

    def begin(number: int, frame: FrameType | None) -> None:
        def end() -> None:
            stop(number, frame)

        def notice() -> None:
            drain()
            if waiting or not seconds:
                end()
                return
            log.info("told to stop: not ready any more, calls are taken for another %g s", seconds)
            waiting.append(loop.call_later(seconds, end))

        # Not in the signal handler itself, which may come between any two steps of the loop.
        loop.call_soon_threadsafe(notice)

    signal.signal(signal.SIGTERM, begin)
