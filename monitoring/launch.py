"""What it takes to start a retraining as a process: its lock, its name, its command, what it sees."""

import contextlib
import fcntl
import json
import math
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from monitoring.settings import PREFIX, Settings

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

Command = Callable[[str, int], Sequence[str]]
"""(run, number of the lock's file descriptor) → the command line of a retraining."""


@contextlib.contextmanager
def held(path: Path, patience_s: float = 0.0) -> Iterator[int | None]:
    """The lock's descriptor, or None when another process has it. A child that got the descriptor keeps the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                yield None
                return
            yield descriptor
            return
    finally:
        os.close(descriptor)


def new_run() -> str:
    """A name for a run: sorts by time, fits a branch and a folder."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def retrain_command(settings: Settings) -> Command:
    """The pipeline's own job."""

    def command(run: str, lock: int) -> Sequence[str]:
        line = [sys.executable, "-m", "training.retrain", "--run", run, "--repo", str(settings.repo)]
        line += ["--work", str(settings.work_dir), "--lock-fd", str(lock), "--nice", str(settings.retrain_nice)]
        return [*line, "--keep-work"] if settings.keep_work else line

    return command


def kubernetes_command(settings: Settings) -> Command:
    """The same job in a cluster, started and followed from here."""

    def command(run: str, lock: int) -> Sequence[str]:
        line = [sys.executable, "-m", "monitoring.kubernetes_job", "--run", run]
        line += ["--namespace", namespace(settings), "--template", settings.kubernetes_template]
        return [*line, "--deadline", str(math.ceil(settings.retrain_timeout_s))]

    return command


def namespace(settings: Settings) -> str:
    """The one that is set, or that of the pod this runs in, or `default`."""
    if settings.kubernetes_namespace:
        return settings.kubernetes_namespace
    try:
        return _NAMESPACE.read_text().strip() or "default"
    except OSError:
        return "default"


def child_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """What a retraining sees: absolute places, this Python first, nothing of a surrounding Git or DVC command."""
    kept = {
        name: value
        for name, value in environ.items()
        if not name.startswith((PREFIX, "GIT_")) and name not in ("DVC_ROOT", "DVC_STAGE")
    }
    binaries = str(Path(sys.executable).parent)
    return kept | {
        "PATH": f"{binaries}{os.pathsep}{kept.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "BLASTWATCH_STORE_URL": settings.store_url,
        "BLASTWATCH_PIXELS_DIR": str(settings.pixels_dir),
        "BLASTWATCH_MODELS_DIR": str(settings.models),
        "BENTOML_HOME": str(settings.models.parent.parent),
    }


def process_of(run: str, path: Path) -> int | None:
    """The number of that run's process as `path` has it, unless it belongs to somebody else by now."""
    try:
        pid = int(json.loads(path.read_text())["pid"])
        return pid if run.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() else None
    except (OSError, ValueError, KeyError):
        return None


def signal_group(pid: int, number: signal.Signals) -> None:
    """Signal a process and all that it started in its group; nothing if they are gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def ending(code: int) -> str:
    """A return code in words."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
