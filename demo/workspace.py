"""Where the demo lives: a clone, a store and a model store of its own, and the environment that points there."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.contract.errors import ConfigError
from service.contract.files import write_atomic

IDENTITY = ("-c", "user.name=blastwatch demo", "-c", "user.email=demo@localhost")


@dataclass(frozen=True)
class Ports:
    """TCP ports on loopback."""

    http: int = 3000
    grpc: int = 50051
    health: int = 50052
    monitor: int = 9109

    def taken(self) -> list[tuple[str, int]]:
        """Names and numbers of the ports that something else listens on."""
        busy = []
        for name, port in vars(self).items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    busy.append((name, port))
        return busy


@dataclass(frozen=True)
class Workspace:
    """Folders and addresses of one demo; nothing outside `root` is written."""

    root: Path
    ports: Ports = Ports()

    @property
    def repo(self) -> Path:
        """The clone that the pipeline runs in."""
        return self.root / "repo"

    @property
    def logs(self) -> Path:
        """One log file a process."""
        return self.root / "logs"

    @property
    def store_url(self) -> str:
        """The database of records, reviews and the ledger."""
        return f"sqlite:///{self.root / 'store.db'}"

    @property
    def models_dir(self) -> Path:
        """One folder a model version (BentoML's layout)."""
        return self.root / "bentoml" / "models" / "blastwatch"

    @property
    def key_file(self) -> Path:
        """The key of the pseudonyms."""
        return self.root / "keys" / "pseudonym.key"

    @property
    def monitor_url(self) -> str:
        """Address of the monitor."""
        return f"http://127.0.0.1:{self.ports.monitor}"

    @property
    def http_url(self) -> str:
        """Address of the service's HTTP side."""
        return f"http://127.0.0.1:{self.ports.http}"

    @property
    def grpc_target(self) -> str:
        """Address of the service's gRPC side."""
        return f"127.0.0.1:{self.ports.grpc}"

    def environment(self) -> dict[str, str]:
        """The environment of everything the demo starts: absolute paths, so that a clone of the clone finds them."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("BLASTWATCH_", "BENTOML_", "DVC_", "GIT_"))}
        binaries = str(Path(sys.executable).parent)
        return kept | {
            "PATH": f"{binaries}{os.pathsep}{kept.get('PATH', '')}",
            "PYTHONUNBUFFERED": "1",
            "DO_NOT_TRACK": "1",
            "BENTOML_DO_NOT_TRACK": "true",
            "BENTOML_HOME": str(self.root / "bentoml"),
            "BLASTWATCH_STORE_URL": self.store_url,
            "BLASTWATCH_JOURNAL_DIR": str(self.root / "journal"),
            "BLASTWATCH_PIXELS_DIR": str(self.root / "pixels"),
            "BLASTWATCH_KEY_FILE": str(self.key_file),
            "BLASTWATCH_MODELS_DIR": str(self.models_dir),
            # The demo's reviewers may be handed any cell, so every cell's pixels are kept.
            "BLASTWATCH_IMAGE_RETENTION": "all",
            "BLASTWATCH_HTTP_PORT": str(self.ports.http),
            "BLASTWATCH_GRPC_PORT": str(self.ports.grpc),
            "BLASTWATCH_HEALTH_PORT": str(self.ports.health),
            "BLASTWATCH_MONITOR_PORT": str(self.ports.monitor),
            "BLASTWATCH_MONITOR_INTERVAL_S": "1",
            # The demo is about a new scanner: what the case mix does on the way would take the day's one start.
            "BLASTWATCH_MONITOR_RECALIBRATE": "advise",
            # The readers' whole list, rather than the first 200 of it: retraining starts when it is through.
            "BLASTWATCH_MONITOR_POLICY__MIN_REVIEWED_CELLS": "600",
            "BLASTWATCH_MONITOR_POLICY__MIN_REVIEWED_PATIENTS": "40",
            "BLASTWATCH_MONITOR_REPO": str(self.repo),
            "BLASTWATCH_MONITOR_WORK_DIR": str(self.root / "work"),
            "BLASTWATCH_MONITOR_REPORTS_DIR": str(self.root / "reports"),
        }


@contextlib.contextmanager
def claimed(root: Path) -> Iterator[None]:
    """Hold the workspace for one demo at a time.

    Raises:
        ConfigError: another demo holds it.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    lock = root.with_suffix(".lock")
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"another demo is running in {root}: wait for it, or stop it with Ctrl-C") from None
        yield


def git(*arguments: str, cwd: Path) -> str:
    """Run git and return what it printed.

    Raises:
        ConfigError: git failed; its own words are in the message.
    """
    done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(f"git {arguments[0]} failed in {cwd}: {reason}")
    return done.stdout.strip()


def lay(workspace: Workspace, source: Path, seed: int = 0) -> list[str]:
    """Empty the workspace and clone `source` into it, with a change plan whose approval is automatic.

    `seed` names the key of the pseudonyms, whose hashes draw the reviewed patients that test: the same one draws the
    same, and gives the same candidate on the same machine.

    Returns:
        Notes for the person who watches.

    Raises:
        ConfigError: no git work tree, or no commit to clone.
    """
    notes = []
    if workspace.root.exists():
        shutil.rmtree(workspace.root)
    workspace.logs.mkdir(parents=True)
    workspace.key_file.parent.mkdir()
    # No secret: the demo's patients are made up. A service makes a random key of its own.
    key = hashlib.sha256(f"blastwatch demo {seed}".encode()).hexdigest()
    write_atomic(workspace.key_file, f"{key}\n", mode=0o600)
    git("rev-parse", "HEAD", cwd=source)
    if git("status", "--porcelain", cwd=source):
        notes.append("the demo runs the last commit: what is not committed is not in it")
    git("clone", "--quiet", str(source), str(workspace.repo), cwd=source)
    plan = workspace.repo / "change_plan.yaml"
    text = plan.read_text()
    automatic = text.replace("approval: person", "approval: automatic", 1)
    if automatic == text:
        raise ConfigError(f"{plan} has no line 'approval: person' to set to automatic")
    write_atomic(plan, automatic)
    git(
        *IDENTITY,
        "commit",
        "--quiet",
        "-m",
        "This site agreed to automatic approval",
        "change_plan.yaml",
        cwd=workspace.repo,
    )
    return notes
