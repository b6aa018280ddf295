"""`python -m monitoring`: the long-running monitor. One process, a loop in a thread, and HTTP beside it."""

import fcntl
import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from monitoring.access import Guarded
from monitoring.alerts import Alert, Answer, answer
from monitoring.background import Background
from monitoring.history import History
from monitoring.inbox import Inbox
from monitoring.job import Monitor
from monitoring.metrics import build_metrics
from monitoring.reports import Reviewed, prune, write_report
from monitoring.settings import Settings, environment_names, load_settings
from monitoring.status import pace, read_status
from monitoring.status_page import status_route
from monitoring.verdict import JudgedWindow
from monitoring.web import Pulse, build_app
from monitoring.webhook import webhook
from monitoring.window import Window
from monitoring.workspace_ui import workspace_ui
from service.contract.artifact import Artifact
from service.contract.errors import CommandParser, ConfigError, run_command
from service.contract.reference import Reference

SLOWEST_LOOK_S = 300.0
ALERT_PATIENCE_S = 20.0
SHOWN = 200
REPORTS_WAITING = 50
_logger = logging.getLogger("monitoring")


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM or Ctrl-C; raises ConfigError with a line that says what to do."""
    _parser().parse_args(argv)
    settings = load_settings()
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    with (
        alone(settings.work_dir / "monitor.lock"),
        listener(settings) as bound,
        workspace_ui(settings.workspace_dir, settings.ui_port),
    ):
        serve(settings, bound)
    return 0


def serve(settings: Settings, bound: socket.socket) -> None:
    """Loop and HTTP, until uvicorn is told to stop."""
    metrics = build_metrics(CollectorRegistry())
    background = Background(REPORTS_WAITING, metrics.report_failures.inc)

    workspace = settings.workspace_dir if settings.ui_port else None

    def report(name: str, window: Window, artifact: Artifact, reference: Reference, reviewed: Reviewed) -> None:
        def job() -> None:
            page = settings.windows_dir / f"{name}.html"
            kept = settings.reports_kept
            write_report(
                page,
                window,
                artifact,
                reference,
                cells=settings.report_cells,
                seed=settings.seed,
                reviewed=reviewed,
                workspace=workspace,
                kept=kept,
            )
            prune(settings.windows_dir, kept)

        background.submit(f"the report of window {name}", job)

    monitor = Monitor(settings, metrics, report=report if settings.reports else None)
    pulse = Pulse(SLOWEST_LOOK_S + 4 * settings.interval_s)
    stop = threading.Event()
    inbox: Inbox[Sequence[Alert], Answer] = Inbox()

    def loop() -> None:
        while not stop.is_set():
            monitor.turn()
            pulse.beat()
            inbox.serve(lambda alerts: answer(monitor.site(), alerts), min(settings.poll_s, settings.interval_s))

    def windows() -> list[JudgedWindow]:
        history = History(settings.store_url)
        try:
            return history.windows(last=SHOWN)
        finally:
            history.close()

    thread = threading.Thread(target=loop, name="monitor", daemon=True)
    alerts = webhook(settings.token_file, metrics, lambda asked: inbox.ask(asked, ALERT_PATIENCE_S))
    status = status_route(
        lambda: read_status(settings, time.time()), lambda: pace(metrics.registry, pulse.alive, pulse.age_s)
    )
    app: ASGIApp = build_app(metrics.registry, pulse, settings.windows_dir, windows, [status, alerts])
    config = uvicorn.Config(
        Guarded(app, settings.token_file) if settings.exposed else app,
        log_level="warning",
        access_log=False,
        server_header=False,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    # uvicorn hands the signal on once it has closed: what follows must still run.
    signal.signal(signal.SIGTERM, _leave)
    thread.start()
    scheme = "http" if settings.tls_certificate is None else "https"
    _logger.info("the monitor listens on %s://%s:%d", scheme, settings.host, settings.port)
    try:
        uvicorn.Server(config).run(sockets=[bound])
    finally:
        stop.set()
        inbox.close()
        background.close(timeout_s=5.0)
        thread.join(settings.retrain_grace_s)
        monitor.stop()


def _leave(*_: object) -> None:
    raise SystemExit(0)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One monitor for a work folder. Raises ConfigError when another has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another monitor works in {path.parent}: stop it, or set BLASTWATCH_MONITOR_WORK_DIR"
            ) from None
        yield


@contextmanager
def listener(settings: Settings) -> Iterator[socket.socket]:
    """The bound socket. Raises ConfigError when the port is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((settings.host, settings.port))
        except OSError as error:
            raise ConfigError(
                f"port {settings.port} on {settings.host} cannot be had ({error.strerror}): stop what listens "
                "there, or set BLASTWATCH_MONITOR_PORT"
            ) from None
        yield bound


def _parser() -> CommandParser:
    return CommandParser(
        prog="python -m monitoring",
        description="Watches what the service answers: cuts windows, judges them, shows gauges on /metrics, and starts "
        "a retraining when the policy says so. Settings come from the environment: "
        + ", ".join(sorted(environment_names())),
    )


if __name__ == "__main__":
    run_command(main)
