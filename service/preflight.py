"""What can be checked before a process is started: each failure is one line that says what to do (ConfigError)."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path

from service import tls, tokens
from service.auth import check_bind
from service.contract.errors import ConfigError, StoreUnavailable
from service.contract.pseudonym import load_key
from service.late import LateStore
from service.settings import PREFIX, SQLITE, Settings

LISTENERS = ("http", "grpc", "health")


def check(settings: Settings, *, ports: Sequence[str] = LISTENERS) -> list[str]:
    """Checks everything; makes the folders and the key. Returns warnings: what is away now and may come back.

    Raises ConfigError.
    """
    check_bind(settings)
    tls.check(settings)
    if settings.tokens_file is not None:
        tokens.read(settings.tokens_file)
    check_ports(settings, ports)
    check_folders(settings)
    load_key(settings.key_file, create=True)
    return check_store(settings)


def check_ports(settings: Settings, names: Sequence[str] = LISTENERS) -> None:
    """Raises ConfigError for a port that something listens on; gRPC itself would share it without a word."""
    for name in names:
        host, port = getattr(settings, f"{name}_host"), getattr(settings, f"{name}_port")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise ConfigError(
                    f"cannot listen on {host}:{port} ({error.strerror}): stop what uses it, "
                    f"or set {PREFIX}{name.upper()}_PORT to another port"
                ) from None


def check_folders(settings: Settings) -> None:
    """Raises ConfigError for a folder of state that cannot be made or written to."""
    folders = {
        "JOURNAL_DIR": settings.journal_dir,
        "PIXELS_DIR": settings.pixels_dir,
        "KEY_FILE": settings.key_file.parent,
        "AUDIT_DIR": settings.audit_dir,
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
        raise ConfigError(f"{PREFIX}SEED_MODEL = {settings.seed_model}: there is no such folder")


def check_store(settings: Settings) -> list[str]:
    """A store that is away is a warning: answers wait in the journal. Raises ConfigError for a senseless URL."""
    store = LateStore(settings.store_url)
    try:
        store.open()
    except StoreUnavailable as error:
        return [f"{error}; the service starts, and is ready once it can be reached"]
    finally:
        store.close()
    return []
