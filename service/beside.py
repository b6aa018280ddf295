"""A model beside the one in production: loaded when the ledger names it, and let go when it does not any more."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from service.contract.artifact import ModelStore
from service.contract.errors import BlastwatchError
from service.contract.predictor import Predictor
from service.contract.serving import Share
from service.registry import load_predictor

log = logging.getLogger(__name__)

LONGEST_PAUSE_S = 60.0

Load = Callable[[Path, str | None, int], Predictor]


@dataclass(frozen=True)
class _Failure:
    share: Share
    pause_s: float
    retry_at: float


class Beside:
    """Follows a share; one that cannot be loaded is tried again after a pause that doubles up to a minute.

    `begin` gets each model that is loaded, `end` is called before another one and when there is none any more.
    """

    def __init__(
        self,
        what: str,
        models: ModelStore,
        begin: Callable[[Share, Predictor], Awaitable[None]],
        end: Callable[[], Awaitable[None]],
        *,
        threads: int = 1,
        pause_s: float = 1.0,
        on_load_failed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        load: Load = load_predictor,
    ) -> None:
        self._what = what
        self._models = models
        self._begin = begin
        self._end = end
        self._threads = threads
        self._pause_s = pause_s
        self._on_load_failed = on_load_failed
        self._clock = clock
        self._load = load
        self._share: Share | None = None
        self._failure: _Failure | None = None

    async def follow(self, share: Share | None) -> None:
        """Does as the ledger says. No failure is raised."""
        if share == self._share:
            return
        failure = self._failure if self._failure is not None and self._failure.share == share else None
        if failure is not None and self._clock() < failure.retry_at:
            return
        if self._share is not None:
            log.info("%s %s is none any more", self._what, self._share.version)
            self._share = None
            await self._end()
        if share is None:
            self._failure = None
            return
        try:
            path = await asyncio.to_thread(self._models.path, share.version)
            predictor = await asyncio.to_thread(self._load, path, share.version, self._threads)
        except Exception as error:
            pause = min(LONGEST_PAUSE_S, 2 * (failure.pause_s if failure else self._pause_s))
            self._failure = _Failure(share, pause, self._clock() + pause)
            self._on_load_failed()
            surprise = None if isinstance(error, BlastwatchError) else error
            text = "%s %s cannot be loaded, tried again in %.0f s: %s"
            log.error(text, self._what, share.version, pause, error, exc_info=surprise)
            return
        self._failure = None
        self._share = share
        await self._begin(share, predictor)
        log.info("%s %s has %.3g %% from now on", self._what, share.version, 100 * share.share)
