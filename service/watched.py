"""A value read from files that is read again when they change, and stays what it was while they make no sense."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from service.contract.errors import ConfigError

log = logging.getLogger(__name__)

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int] | None, ...]
PATIENCE_S = 15.0
"""So long a starting worker waits for files that belong together: nothing replaces two of them at once."""
LOOK_S = 0.2


class Watched(Generic[T]):
    """What `load` makes of `paths`; looking whether they changed costs one stat each.

    Raises ConfigError, from `load`, when there is no good value yet, nor after `patience_s`. Later failures are logged
    once a change and told to `on_failure`, and the last good value stays.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        load: Callable[[], T],
        on_failure: Callable[[], None],
        *,
        patience_s: float = 0.0,
    ) -> None:
        self._paths = tuple(paths)
        self._load = load
        self._on_failure = on_failure
        self._lock = threading.Lock()  # gRPC asks for certificates from threads of its own
        # Taken before the files are read: a change in between is seen as one at the next look.
        self._stamp = self._look()
        self._value = self._first(time.monotonic() + patience_s)

    def get(self) -> T:
        """The value of the files as they are now, or the last good one."""
        with self._lock:
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._value = self._load()
                except ConfigError as error:
                    log.error("%s; what was read before stays in force", error)
                    self._on_failure()
                else:
                    log.info("read again: %s", ", ".join(map(str, self._paths)))
            return self._value

    def _first(self, until: float) -> T:
        waited = False
        while True:
            try:
                return self._load()
            except ConfigError as error:
                if time.monotonic() >= until:
                    raise
                if not waited:
                    log.warning("%s; perhaps they are being replaced: trying again for a while", error)
                waited = True
            time.sleep(LOOK_S)
            self._stamp = self._look()

    def _look(self) -> Stamp:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
