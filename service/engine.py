"""Puts a worker together from its settings, starts it, and takes it down without losing an answer. No transports."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import Executor

from prometheus_client import CollectorRegistry

from service.auth import check_bind, is_loopback
from service.batching import Batcher, compute_thread
from service.contract.errors import NotReady, StoreUnavailable
from service.contract.image import Pixels
from service.contract.pixels import PixelStore
from service.contract.predictor import Predictor
from service.contract.pseudonym import load_key
from service.contract.shared_models import model_store
from service.core import Core
from service.domain import ModelInfo
from service.door import Door
from service.expiry import expiring
from service.identity import Computed, compute
from service.intake import Intake
from service.journal import Journal
from service.late import LateLedger, LateShadows, LateStore
from service.metrics import build_metrics, forget_dead_workers
from service.registry import Registry, RegistryEvent
from service.retention import Retention
from service.settings import Settings
from service.shadowing import Shadowing
from service.shipper import Shipper
from service.steering import Production, Steering
from service.turns import Turns

log = logging.getLogger(__name__)

GAUGE_PERIOD_S = 0.5
IN_HAND_BATCHES = 2
"""One is decoded and put on record while one is computed; more would only wait out of turn."""
ALWAYS_BATCHES = 4
"""A service with so little to do takes everything, however slow it was lately."""


class Engine:
    """One worker: the core and everything it stands on."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = build_metrics(CollectorRegistry(), settings)
        self.door = Door(settings, self.metrics)
        self._core: Core | None = None
        self._draining = False
        self._turns = Turns(
            max_queue=settings.max_queue,
            at_once=min(settings.max_queue, IN_HAND_BATCHES * settings.max_batch),
            always=min(settings.max_queue, ALWAYS_BATCHES * settings.max_batch),
            max_queue_s=settings.max_queue_ms / 1000,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = contextlib.AsyncExitStack()

    def core(self) -> Core:
        """Raises NotReady before the start and after the stop."""
        if self._core is None:
            raise NotReady("the service is starting or stopping: try again")
        return self._core

    def ready(self) -> bool:
        """Whether a cell would be answered now, and for a while yet."""
        return self._core is not None and not self._draining and self._core.ready()

    def drain(self) -> None:
        """Reports not ready from now on; calls that still come are answered."""
        self._draining = True

    async def start(self) -> None:
        """Starts the worker; whatever was started before a failure is stopped again.

        Raises ConfigError. That there is no model, or no store, is no failure: the worker is not ready then.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Finishes what is under way, ships the journal if the store can be reached, and lets everything go."""
        self.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self._closing.aclose()
        self._core = None

    async def _start(self) -> None:
        """In this order, and stopped in the opposite one."""
        settings, metrics, closing = self.settings, self.metrics, self._closing
        check_bind(settings)
        forget_dead_workers()
        await self._trace()
        self.door.audit.start()
        closing.push_async_callback(self.door.audit.stop)
        key = load_key(settings.key_file, create=is_loopback(settings.http_host))
        store, ledger = LateStore(settings.store_url), LateLedger(settings.store_url)
        shadows = LateShadows(settings.store_url)
        closing.callback(shadows.close)
        closing.callback(store.close)
        closing.callback(ledger.close)
        try:
            await asyncio.to_thread(store.open)
        except StoreUnavailable as error:
            log.warning("%s; answers wait in the journal until it can be", error)

        journal = Journal(settings.journal_dir, max_bytes=settings.journal_max_bytes)
        shipper = Shipper(settings.journal_dir, journal, store, on_store_away=lambda: metrics.store_unreachable.inc())
        await shipper.start()
        # Closed first, so that what was accepted until the end is shipped too.
        closing.push_async_callback(shipper.stop)
        closing.push_async_callback(journal.close)

        models = model_store(settings.models, settings.models_url)
        registry = Registry(
            ledger,
            models,
            seed=settings.seed_model,
            threads=settings.threads,
            poll_s=settings.poll_s,
            heartbeats=store,
            worker=journal.worker,
            on_event=self._on_event,
        )
        await registry.start()
        closing.push_async_callback(registry.stop)

        retention = Retention(settings, PixelStore(settings.pixels_dir))
        closing.callback(retention.close)
        expiry = expiring(settings)
        expiry.start()
        closing.push_async_callback(expiry.stop)
        # Where a worker has one processor, two threads on it only take each other's turns.
        thread = compute_thread()
        closing.callback(thread.shutdown, wait=False, cancel_futures=True)
        intake = Intake(None if processors(settings.workers) >= 2 else thread)
        batcher = self._batcher(registry.compute, thread)
        await batcher.start()
        steering = Steering(
            ledger,
            models,
            Production(registry, batcher),
            lambda predictor: self._batcher(lambda batch: compute(predictor, batch)),
            Shadowing(
                shadows.insert,
                on_answered=lambda agrees: metrics.shadow_answers.labels(str(agrees).lower()).inc(),
                on_dropped=metrics.shadow_dropped.inc,
            ),
            threads=settings.threads,
            poll_s=settings.poll_s,
            on_load_failed=metrics.failed_loads.inc,
        )
        await steering.start()
        self._core = Core(settings, steering, self._turns, intake, journal, store, retention, key, metrics)
        closing.callback(self._core.close)
        closing.callback(intake.close)
        closing.push_async_callback(batcher.stop, timeout_s=settings.drain_s)
        closing.push_async_callback(steering.stop)
        self._tasks = [
            asyncio.create_task(self._gauges(steering, batcher, journal), name="gauges"),
            asyncio.create_task(retention.purge_for_ever(), name="purge"),
        ]

    def _batcher(
        self, run: Callable[[Pixels], Computed[Predictor]], thread: Executor | None = None
    ) -> Batcher[Predictor]:
        settings = self.settings
        return Batcher(
            run,
            max_batch=settings.max_batch,
            max_wait_s=settings.max_wait_ms / 1000,
            max_queue=settings.max_queue,
            coming=lambda: self._turns.coming,
            executor=thread,
        )

    async def _trace(self) -> None:
        """Traces the calls from now on, where the settings name a collector."""
        if not self.settings.trace_endpoint:
            return
        # Only now: the exporter takes its time to import.
        from service.tracing import FLUSH_S, Tracing

        flush_s = min(FLUSH_S, self.settings.drain_s)
        tracing = Tracing(self.settings.trace_endpoint, self.settings.trace_sample, flush_s)
        self.door.tracing = tracing
        # Stopped last: what still waits then is sent, within a few seconds.
        self._closing.push_async_callback(tracing.stop)

    def _on_event(self, event: RegistryEvent) -> None:
        """Counts what happens to the registry; called in its thread."""
        counters = {
            RegistryEvent.SWAPPED: self.metrics.swaps,
            RegistryEvent.ROLLED_BACK: self.metrics.rollbacks,
            RegistryEvent.LOAD_FAILED: self.metrics.failed_loads,
            RegistryEvent.LEDGER_UNREACHABLE: self.metrics.ledger_unreachable,
            RegistryEvent.HEARTBEAT_FAILED: self.metrics.store_unreachable,
        }
        counters[event].inc()

    async def _gauges(self, steering: Steering, batcher: Batcher[Predictor], journal: Journal) -> None:
        """Gauges are set again and again: the files that workers share cannot call a function when they are read."""
        served: ModelInfo | None = None
        before = {"canary": "", "shadow": ""}
        while True:
            self.metrics.in_work.set(self._turns.in_work)
            self.metrics.queue_depth.set(self._turns.waiting + batcher.depth)
            self.metrics.journal_pending.set(journal.pending_bytes)
            with contextlib.suppress(NotReady):
                self.metrics.refer_all_workers.set(steering.refers_all())
                model = self.core().model()
                if model != served:
                    if served is not None:
                        self.metrics.serving(served, 0)
                    self.metrics.serving(model, 1)
                    served = model
            beside = {"canary": steering.canary_version, "shadow": steering.shadowing.version}
            for role, version in beside.items():
                if version != before[role]:
                    if before[role]:
                        self.metrics.beside_workers.labels(role, before[role]).set(0)
                    if version:
                        self.metrics.beside_workers.labels(role, version).set(1)
            before = beside
            await asyncio.sleep(GAUGE_PERIOD_S)


def processors(workers: int) -> float:
    """How many processors one of so many workers has to itself."""
    # The affinity, not the number in the machine: a container or taskset may have left fewer.
    return len(os.sched_getaffinity(0)) / workers
