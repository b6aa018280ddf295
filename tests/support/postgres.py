"""A PostgreSQL server of the tests' own, from the system's package, on a free loopback port."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

ACCOUNT = "postgres"  # the server refuses to run as root
HOW = "PostgreSQL is missing: run `make servers` (as root), or install Debian's package postgresql"


class Postgres:
    """One cluster; `url()` makes a new, empty database."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self._data = folder / "data"
        self._folder = folder
        self._binaries = binaries
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self._made = 0
        self._run("initdb", "-D", str(self._data), "-A", "trust", "-U", ACCOUNT, "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        """Returns once it takes connections."""
        # Without fsync: what is tested outlives the server's end, not the machine's.
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder} -c fsync=off"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """Every process of it ends at once, without a chance to finish anything."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", "immediate", "stop")

    def url(self) -> str:
        """The URL of a new database."""
        self._made += 1
        name = f"site_{self._made}"
        with psycopg.connect(f"host=127.0.0.1 port={self.port} user={ACCOUNT} dbname=postgres", autocommit=True) as to:
            to.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type, unused-ignore]
        return f"postgresql+psycopg://{ACCOUNT}@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *arguments: str) -> None:
        as_account = ["runuser", "-u", ACCOUNT, "--"] if os.geteuid() == 0 else []
        # Into a file's place, not a pipe: the server that pg_ctl leaves behind would hold the pipe open.
        with (self._folder / "commands.log").open("ab") as log:
            done = subprocess.run(
                [*as_account, str(self._binaries / program), *arguments],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                check=False,
            )
        assert done.returncode == 0, (self._folder / "commands.log").read_text()


@contextmanager
def running() -> Iterator[Postgres]:
    """A started cluster; on leaving nothing of it is left. Fails when PostgreSQL is not installed."""
    binaries = _binaries()
    assert binaries is not None, HOW
    # Not below pytest's folder, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="blastwatch-postgres-"))
    try:
        if os.geteuid() == 0:
            account = pwd.getpwnam(ACCOUNT)
            os.chown(folder, account.pw_uid, account.pw_gid)
        server = Postgres(folder, binaries)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _binaries() -> Path | None:
    # Debian keeps the server's programs, one folder a version, out of PATH.
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").is_file():
            return folder
    found = shutil.which("initdb")
    return Path(found).parent if found else None
