"""Evidently's own UI as a child of the monitor: it shows the workspace, and nobody writes to it over HTTP.

Writes ask for a secret that is drawn anew at each start and told to nobody. The child ends with the monitor, also with
one that was killed: the kernel tells it (prctl(2), PR_SET_PDEATHSIG; Linux). That is why it is started by the thread
that waits for the end.
"""

import ctypes
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.contract.errors import ConfigError

HOST = "127.0.0.1"
_SECRET = "EVIDENTLY_SECRET"  # noqa: S105  (the name of a variable)
_PR_SET_PDEATHSIG = 1
_GRACE_S = 5.0
_logger = logging.getLogger("monitoring")


@contextmanager
def workspace_ui(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes] | None]:
    """Serve the workspace in `folder` on loopback for as long as the block runs; port 0: nothing is served.

    Raises ConfigError when the port is taken. That the UI dies later is said in the log and costs nothing else.
    """
    if port == 0:
        yield None
        return
    _free(port)
    folder.mkdir(parents=True, exist_ok=True)
    child = subprocess.Popen(
        [sys.executable, "-m", "monitoring.workspace_ui", str(folder.resolve()), str(port), str(os.getpid())],
        env={**os.environ, "DO_NOT_TRACK": "1", _SECRET: secrets.token_hex(32)},
        stdout=subprocess.DEVNULL,
    )
    _logger.info("Evidently shows the windows on http://%s:%d (its start takes some seconds)", HOST, port)
    ending = threading.Event()
    threading.Thread(target=_tell, args=(child, ending), name="workspace-ui", daemon=True).start()
    try:
        yield child
    finally:
        ending.set()
        child.terminate()
        try:
            child.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _tell(child: subprocess.Popen[bytes], ending: threading.Event) -> None:
    """Say so when it ends while the monitor goes on; after Ctrl-C, which both get, a moment decides."""
    code = child.wait()
    if not ending.wait(1.0):
        _logger.warning("Evidently's UI has ended with code %d; restart the monitor to have it again", code)


def _free(port: int) -> None:
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((HOST, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} on {HOST} cannot be had for Evidently's UI ({error.strerror}): stop what listens there, "
                "or set BLASTWATCH_MONITOR_UI_PORT (0: no UI)"
            ) from None


def main() -> None:
    """Become Evidently's UI: `python -m monitoring.workspace_ui FOLDER PORT PARENT`, by the monitor only."""
    folder, port, parent = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it died before that
            return
    command = Path(sys.executable).with_name("evidently")
    options = ["--workspace", folder, "--host", HOST, "--port", port]
    os.execv(str(command), [str(command), "ui", *options])  # noqa: S606  (its own script beside the interpreter)


if __name__ == "__main__":
    main()
