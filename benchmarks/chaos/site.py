"""The site under test: two service workers, a monitor, PostgreSQL and an object store, all processes of their own."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.chaos.database import Database
from service.contract.artifact import Artifact
from tests.service.process import ROOT, Service
from tests.service.running import Site, free_ports

START_S = 60.0
MONITOR = (sys.executable, "-m", "monitoring")


@dataclass
class ServerSite(Site):
    """A site whose store is on a server."""

    database: str

    @property
    def url(self) -> str:
        """The store's URL."""
        return self.database


def until(what: Callable[[], object], patience_s: float, why: str) -> None:
    """Waits until `what` is truthy; raises TimeoutError that says `why`."""
    end = time.monotonic() + patience_s
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(f"{why}: not within {patience_s:g} s")
        time.sleep(0.05)


Prepare = Callable[[contextlib.ExitStack, Path], Sequence[str]]
"""Makes what a fault needs below the site's folder, and has the stack undo it; words to put before the service's
command."""


def nothing_more(stack: contextlib.ExitStack, root: Path) -> Sequence[str]:
    """For faults that need nothing of their own."""
    return ()


class Program:
    """A process that can be killed and started again; its log is a file."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], url: str, log: Path) -> None:
        self._command, self._environment, self._url, self._log = command, environment, url, log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it answers."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self._log.parent, env=self._environment, stdout=log, stderr=log
            )
        until(self.answers, START_S, f"{self._log.stem} answers")

    def answers(self) -> bool:
        """Whether it answers HTTP."""
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(self._url, timeout=2, trust_env=False).status_code == 200
        return False

    def kill(self) -> None:
        """SIGKILL; nothing if it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)


@dataclass
class Place:
    """All of it, running. first: the model in production; second: another one, registered. others: services that ran
    before, or beside.
    """

    site: ServerSite
    server: Database
    service: Service
    monitor: Program
    objects: Program
    objects_url: str
    environment: dict[str, str]
    first: Artifact
    second: Artifact
    settings: dict[str, str]
    command: Sequence[str]
    others: list[Service] = field(default_factory=list)

    def workers(self) -> set[int]:
        """The worker processes of the service."""
        return self.service.workers()

    def again(self) -> None:
        """Starts the service as it was, on the same ports."""
        ports = {
            "BLASTWATCH_GRPC_PORT": self.service.grpc.rpartition(":")[2],
            "BLASTWATCH_HTTP_PORT": self.service.http.rpartition(":")[2],
            "BLASTWATCH_HEALTH_PORT": self.service.health.rpartition(":")[2],
        }
        before = self.service
        self.others.append(before)
        self.service = Service(self.site, {**self.settings, **ports}, self.command)
        self.service.grpc, self.service.http, self.service.health = before.grpc, before.http, before.health

    def beside(self) -> Service:
        """Another service of the site, with ports of its own."""
        return Service(self.site, self.settings, self.command)


def object_store(folder: Path) -> tuple[Program, str]:
    """An S3 server (moto) that keeps its buckets in memory; not started."""
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    return Program(command, dict(os.environ), f"{url}/moto-api/", folder / "objects.log"), url


@contextlib.contextmanager
def place(server: Database, *, prepare: Prepare = nothing_more, **settings: str) -> Iterator[Place]:
    """Starts everything; on leaving nothing of it is left. settings: BLASTWATCH_<NAME> of the service."""
    root = Path(tempfile.mkdtemp(prefix="blastwatch-site-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        site = ServerSite(root, server.url())
        first, second = site.add(seed=0), site.add(seed=1)
        ledger = site.ledger
        ledger.append("registered", version=second.version)
        ledger.close()
        site.promote(first.version)
        words = prepare(stack, root)
        named = {"BLASTWATCH_WORKERS": "2", "BLASTWATCH_DRAIN_NOTICE_S": "1"}
        named |= {f"BLASTWATCH_{name.upper()}": value for name, value in settings.items()}
        command = [*words, sys.executable, "-m", "service"]
        environment = _environment(site)
        watched = f"http://127.0.0.1:{environment['BLASTWATCH_MONITOR_PORT']}/healthz"
        monitor = Program(MONITOR, environment, watched, root / "monitor.log")
        objects, objects_url = object_store(root)
        service = Service(site, named, command)
        found = Place(site, server, service, monitor, objects, objects_url, environment, first, second, named, command)
        stack.callback(_end, found)
        objects.start()
        monitor.start()
        found.service.wait()
        until(lambda: len(found.workers()) == 2, START_S, "two workers")
        yield found


def _end(found: Place) -> None:
    for service in (found.service, *found.others):
        service.kill()
    for program in (found.monitor, found.objects):
        program.kill()
    # Workers that outlived their parent hold the journal.
    for pid in found.workers():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _environment(site: ServerSite) -> dict[str, str]:
    """What the monitor and its commands see."""
    [port] = free_ports(1)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BLASTWATCH_", "BENTOML_"))}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "DO_NOT_TRACK": "1",
        "BLASTWATCH_ROOT": str(site.root),
        "BLASTWATCH_STORE_URL": site.url,
        "BLASTWATCH_MODELS_DIR": str(site.root / "models"),
        "BLASTWATCH_MONITOR_PORT": str(port),
        "BLASTWATCH_MONITOR_REPORTS": "false",
        # What starts in a drill is what the drill starts.
        "BLASTWATCH_MONITOR_TRIGGER": "alerts",
        "BLASTWATCH_MONITOR_POLICY__COOLDOWN_S": "0",
        "BLASTWATCH_MONITOR_POLICY__BUDGET_RUNS": "100",
        "BLASTWATCH_MONITOR_POLICY__MIN_REVIEWED_CELLS": "1",
        "BLASTWATCH_MONITOR_POLICY__MIN_REVIEWED_PATIENTS": "1",
        "OMP_NUM_THREADS": "1",
    }
