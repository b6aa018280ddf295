"""python -m service: checks what can be checked, then becomes `bentoml serve`."""

import math
import os
import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from service import logs
from service.contract.errors import CommandParser, run_command
from service.preflight import check
from service.settings import PREFIX, Settings, load_settings

TARGET = "service.bento:Blastwatch"


def main(argv: list[str] | None = None) -> int:
    """Starts the service. Raises ConfigError with one line that says what to do."""
    args = _parser().parse_args(argv)
    settings = load_settings()
    if args.check:
        for warning in check(settings):
            print(f"warning: {warning}", file=sys.stderr)
        print("settings, ports and folders are fine")
        return 0
    prepare_environment(settings)
    logs.configure(settings)
    for warning in check(settings):
        logs.announce(settings, warning, warning=True)
    scheme = "https" if settings.tls_certificate else "http"
    logs.announce(
        settings,
        f"blastwatch: HTTP {scheme}://{settings.http_host}:{settings.http_port}, "
        f"gRPC {settings.grpc_host}:{settings.grpc_port}, "
        f"health {settings.health_host}:{settings.health_port}; stop with Ctrl-C",
    )
    command = serve_command(settings)
    return os.execv(command[0], command)  # noqa: S606  (no shell, and nothing in it comes from a caller)


def serve_command(settings: Settings) -> list[str]:
    """The command that this process becomes, so that signals reach BentoML itself."""
    return [
        *(sys.executable, "-m", "bentoml", "serve", TARGET),
        *("--host", settings.http_host, "--port", str(settings.http_port)),
        *("--timeout-graceful-shutdown", str(max(1, math.ceil(settings.drain_s)))),
        *tls_options(settings),
    ]


def tls_options(settings: Settings) -> list[str]:
    """BentoML's options for TLS on HTTP; none without a certificate."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return []
    return ["--ssl-certfile", str(settings.tls_certificate), "--ssl-keyfile", str(settings.tls_key)]


def prepare_environment(settings: Settings) -> None:
    """What BentoML and its workers read."""
    home = Path(os.environ.setdefault("BENTOML_HOME", str(settings.root / "var" / "bentoml")))
    home.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    os.environ[f"{PREFIX}ROOT"] = str(settings.root)


def _parser() -> CommandParser:
    lines = []
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        shown = "" if default in (None, (), "") else f" [{default}]"
        lines.append(f"  {PREFIX}{name.upper()}{shown}\n      {' '.join((field.description or '').split())}")
    parser = CommandParser(
        prog="python -m service",
        description="Starts the service: HTTP, gRPC and health. Everything is set by environment variables:",
        epilog="\n".join(lines),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="only check settings, ports and folders")
    return parser


if __name__ == "__main__":
    run_command(main)
