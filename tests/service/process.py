"""The whole service as an operator starts it: `python -m service`, BentoML, worker processes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from tests.service.running import Site, eventually

ROOT = Path(__file__).resolve().parents[2]
START_S = 90.0


class Service:
    """A running service; its log is `site.root/service.log`."""

    def __init__(self, site: Site, settings: dict[str, str], command: Sequence[str]) -> None:
        self.site = site
        found = site.settings()
        self.grpc = f"127.0.0.1:{found.grpc_port}"
        self.health = f"127.0.0.1:{found.health_port}"
        self.http = f"http://127.0.0.1:{found.http_port}"
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("BLASTWATCH_", "BENTOML_"))
        }
        environ |= {
            "BENTOML_HOME": str(site.root / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "True",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "BLASTWATCH_STORE_URL": site.url,
            "BLASTWATCH_MODELS_DIR": str(site.root / "models"),
            "BLASTWATCH_HTTP_PORT": str(found.http_port),
            "BLASTWATCH_GRPC_PORT": str(found.grpc_port),
            "BLASTWATCH_HEALTH_PORT": str(found.health_port),
            "BLASTWATCH_POLL_S": "0.1",
            "BLASTWATCH_DRAIN_NOTICE_S": "0",
            **settings,
        }
        self._log = (site.root / "service.log").open("ab")
        # A group of its own, so that all of it can be ended whatever happens.
        self.process = subprocess.Popen(
            command, cwd=site.root, env=environ, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return (self.site.root / "service.log").read_text()

    def status(self, path: str) -> int:
        """The status of GET `path`; 0 while nothing answers."""
        try:
            return httpx.get(self.http + path, timeout=5, trust_env=False).status_code
        except httpx.TransportError:
            return 0

    def metrics(self) -> dict[str, float]:
        """Its own samples, by name with labels, from whichever worker answers."""
        text = httpx.get(self.http + "/metrics", timeout=20, trust_env=False).text
        samples = re.findall(r"^(blastwatch_[^ ]+) ([0-9.e+-]+)$", text, flags=re.MULTILINE)
        return {name: float(value) for name, value in samples}

    def workers(self) -> set[int]:
        """The processes that hold a journal: the file is locked as long as its worker lives."""
        found = set()
        journal = self.site.root / "var/journal"
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if any(journal in handle.readlink().parents for handle in (process / "fd").iterdir()):
                    found.add(int(process.name))
        return found

    def wait(self, path: str = "/readyz", status: int = 200) -> None:
        """Until GET `path` has that status."""

        def there() -> bool:
            assert self.process.poll() is None, self.log
            return self.status(path) == status

        eventually(there, patience_s=START_S)

    def terminate(self) -> int:
        """Asks it to stop and returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """Ends every process of it at once, without a chance to finish anything."""
        # BentoML gives each worker a group of its own, which a signal to the parent's group would miss.
        for pid in (self.process.pid, *_descendants(self.process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(60)
        self._log.close()


def _descendants(pid: int) -> list[int]:
    """Children, their children and so on."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *_descendants(child)]
    return found


@contextlib.contextmanager
def service(
    site: Site, *, command: Sequence[str] = (sys.executable, "-m", "service"), **settings: str
) -> Iterator[Service]:
    """Starts it with BLASTWATCH_<NAME> settings; on leaving nothing of it is left."""
    found = Service(site, {f"BLASTWATCH_{name.upper()}": value for name, value in settings.items()}, command)
    try:
        yield found
    finally:
        found.kill()
