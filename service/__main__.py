"""python -m service: checks what can be checked, then becomes `bentoml serve`."""

import os
import socket
import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from service.auth import check_bind
from service.contract.errors import CommandParser, ConfigError, run_command
from service.settings import PREFIX, SQLITE, Settings, load_settings

TARGET = "service.bento:Blastwatch"


def main(argv: list[str] | None = None) -> int:
    """Starts the service. Raises ConfigError with one line that says what to do."""
    args = _parser().parse_args(argv)
    settings = load_settings()
    check_bind(settings)
    check_ports(settings)
    check_folders(settings)
    if args.check:
        print("settings, ports and folders are fine")
        return 0
    prepare_environment(settings)
    print(
        f"blastwatch: HTTP http://{settings.http_host}:{settings.http_port}, "
        f"gRPC {settings.grpc_host}:{settings.grpc_port}, "
        f"health {settings.health_host}:{settings.health_port}; stop with Ctrl-C",
        flush=True,
    )
    command = serve_command(settings)
    return os.execv(command[0], command)  # noqa: S606  (no shell, and nothing in it comes from a caller)


def serve_command(settings: Settings) -> list[str]:
    """The command that this process becomes, so that signals reach BentoML itself."""
    return [
        *(sys.executable, "-m", "bentoml", "serve", TARGET),
        *("--host", settings.http_host, "--port", str(settings.http_port)),
        *("--timeout-graceful-shutdown", str(round(settings.drain_s))),
    ]


def prepare_environment(settings: Settings) -> None:
    """What BentoML and its workers read."""
    home = Path(os.environ.setdefault("BENTOML_HOME", str(settings.root / "var" / "bentoml")))
    home.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    os.environ[f"{PREFIX}ROOT"] = str(settings.root)


def check_ports(settings: Settings) -> None:
    """Raises ConfigError for a port that something listens on; gRPC itself would share it without a word."""
    for name in ("http", "grpc", "health"):
        host, port = getattr(settings, f"{name}_host"), getattr(settings, f"{name}_port")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                variable = f"{PREFIX}{name.upper()}_PORT"
                raise ConfigError(
                    f"cannot listen on {host}:{port} ({error.strerror}): stop what uses it, "
                    f"or set {variable} to another port"
                ) from None


def check_folders(settings: Settings) -> None:
    """Raises ConfigError for a folder of state that cannot be made or written to."""
    folders = {
        "JOURNAL_DIR": settings.journal_dir,
        "PIXELS_DIR": settings.pixels_dir,
        "KEY_FILE": settings.key_file.parent,
    }
    if settings.store_url.startswith(SQLITE):
        folders["STORE_URL"] = Path(settings.store_url.removeprefix(SQLITE)).parent
    for name, folder in folders.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder} cannot be made ({error.strerror}): set {PREFIX}{name} elsewhere") from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(f"{folder} cannot be written to: change its owner or set {PREFIX}{name} elsewhere")
    if settings.seed_model is not None and not settings.seed_model.is_dir():
        raise ConfigError(f"{PREFIX}SEED_MODEL = {settings.seed_model}: no such folder")


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
