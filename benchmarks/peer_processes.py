"""Environments of the servers that `benchmarks.serving` compares, and their processes on one core."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMON = ("onnxruntime==1.32.0", "numpy==2.4.6", "pillow==13.0.0")
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "grpc": ("grpcio==1.85.1", "protobuf==7.36.2", "SQLAlchemy==2.1.9", "pydantic==2.14.3"),
    "ours": (f"{ROOT}[service]",),
    "mlserver": ("mlserver==1.7.1",),
    "litserve": ("litserve==0.2.19",),
    "bentoml": ("bentoml==1.4.39",),
    "ray": ("ray[serve]==2.60.0",),
}
READY_S = 60.0
WATCH_S = 0.5


class Unavailable(Exception):
    """An environment that cannot be made, or a server that does not start; the text says why."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment that is there."""

    name: str
    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def megabytes(self) -> float:
        """What is installed in it, pip and setuptools included."""
        packages = self.folder / "lib" / "python3.11" / "site-packages"
        return sum(file.lstat().st_blocks * 512 for file in packages.rglob("*") if file.is_file()) / 1e6


def environment(cache: Path, name: str) -> Environment:
    """From the cache, or made there. Raises Unavailable."""
    found = Environment(name, cache / name)
    stamp = found.folder / "installed.txt"
    wanted = "\n".join((*ENVIRONMENTS[name], *COMMON)).replace(str(ROOT), ".")
    if stamp.is_file() and stamp.read_text() == wanted:
        return found
    print(f"{name}: making its environment", flush=True)
    for command in (
        [sys.executable, "-m", "venv", str(found.folder)],
        [str(found.python), "-m", "pip", "install", "--quiet", *ENVIRONMENTS[name], *COMMON],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"not installed: {_last_line(done.stderr)}")
    stamp.write_text(wanted)
    return found


@dataclass
class Server:
    """A process with all that it started. ready_s: from its start until its port answered as asked.

    peak_megabytes: the most that `megabytes` was while it was watched.
    """

    process: subprocess.Popen[bytes]
    ready_s: float = 0.0
    peak_megabytes: float = 0.0

    async def watch(self) -> None:
        """Keeps `peak_megabytes` up to date until it is cancelled."""
        while True:
            self.peak_megabytes = max(self.peak_megabytes, await asyncio.to_thread(self.megabytes))
            await asyncio.sleep(WATCH_S)

    def megabytes(self) -> float:
        """Resident memory of the whole tree now, pages shared between processes counted once (PSS)."""
        return sum(map(_pss, self._tree())) / 1e6

    def largest_megabytes(self) -> float:
        """Resident set of the tree's largest process now: the worker."""
        return max(map(_rss, self._tree()), default=0.0) / 1e6

    def stop(self) -> None:
        """Ends all of it."""
        tree = self._tree()
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        for pid in tree:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def _tree(self) -> list[int]:
        return [self.process.pid, *_descendants(self.process.pid)]


@contextlib.contextmanager
def server(
    command: Sequence[str], *, core: int, port: int, path: str, variables: Mapping[str, str], cwd: Path
) -> Iterator[Server]:
    """Started on one core, and ready: GET `path` is 200, or without a path the port takes a connection.

    Raises Unavailable with the end of its log.
    """
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("BLASTWATCH_", "BENTOML_", "VIRTUAL_ENV"))}
    environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environ |= {"BENTOML_DO_NOT_TRACK": "True", "RAY_USAGE_STATS_ENABLED": "0", **variables}
    log = cwd / "server.log"
    started = time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            cwd=cwd, env=environ, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    found = Server(process)
    try:
        while not answers(port, path):
            if process.poll() is not None or time.perf_counter() - started > READY_S:
                raise Unavailable(f"did not start: {_last_line(log.read_text(errors='replace'))}")
            time.sleep(0.05)
        found.ready_s = time.perf_counter() - started
        yield found
    finally:
        found.stop()


def answers(port: int, path: str) -> bool:
    """Whether it is ready."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            if not path:
                return True
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            return b" 200 " in connection.recv(64)
    except OSError:
        return False


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *_descendants(child)]
    return found


def _pss(pid: int) -> float:
    return _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")


def _rss(pid: int) -> float:
    return _kilobytes(Path(f"/proc/{pid}/status"), "VmRSS:")


def _kilobytes(file: Path, name: str) -> float:
    """In bytes; 0 for a process that is gone."""
    with contextlib.suppress(OSError):
        for line in file.read_text().splitlines():
            if line.startswith(name):
                return 1024.0 * int(line.split()[1])
    return 0.0


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1][:160]
