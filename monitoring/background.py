"""Work that may lag, be dropped or fail without anybody waiting for it, in one thread."""

import logging
import threading
from collections import deque
from collections.abc import Callable

_logger = logging.getLogger(__name__)


class Background:
    """Runs jobs one after another. When more than `most` wait, the oldest is dropped: a newer one says more."""

    def __init__(self, most: int, on_failure: Callable[[], None]) -> None:
        """`on_failure` is called for a job that raised and for one that was dropped."""
        self._waiting: deque[tuple[str, Callable[[], None]]] = deque()
        self._most = most
        self._on_failure = on_failure
        self._change = threading.Condition()
        self._busy = False
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="reports", daemon=True)
        self._thread.start()

    def submit(self, name: str, job: Callable[[], None]) -> None:
        """Queue a job; never blocks."""
        with self._change:
            if self._closed:
                return
            self._waiting.append((name, job))
            dropped = self._waiting.popleft()[0] if len(self._waiting) > self._most else None
            self._change.notify_all()
        if dropped is not None:
            _logger.warning("%s is dropped: too many wait", dropped)
            self._on_failure()

    def idle(self, timeout_s: float) -> bool:
        """Wait until nothing is left to do; False when it took longer."""
        with self._change:
            return self._change.wait_for(lambda: not self._waiting and not self._busy, timeout_s)

    def close(self, timeout_s: float) -> None:
        """Take nothing more, drop what waits, and let the job at hand finish for at most `timeout_s`."""
        with self._change:
            self._closed = True
            self._waiting.clear()
            self._change.notify_all()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: bool(self._waiting) or self._closed)
                if self._closed:
                    return
                name, job = self._waiting.popleft()
                self._busy = True
            try:
                job()
            except Exception:
                # A picture for people: the verdict is on record and stands without it.
                _logger.exception("%s failed", name)
                self._on_failure()
            finally:
                with self._change:
                    self._busy = False
                    self._change.notify_all()
