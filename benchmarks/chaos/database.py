"""The drill's PostgreSQL: it can be killed outright, and it may live in a network namespace of its own."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support import postgres

NEAR, FAR = "198.18.77.1", "198.18.77.2"  # a network that is set aside for benchmarks (RFC 2544)


class Namespace:
    """A network namespace with one wire to this one."""

    def __init__(self) -> None:
        self.name = f"drill{os.getpid()}"
        self._wire = f"drill{os.getpid() % 100000}"

    def open(self) -> None:
        """Makes it. Raises OSError where that is not permitted."""
        far = f"{self._wire}f"
        _ip("netns", "add", self.name)
        _ip("link", "add", self._wire, "type", "veth", "peer", "name", far, "netns", self.name)
        _ip("addr", "add", f"{NEAR}/30", "dev", self._wire)
        _ip("link", "set", self._wire, "up")
        _ip("-n", self.name, "addr", "add", f"{FAR}/30", "dev", far)
        _ip("-n", self.name, "link", "set", "lo", "up")
        self.heal()

    def cut(self) -> None:
        """What is sent is gone without a word, as in a dead switch: the far end's wire is down."""
        _ip("-n", self.name, "link", "set", f"{self._wire}f", "down")

    def heal(self) -> None:
        """The wire carries again."""
        _ip("-n", self.name, "link", "set", f"{self._wire}f", "up")

    def close(self) -> None:
        """Nothing of it is left."""
        with contextlib.suppress(OSError):
            _ip("link", "del", self._wire)
        with contextlib.suppress(OSError):
            _ip("netns", "del", self.name)


class Database(postgres.Postgres):
    """A cluster at 127.0.0.1, or at the far end of a namespace's wire."""

    def __init__(self, folder: Path, binaries: Path, namespace: Namespace | None = None) -> None:
        self._namespace = namespace
        self._made_by = folder
        super().__init__(folder, binaries)
        if namespace is not None:
            with (folder / "data/pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {NEAR}/32 trust\n")
            with (folder / "data/postgresql.conf").open("a") as settings:
                settings.write("listen_addresses = '*'\n")

    def kill(self) -> None:
        """SIGKILL for the postmaster; its children end when they notice."""
        pid = int((self._made_by / "data/postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)

    def cut(self) -> None:
        """Nobody reaches it, and nobody is told. Raises ValueError where it has no namespace."""
        if self._namespace is None:
            raise ValueError("this server has no network of its own")
        self._namespace.cut()

    def heal(self) -> None:
        """It can be reached again."""
        if self._namespace is not None:
            self._namespace.heal()

    def url(self) -> str:
        """The URL of a new database."""
        if self._namespace is None:
            return super().url()
        self._made += 1
        where = ["-h", FAR, "-p", str(self.port), "-U", postgres.ACCOUNT]
        subprocess.run([str(self._binaries / "createdb"), *where, f"site_{self._made}"], check=True)
        return f"postgresql+psycopg://{postgres.ACCOUNT}@{FAR}:{self.port}/site_{self._made}"

    def _run(self, program: str, *arguments: str) -> None:
        if self._namespace is None or program != "pg_ctl" or "start" not in arguments:
            super()._run(program, *arguments)
            return
        options = f"-p {self.port} -c listen_addresses=* -c unix_socket_directories={self._folder} -c fsync=off"
        inside = ["ip", "netns", "exec", self._namespace.name, "runuser", "-u", postgres.ACCOUNT, "--"]
        command = ["-D", str(self._data), "-w", "-l", str(self._folder / "log"), "-o", options, "start"]
        with (self._folder / "commands.log").open("ab") as log:
            subprocess.run(
                [*inside, str(self._binaries / program), *command], cwd=self._folder, stdout=log, stderr=log, check=True
            )


@contextlib.contextmanager
def database(namespace: Namespace | None = None) -> Iterator[Database]:
    """A started cluster; on leaving nothing of it is left. Raises FileNotFoundError when PostgreSQL is missing."""
    binaries = postgres._binaries()
    if binaries is None:
        raise FileNotFoundError(postgres.HOW)
    folder = Path(tempfile.mkdtemp(prefix="blastwatch-drill-"))
    try:
        if os.geteuid() == 0:
            account = pwd.getpwnam(postgres.ACCOUNT)
            os.chown(folder, account.pw_uid, account.pw_gid)
        server = Database(folder, binaries, namespace)
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(AssertionError):  # killed, and not started again
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
