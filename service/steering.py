"""Which model answers which patient, and whether all is referred: what the ledger asks beside a version in production.

A canary has a batcher of its own, so that a batch never mixes models, and production never waits for it. Whatever goes
wrong with it (it cannot be loaded, it fails, it ends with cells in work) its patients are answered by production.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from service.batching import Batcher, Row
from service.contract.artifact import ModelStore
from service.contract.errors import ArtifactError, BlastwatchError, NotReady
from service.contract.image import Pixels
from service.contract.predictor import Predictor
from service.contract.serving import Serving, Share
from service.identity import IdentityError, OutputsError
from service.registry import Registry, load_predictor

log = logging.getLogger(__name__)

LONGEST_PAUSE_S = 60.0
DRAIN_S = 10.0


class ServingLedger(Protocol):
    """The part of the ledger that is read here."""

    def serving(self) -> Serving:
        """What it asks of workers. Raises BlastwatchError when that cannot be said."""
        ...


class LaneClosed(NotReady):
    """The lane's model does not answer any more: production does."""


class Lane(Protocol):
    """A model and the queue to it."""

    def current(self) -> Predictor:
        """The model that answers now. Raises NotReady."""
        ...

    async def submit(self, pixels: Pixels, *, deadline: float) -> Row[Predictor]:
        """See Batcher.submit. Raises LaneClosed too."""
        ...


class Production:
    """The lane of the version in production."""

    def __init__(self, registry: Registry, batcher: Batcher[Predictor]) -> None:
        self.current = registry.current
        self._batcher = batcher

    async def submit(self, pixels: Pixels, *, deadline: float) -> Row[Predictor]:
        """See Batcher.submit."""
        return await self._batcher.submit(pixels, deadline=deadline)


class Canary:
    """The lane of a share of patients."""

    def __init__(self, share: Share, predictor: Predictor, batcher: Batcher[Predictor]) -> None:
        self.share = share
        self._predictor = predictor
        self._batcher = batcher

    def current(self) -> Predictor:
        """The model that answers now."""
        return self._predictor

    async def submit(self, pixels: Pixels, *, deadline: float) -> Row[Predictor]:
        """See Batcher.submit. Raises LaneClosed for a lane that ended, and for what its model does wrong."""
        try:
            return await self._batcher.submit(pixels, deadline=deadline)
        except NotReady as error:
            raise LaneClosed(str(error)) from None
        except (ArtifactError, IdentityError, OutputsError) as error:
            log.error("the canary %s failed, production answers its cell: %s", self._predictor.version, error)
            raise LaneClosed("the canary failed") from error

    async def close(self) -> None:
        """Answers what waits, and takes no more."""
        await self._batcher.stop(timeout_s=DRAIN_S)


@dataclass(frozen=True)
class _Failure:
    share: Share
    pause_s: float
    retry_at: float


class Steering:
    """Follows the ledger every `poll_s` seconds; while it cannot be read what it said last holds.

    `make_batcher` puts a started batcher in front of a model. `on_load_failed` is called for each try that fails.
    """

    def __init__(
        self,
        ledger: ServingLedger,
        models: ModelStore,
        production: Lane,
        make_batcher: Callable[[Predictor], Batcher[Predictor]],
        *,
        threads: int = 1,
        poll_s: float = 1.0,
        on_load_failed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        load: Callable[[Path, str | None, int], Predictor] = load_predictor,
    ) -> None:
        self.production = production
        self._ledger = ledger
        self._models = models
        self._make_batcher = make_batcher
        self._threads = threads
        self._poll_s = poll_s
        self._on_load_failed = on_load_failed
        self._clock = clock
        self._load = load
        self._serving: Serving | None = None
        self._canary: Canary | None = None
        self._failure: _Failure | None = None
        self._away = False
        self._task: asyncio.Task[None] | None = None

    def refers_all(self) -> bool:
        """Whether the kill switch is on. Raises NotReady while the ledger has not said so yet."""
        if self._serving is None:
            raise NotReady("it is not known yet whether everything is to be referred: the ledger cannot be read")
        return self._serving.refer_all

    def lane(self, patient: str, specimen_id: str) -> Lane:
        """Who answers this patient (a pseudonym); without one the specimen counts, without both production answers."""
        canary = self._canary
        key = patient or specimen_id
        return canary if canary is not None and key and canary.share.has(key) else self.production

    @property
    def canary_version(self) -> str:
        """The version that answers a share of patients here, or ""."""
        return self._canary.current().version if self._canary is not None else ""

    async def start(self) -> None:
        """Asks once, then goes on in a task. No failure is raised."""
        await self.poll()
        self._task = asyncio.create_task(self._for_ever(), name="steering")

    async def stop(self) -> None:
        """Ends the canary's lane when its cells are answered."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._set_canary(None)

    async def poll(self) -> None:
        """One round: ask the ledger and do as it says."""
        try:
            serving = await asyncio.to_thread(self._ledger.serving)
        except Exception as error:
            if not self._away:
                surprise = None if isinstance(error, BlastwatchError) else error
                log.error("the ledger cannot be read, canary and kill switch stay: %s", error, exc_info=surprise)
            self._away = True
            return
        self._away = False
        if self._serving is None or serving.refer_all != self._serving.refer_all:
            if serving.refer_all:
                log.warning("the kill switch is on: every answer is referred")
            elif self._serving is not None:
                log.warning("the kill switch is off")
        self._serving = serving
        if serving.canary != (self._canary.share if self._canary is not None else None):
            await self._follow(serving.canary)

    async def _for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            await self.poll()

    async def _follow(self, share: Share | None) -> None:
        if share is None:
            self._failure = None
            await self._set_canary(None)
            return
        failure = self._failure if self._failure is not None and self._failure.share == share else None
        if failure is not None and self._clock() < failure.retry_at:
            return
        # The one before is not this canary: its patients are production's until this one is loaded.
        await self._set_canary(None)
        try:
            path = await asyncio.to_thread(self._models.path, share.version)
            predictor = await asyncio.to_thread(self._load, path, share.version, self._threads)
        except Exception as error:
            pause = min(LONGEST_PAUSE_S, 2 * (failure.pause_s if failure else self._poll_s))
            self._failure = _Failure(share, pause, self._clock() + pause)
            self._on_load_failed()
            surprise = None if isinstance(error, BlastwatchError) else error
            log.error(
                "canary %s cannot be loaded, production answers; tried again in %.0f s: %s",
                *(share.version, pause, error),
                exc_info=surprise,
            )
            return
        self._failure = None
        batcher = self._make_batcher(predictor)
        await batcher.start()
        await self._set_canary(Canary(share, predictor, batcher))
        log.info("canary %s answers %.3g %% of the patients from now on", share.version, 100 * share.share)

    async def _set_canary(self, canary: Canary | None) -> None:
        before, self._canary = self._canary, canary
        if before is not None:
            log.info("canary %s answers no more", before.current().version)
            await before.close()
