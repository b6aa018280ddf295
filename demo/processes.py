"""Child processes: started with a log each, stopped together, never left behind."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from service.contract.errors import BlastwatchError
from service.contract.files import write_atomic

STOP_GRACE_S = 30.0
_PR_SET_PDEATHSIG = 1


class ProcessFailed(BlastwatchError):
    """A child process ended when it should not have."""


def _die_with_parent() -> None:
    """Ask Linux to end this child when the demo dies, so that even `kill -9` of the demo leaves no server behind."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Processes:
    """The demo's children. A context manager: leaving it stops them all."""

    def __init__(self, environment: Mapping[str, str], cwd: Path, logs: Path, roll: Path) -> None:
        """Children get `environment` and `cwd`; `logs` takes a file each; `roll` lists their process groups."""
        self._environment = dict(environment)
        self._cwd = cwd
        self._logs = logs
        self._roll = roll
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log(self, name: str) -> Path:
        """The log file of a child."""
        return self._logs / f"{name}.log"

    def start(self, name: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a child in a process group of its own."""
        with self.log(name).open("ab") as log:
            child = subprocess.Popen(
                arguments,
                cwd=self._cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self._children[name] = child
        write_atomic(self._roll, json.dumps([c.pid for c in self._children.values()]))
        return child

    def check(self) -> None:
        """Raise when a child has ended.

        Raises:
            ProcessFailed: with the last lines of its log.
        """
        for name, child in self._children.items():
            if child.poll() is not None:
                raise ProcessFailed(f"{name} ended with {child.returncode}; {self.tail(name)}")

    def tail(self, name: str, lines: int = 12) -> str:
        """Say where a child's log is and what it ends with."""
        text = self.log(name).read_text(errors="replace").splitlines()[-lines:]
        return f"its log {self.log(name)} ends:\n  " + "\n  ".join(text)

    def forget(self, name: str) -> None:
        """A child that ended as it should is no longer watched."""
        self._children.pop(name, None)

    def stop(self) -> None:
        """Stop every child, kindly first."""
        for child in self._children.values():
            _signal_group(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_GRACE_S
        for child in self._children.values():
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal_group(child.pid, signal.SIGKILL)
                child.wait()
        for child in self._children.values():
            _signal_group(child.pid, signal.SIGKILL)  # what a child left behind in its group
        self._children.clear()
        self._roll.unlink(missing_ok=True)


def sweep(roll: Path) -> int:
    """End what a killed demo left running; returns how many groups. Only groups whose leader is still ours."""
    try:
        pids = json.loads(roll.read_text())
    except (OSError, ValueError):
        return 0
    swept = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if any(word in command for word in (b"service", b"monitoring", b"dvc")):
                _signal_group(pid, signal.SIGKILL)
                swept += 1
    roll.unlink(missing_ok=True)
    return swept


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
