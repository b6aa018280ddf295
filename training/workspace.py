"""A clone to retrain in: Git and DVC commands that touch nothing of the repository they start from but a new branch."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from service.contract.errors import BlastwatchError

IDENTITY = ("blastwatch retraining", "retraining@localhost")


class RetrainingFailed(BlastwatchError):
    """A step of the retraining did not work; the message says which, and how it ended."""


class Workspace:
    """A clone of `source` at `path` on a branch of its own, with the source's DVC cache.

    Commands see `environment`; what they print goes where this process prints, unless it is asked for. Every method
    raises RetrainingFailed when a command fails.
    """

    def __init__(
        self, source: Path, path: Path, branch: str, environment: Mapping[str, str], keep_open: Sequence[int] = ()
    ) -> None:
        """`keep_open`: descriptors that commands inherit, such as the lock that says that a retraining runs."""
        self.source = source
        self.path = path
        self.branch = branch
        self._environment = dict(environment)
        self._keep_open = tuple(keep_open)

    def clone(self) -> None:
        """Clone the source; the clone has an identity of its own, signs nothing and runs no hooks of the user."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._git("clone", "--quiet", str(self.source), str(self.path), cwd=self.source)
        name, email = IDENTITY
        settings = {
            "user.name": name,
            "user.email": email,
            "commit.gpgsign": "false",
            "core.hooksPath": os.devnull,
        }
        for key, value in settings.items():
            self._git("config", key, value)

    def start_branch(self, base: str | None) -> str:
        """Check the branch out, from `base` unless the source's HEAD has it already, else from HEAD; → the commit."""
        head = self._git("rev-parse", "HEAD")
        start = head
        if base is not None and self._has(base) and not self._contains(head, base):
            start = base
        self._git("checkout", "--quiet", "-b", self.branch, start)
        return self._git("rev-parse", "HEAD")

    def share_cache(self) -> None:
        """Use the source's DVC cache, and lay out what it has of this commit."""
        cache = self._dvc_says("cache", "dir", cwd=self.source)
        self.dvc("cache", "dir", "--local", cache)
        self.dvc("checkout", "--quiet", "--allow-missing")

    def commit(self, message: str, paths: Sequence[str]) -> str:
        """Commit these paths, those that exist, if anything in them changed; → the commit at the branch's head."""
        there = [path for path in paths if (self.path / path).exists()]
        self._git("add", "--", *there)
        if self._git("status", "--porcelain", "--untracked-files=no"):
            self._git("commit", "--quiet", "-m", message)
        return self._git("rev-parse", "HEAD")

    def push(self) -> None:
        """Bring the branch into the source; its work tree and its current branch stay as they are."""
        self._git("push", "--quiet", "origin", self.branch)

    def python(self, *arguments: str) -> None:
        """Run `python …` in the clone."""
        self._run([sys.executable, *arguments])

    def dvc(self, *arguments: str) -> None:
        """Run `dvc …` in the clone."""
        self._run([sys.executable, "-m", "dvc", *arguments])

    def remove(self) -> None:
        """Delete the clone; what cannot be deleted stays, since the result is on record already."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _has(self, commit: str) -> bool:
        with contextlib.suppress(RetrainingFailed):
            self._git("cat-file", "-e", f"{commit}^{{commit}}")
            return True
        return False

    def _contains(self, head: str, commit: str) -> bool:
        with contextlib.suppress(RetrainingFailed):
            self._git("merge-base", "--is-ancestor", commit, head)
            return True
        return False

    def _git(self, *arguments: str, cwd: Path | None = None) -> str:
        return self._ask(["git", *arguments], cwd or self.path)

    def _dvc_says(self, *arguments: str, cwd: Path) -> str:
        return self._ask([sys.executable, "-m", "dvc", *arguments], cwd)

    def _ask(self, command: Sequence[str], cwd: Path) -> str:
        done = self._start(command, cwd, capture=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise RetrainingFailed(f"`{_short(command)}` ended with {done.returncode}: {last}")
        return done.stdout.strip()

    def _run(self, command: Sequence[str]) -> None:
        print(f"> {_short(command)}", flush=True)
        code = self._start(command, self.path, capture=False).returncode
        if code:
            raise RetrainingFailed(f"`{_short(command)}` ended with {code}: see the log")

    def _start(self, command: Sequence[str], cwd: Path, *, capture: bool) -> "subprocess.CompletedProcess[str]":
        try:
            return subprocess.run(
                command,
                cwd=cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=capture,
                text=True,
                check=False,
                pass_fds=self._keep_open,
            )
        except OSError as error:
            raise RetrainingFailed(f"`{_short(command)}` could not be started: {error}") from error


def _short(command: Sequence[str]) -> str:
    """The command as a person would type it."""
    words = list(command)
    if words[0] == sys.executable:
        words = words[2:] if words[1:3] == ["-m", "dvc"] else ["python", *words[1:]]
    return " ".join(words)
