"""BentoML around the engine: process, HTTP, probes, packaging. gRPC starts and drains with it (docs/adr/0001)."""

import os
import sys
from pathlib import Path

import bentoml
import click

from service import logs, preflight, tls
from service.auth import check_inherited_sockets, refuse_exposed
from service.contract.errors import BlastwatchError, ConfigError
from service.engine import Engine
from service.grpc_server import Servers
from service.http_api import Seat, create_app
from service.http_tls import follow_certificate
from service.notice import give_notice
from service.orphan import end_with_parent
from service.settings import PREFIX, Settings, load_settings

SEED = Path(__file__).resolve().parent.parent / "seed"
"""Inside a Bento, the model that it was built with lies beside this package; it serves while the ledger names none."""


def declared() -> Settings:
    """The settings as far as BentoML must know them at import; a fault in them stops the start, not the import."""
    try:
        return load_settings()
    except ConfigError:
        return Settings.model_construct()


def effective(**listen: object) -> Settings:
    """The settings, with the Bento's own model as seed unless another one is named. Raises ConfigError."""
    settings = load_settings(**listen)
    if settings.seed_model is None and SEED.is_dir():
        return load_settings(**listen, seed_model=SEED)
    return settings


_declared = declared()
_seat = Seat()


@bentoml.service(
    name="blastwatch",
    workers=_declared.workers,
    # Our own deadline is answered with our own error; this one is behind it. BentoML keeps a timer for each request.
    traffic={"timeout": 2 * _declared.timeout_s + 5},
    http={"host": _declared.http_host, "port": _declared.http_port},
    # BentoML's metrics have a label for the raw path, so anyone can make as many series as they like: see /metrics.
    metrics={"enabled": False},
    # An access log has addresses in it, and somebody will put a patient in one.
    logging={"access": {"enabled": False}},
    # Our own traces know the stages; BentoML's would be a second one of each call, sent nowhere.
    tracing={"excluded_urls": ".*"},
)
@bentoml.asgi_app(create_app(_seat), path="/")
class Blastwatch:
    """Tells acute-lymphoblastic-leukemia blasts and their subtypes from healthy white cells."""

    def __init__(self) -> None:
        logs.configure(_declared)
        self._engine: Engine | None = None
        self._servers: Servers | None = None

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def check() -> None:
        """Once, before any worker: whatever would stop the workers stops the start, with one line."""
        # Workers of a packed Bento run inside it; state belongs to where the service was started.
        os.environ.setdefault(f"{PREFIX}ROOT", str(Path.cwd()))
        try:
            listen = command_line()
            settings = effective(**listen)
            logs.configure(settings)
            refuse_exposed({"--host": str(listen.get("http_host", "127.0.0.1"))}, settings)
            tls.check_command_line(settings, command_line_certificate())
            for warning in preflight.check(settings):
                logs.announce(settings, warning, warning=True)
        except BlastwatchError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Starts the engine and the gRPC servers of this worker."""
        settings = effective()
        check_inherited_sockets(settings)
        self._engine = Engine(settings)
        await self._engine.start()
        self._servers = Servers(self._engine)
        await self._servers.start()
        _seat.fill(self._engine)
        if command_line_certificate() == str(settings.tls_certificate):
            follow_certificate(self._engine)
        give_notice(settings.drain_notice_s, self._engine.drain)
        end_with_parent()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Drains gRPC (HTTP is drained by now), then the engine."""
        if self._engine is None:
            return
        self._engine.drain()
        if self._servers is not None:
            await self._servers.stop()
        _seat.fill(None)
        await self._engine.stop()

    async def __is_ready__(self) -> bool:
        """BentoML's /readyz."""
        return self._engine is not None and self._engine.ready()


def command_line() -> dict[str, object]:
    """Where `bentoml serve --host --port` asks HTTP to listen, which wins over our settings."""
    context = click.get_current_context(silent=True)
    asked = context.params if context is not None else {}
    return {f"http_{name}": asked[name] for name in ("host", "port") if asked.get(name)}


def command_line_certificate() -> str:
    """What `bentoml serve --ssl-certfile` names; "" without."""
    context = click.get_current_context(silent=True)
    return str((context.params if context is not None else {}).get("ssl_certfile") or "")
