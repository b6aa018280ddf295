"""A site's state in a folder, and a real worker on it: engine, gRPC and HTTP on free loopback ports."""

import asyncio
import contextlib
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvicorn

from service.contract.artifact import Artifact, Thresholds
from service.contract.ledger import Ledger
from service.contract.store import Store
from service.engine import Engine
from service.grpc_server import Servers
from service.http_api import Seat, create_app
from service.settings import Settings
from tests.support.artifacts import tiny_artifact

T = TypeVar("T")

PATIENCE_S = 20.0
LENIENT = Thresholds(abstain=0.0, ood=1e9)


def free_ports(count: int = 3) -> list[int]:
    """Ports that nothing listens on, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(opened.getsockname()[1]) for opened in sockets]


def eventually(what: Callable[[], T], *, patience_s: float = PATIENCE_S) -> T:
    """The first truthy result of `what`, asked again and again; fails the test after `patience_s`."""
    until = time.monotonic() + patience_s
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


@dataclass
class Site:
    """A folder with everything a service keeps."""

    root: Path

    @property
    def url(self) -> str:
        """The store's URL; the database has a folder of its own, which a test may take away."""
        return f"sqlite:///{self.root}/db/store.db"

    @property
    def store(self) -> Store:
        """The store, opened once more."""
        return Store(self.url)

    @property
    def ledger(self) -> Ledger:
        """The ledger, opened once more."""
        return Ledger(self.url)

    def settings(self, **values: object) -> Settings:
        """Settings of a worker here, quick to follow the ledger, keeping no pixels unless told."""
        http, grpc, health = free_ports()
        defaults: dict[str, object] = {
            "root": self.root,
            "store_url": self.url,
            "models_dir": self.root / "models",
            "poll_s": 0.05,
            "http_port": http,
            "grpc_port": grpc,
            "health_port": health,
            "image_retention": "none",
        }
        return Settings(**{**defaults, **values})  # type: ignore[arg-type]

    def add(self, *, seed: int = 0, size: int = 32, thresholds: Thresholds = LENIENT, **options: Any) -> Artifact:
        """Puts a model into the model store."""
        artifact = tiny_artifact(self.root / "new", seed=seed, size=size, thresholds=thresholds, **options)
        target = self.root / "models" / artifact.version
        if target.exists():
            shutil.rmtree(self.root / "new")
        else:
            target.parent.mkdir(exist_ok=True)
            (self.root / "new").rename(target)
        return Artifact(target, artifact.manifest, artifact.version)

    def promote(self, version: str) -> None:
        """Makes it the model in production."""
        ledger = self.ledger
        ledger.append("registered", version=version)
        ledger.promote(version, ledger.production())
        ledger.close()

    def take_store_away(self) -> None:
        """Nobody can reach the database from now on."""
        (self.root / "db").rename(self.root / "db.away")

    def bring_store_back(self) -> None:
        """It is where it was."""
        (self.root / "db.away").rename(self.root / "db")


@contextlib.asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[Engine]:
    """An engine without transports."""
    engine = Engine(settings)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


@contextlib.contextmanager
def held(engine: Engine) -> Iterator[None]:
    """As if a cell were on its way and never came: each batch waits for it as long as `max_wait_ms` allows."""
    engine._turns.coming += 1
    try:
        yield
    finally:
        engine._turns.coming -= 1


@contextlib.contextmanager
def busy(threads: ThreadPoolExecutor) -> Iterator[None]:
    """As if each of these threads were at something that takes until the end of the context."""
    let_go = threading.Event()
    for _ in range(threads._max_workers):
        threads.submit(let_go.wait)
    eventually(lambda: threads._work_queue.empty())
    try:
        yield
    finally:
        let_go.set()


class Worker:
    """A whole worker in a thread of its own: engine, gRPC servers, HTTP."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine = Engine(settings)
        self.servers = Servers(self.engine)
        self.grpc = f"127.0.0.1:{settings.grpc_port}"
        self.health = f"127.0.0.1:{settings.health_port}"
        self.http = f"{'https' if settings.tls_certificate else 'http'}://127.0.0.1:{settings.http_port}"
        seat = Seat()
        seat.fill(self.engine)
        config = uvicorn.Config(
            create_app(seat),
            host="127.0.0.1",
            port=settings.http_port,
            log_config=None,
            lifespan="off",
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
        )
        self._uvicorn = uvicorn.Server(config)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="worker", daemon=True)
        self._serving: Any = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the worker's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def start(self) -> None:
        """Returns once everything listens."""
        self._thread.start()
        self.run(self.engine.start())
        self.run(self.servers.start())
        self._serving = asyncio.run_coroutine_threadsafe(self._uvicorn.serve(), self._loop)
        eventually(lambda: self._uvicorn.started)

    def stop(self) -> None:
        """In the order of `service.bento`."""
        self._uvicorn.should_exit = True
        self._serving.result(60)
        self.engine.drain()
        self.run(self.servers.stop())
        self.run(self.engine.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()


@contextlib.contextmanager
def working(settings: Settings) -> Iterator[Worker]:
    """A started worker."""
    worker = Worker(settings)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()
