"""Which model answers which patient, and whether all is referred: what the ledger asks beside a version in production.

A canary has a batcher of its own, so that a batch never mixes models, and production never waits for it. Whatever goes
wrong with it (it cannot be loaded, it fails, it ends with cells in work) its patients are answered by production.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from service.batching import Batcher, Row
from service.beside import Beside
from service.contract.artifact import ModelStore
from service.contract.errors import ArtifactError, BlastwatchError, NotReady
from service.contract.image import Pixels
from service.contract.predictor import Predictor
from service.contract.serving import Serving, Share
from service.identity import IdentityError, OutputsError
from service.registry import Registry
from service.shadowing import Shadowing

log = logging.getLogger(__name__)

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

    async def submit(self, pixels: Pixels, *, deadline: float, check: int) -> Row[Predictor]:
        """See Batcher.submit. Raises LaneClosed too."""
        ...


class Production:
    """The lane of the version in production."""

    def __init__(self, registry: Registry, batcher: Batcher[Predictor]) -> None:
        self.current = registry.current
        self._batcher = batcher

    async def submit(self, pixels: Pixels, *, deadline: float, check: int) -> Row[Predictor]:
        """See Batcher.submit."""
        return await self._batcher.submit(pixels, deadline=deadline, check=check)


class Canary:
    """The lane of a share of patients."""

    def __init__(self, share: Share, predictor: Predictor, batcher: Batcher[Predictor]) -> None:
        self.share = share
        self._predictor = predictor
        self._batcher = batcher

    def current(self) -> Predictor:
        """The model that answers now."""
        return self._predictor

    async def submit(self, pixels: Pixels, *, deadline: float, check: int) -> Row[Predictor]:
        """See Batcher.submit. Raises LaneClosed for a lane that ended, and for what its model does wrong."""
        try:
            return await self._batcher.submit(pixels, deadline=deadline, check=check)
        except NotReady as error:
            raise LaneClosed(str(error)) from None
        except (ArtifactError, IdentityError, OutputsError) as error:
            log.error("the canary %s failed, production answers its cell: %s", self._predictor.version, error)
            raise LaneClosed("the canary failed") from error

    async def close(self) -> None:
        """Answers what waits, and takes no more."""
        await self._batcher.stop(timeout_s=DRAIN_S)


class Steering:
    """Follows the ledger every `poll_s` seconds; while it cannot be read what it said last holds.

    `make_batcher` makes a batcher in front of a model. `on_load_failed` is called for each try that fails.
    """

    def __init__(
        self,
        ledger: ServingLedger,
        models: ModelStore,
        production: Lane,
        make_batcher: Callable[[Predictor], Batcher[Predictor]],
        shadowing: Shadowing,
        *,
        threads: int = 1,
        poll_s: float = 1.0,
        on_load_failed: Callable[[], None] = lambda: None,
    ) -> None:
        self.production = production
        self.shadowing = shadowing
        self._ledger = ledger
        self._make_batcher = make_batcher
        self._poll_s = poll_s
        self._serving: Serving | None = None
        self._canary: Canary | None = None
        self._away = False
        self._task: asyncio.Task[None] | None = None
        options: dict[str, Any] = {"pause_s": poll_s, "on_load_failed": on_load_failed}
        self._canaries = Beside("canary", models, self._begin_canary, self._end_canary, threads=threads, **options)
        # One thread: a shadow computes in a thread that yields to the others, and so must whatever it starts.
        self._shadows = Beside("shadow", models, self._begin_shadow, self._end_shadow, threads=1, **options)

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
        """Ends the canary when its cells are answered, and the shadow."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._end_canary()
        await asyncio.to_thread(self.shadowing.stop)

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
        was_on = self._serving is not None and self._serving.refer_all
        if serving.refer_all != was_on:
            log.warning("the kill switch is %s", "on: every answer is referred" if serving.refer_all else "off")
        self._serving = serving
        await self._canaries.follow(serving.canary)
        await self._shadows.follow(serving.shadow)

    async def _for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            await self.poll()

    async def _begin_canary(self, share: Share, predictor: Predictor) -> None:
        batcher = self._make_batcher(predictor)
        await batcher.start()
        self._canary = Canary(share, predictor, batcher)

    async def _end_canary(self) -> None:
        before, self._canary = self._canary, None
        if before is not None:
            await before.close()

    async def _begin_shadow(self, share: Share, predictor: Predictor) -> None:
        self.shadowing.begin(share, predictor)

    async def _end_shadow(self) -> None:
        self.shadowing.end()
