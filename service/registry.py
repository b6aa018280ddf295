"""Which model answers: the one that the ledger names, loaded and proved before the one before it is let go."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from service.contract.artifact import ModelStore, read_artifact
from service.contract.errors import BlastwatchError, NotReady
from service.contract.image import Pixels
from service.contract.predictor import Predictor
from service.identity import Computed, compute
from service.periodic import Periodic

logger = logging.getLogger(__name__)

LONGEST_PAUSE_S = 60.0


class ProductionLedger(Protocol):
    """The part of the ledger that a worker reads."""

    def production(self) -> str | None:
        """The version in production. Raises BlastwatchError when that cannot be said."""
        ...

    def went_back(self) -> bool:
        """Whether it is in production because of a rollback. Raises BlastwatchError when that cannot be said."""
        ...


class Heartbeats(Protocol):
    """The part of the store that a worker reports to."""

    def heartbeat(self, worker: str, version: str, at: float) -> None:
        """Note what a worker serves at `at` (seconds since the epoch). Raises StoreUnavailable."""
        ...


class RegistryEvent(StrEnum):
    """What happens to a registry that an operator wants counted."""

    SWAPPED = "swapped"
    ROLLED_BACK = "rolled_back"
    LOAD_FAILED = "load_failed"
    LEDGER_UNREACHABLE = "ledger_unreachable"
    HEARTBEAT_FAILED = "heartbeat_failed"


class FieldChanged(NotReady):
    """The new model sees another field than the pixels were prepared for: prepare them again."""


@dataclass(frozen=True)
class _Failure:
    """A model that could not be loaded, how often that was tried, and when it is tried again."""

    name: str
    attempts: int
    retry_at: float


def load_predictor(path: Path, version: str | None, threads: int) -> Predictor:
    """Read, verify every hash, load and prove against the recorded answers. Raises BlastwatchError."""
    predictor = Predictor(read_artifact(path, expect_version=version), threads)
    predictor.warm_up()
    return predictor


class Registry:
    """Keeps the predictor of the version in production; asks the ledger every `poll_s` seconds in a thread.

    A new model takes over between two batches, once it is loaded and warm. One that cannot be loaded changes nothing:
    it is tried again after a pause that doubles up to a minute, and another version at once. While the ledger cannot be
    read the last model stays. While it names no version, `seed` is served if it is given. `worker` names this process
    in heartbeats. `on_event` is called in the registry's thread.
    """

    def __init__(
        self,
        ledger: ProductionLedger,
        models: ModelStore,
        *,
        seed: Path | None = None,
        threads: int = 1,
        poll_s: float = 1.0,
        heartbeats: Heartbeats | None = None,
        worker: str | None = None,
        on_event: Callable[[RegistryEvent], None] = lambda event: None,
        clock: Callable[[], float] = time.monotonic,
        load: Callable[[Path, str | None, int], Predictor] = load_predictor,
    ) -> None:
        self.worker = worker or uuid4().hex
        self._ledger = ledger
        self._models = models
        self._seed = seed
        self._threads = threads
        self._poll_s = poll_s
        self._heartbeats = heartbeats
        self._on_event = on_event
        self._clock = clock
        self._load = load
        self._current: Predictor | None = None
        self._failure: _Failure | None = None
        self._ledger_away = False
        self._heartbeats_fail = False
        self._polling = Periodic("registry", self._poll_and_wait)

    def current(self) -> Predictor:
        """The model that answers now. Raises NotReady."""
        predictor = self._current
        if predictor is None:
            raise NotReady(self._why_not_ready())
        return predictor

    def compute(self, batch: Pixels) -> Computed[Predictor]:
        """Run a batch, uint8 [n, H, W, 3], on the current model. What the batcher calls.

        Raises NotReady, FieldChanged when the batch was prepared for another model's field, ArtifactError.
        """
        predictor = self.current()
        field = predictor.manifest.field
        if batch.shape[1:3] != (field.height, field.width):
            raise FieldChanged("the model changed while the image was prepared for the one before: try again")
        return compute(predictor, batch)

    async def start(self) -> None:
        """Ask once, so that a worker starts with its model, then go on in a thread. No failure is raised."""
        await asyncio.to_thread(self.poll)
        self._polling.start()

    async def stop(self) -> None:
        """Stop asking; the model stays."""
        await self._polling.stop()

    def poll(self) -> None:
        """One round: ask the ledger, take the model it names, report what is served."""
        try:
            version = self._ledger.production()
        except Exception as error:
            self._on_event(RegistryEvent.LEDGER_UNREACHABLE)
            if not self._ledger_away:
                logger.error("the ledger cannot be read, the last model stays: %s", error, exc_info=_surprise(error))
            self._ledger_away = True
        else:
            self._ledger_away = False
            self._follow(version)
        self._report()

    def _poll_and_wait(self) -> float:
        self.poll()
        return self._poll_s

    def _follow(self, version: str | None) -> None:
        if version is not None:
            if self._current is None or self._current.version != version:
                self._take(version, lambda: self._load(self._models.path(version), version, self._threads))
            else:
                self._failure = None
        elif self._current is None and self._seed is not None:
            seed = self._seed
            self._take("seed", lambda: self._load(seed, None, self._threads))

    def _take(self, name: str, load: Callable[[], Predictor]) -> None:
        failure = self._failure if self._failure is not None and self._failure.name == name else None
        if failure is not None and self._clock() < failure.retry_at:
            return
        try:
            predictor = load()
        except Exception as error:
            attempts = failure.attempts + 1 if failure else 1
            pause = min(LONGEST_PAUSE_S, self._poll_s * 2**attempts)
            self._failure = _Failure(name, attempts, self._clock() + pause)
            self._on_event(RegistryEvent.LOAD_FAILED)
            text = "model %s cannot be loaded, tried again in %.0f s: %s"
            logger.error(text, name, pause, error, exc_info=_surprise(error))
            return
        self._failure = None
        before, self._current = self._current, predictor
        self._on_event(RegistryEvent.SWAPPED)
        logger.info("model %s answers from now on", predictor.version)
        if before is not None:
            self._note_rollback(before.version)

    def _note_rollback(self, before: str) -> None:
        try:
            went_back = self._ledger.went_back()
        except Exception as error:
            logger.warning("whether this was a rollback cannot be said: %s", error, exc_info=_surprise(error))
            return
        if went_back:
            self._on_event(RegistryEvent.ROLLED_BACK)
            logger.warning("model %s was rolled back", before)

    def _report(self) -> None:
        if self._heartbeats is None or self._current is None:
            return
        try:
            self._heartbeats.heartbeat(self.worker, self._current.version, time.time())
            self._heartbeats_fail = False
        except Exception as error:
            self._on_event(RegistryEvent.HEARTBEAT_FAILED)
            if not self._heartbeats_fail:
                logger.warning("the heartbeat cannot be written: %s", error, exc_info=_surprise(error))
            self._heartbeats_fail = True

    def _why_not_ready(self) -> str:
        # No path and no version: this text goes to callers, the log has the rest.
        if self._ledger_away:
            return "no model yet: the ledger cannot be read, see the service's log"
        if self._failure is not None:
            return "no model yet: the one in production cannot be loaded, see the service's log"
        return "no model is in production: run `dvc repro` to train and promote one"


def _surprise(error: Exception) -> Exception | None:
    """The error where its traceback belongs in the log: it is none of those that explain themselves."""
    return None if isinstance(error, BlastwatchError) else error
