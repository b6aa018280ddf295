"""The TLS files: checked before anything starts, and read again when they change."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from service.contract.errors import ConfigError
from service.settings import PREFIX, Settings


@dataclass(frozen=True)
class Material:
    """What gRPC needs for a handshake, in PEM; `client_ca` is None where callers need no certificate."""

    key: bytes = field(repr=False)
    certificate: bytes
    client_ca: bytes | None


def paths(settings: Settings) -> tuple[Path, ...]:
    """The TLS files that are set: none, or two, or three."""
    every = (settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    return tuple(path for path in every if path is not None)


def pair(settings: Settings) -> tuple[Path, Path]:
    """The server's certificate and its key. Raises ConfigError where they are not set."""
    if settings.tls_certificate is None or settings.tls_key is None:
        raise ConfigError(f"set {PREFIX}TLS_CERTIFICATE and {PREFIX}TLS_KEY")
    return settings.tls_certificate, settings.tls_key


def server_context(settings: Settings) -> ssl.SSLContext:
    """A context that shows the certificate to clients and asks them for none. Raises ConfigError."""
    certificate, key = pair(settings)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # With a passphrase given, an encrypted key is an error rather than a question on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{certificate} and {key} are no certificate with its key: {_reason(error)}") from None
    return context


def check(settings: Settings) -> None:
    """Raises ConfigError for TLS files that are missing, damaged, or do not belong together."""
    if settings.tls_certificate is not None:
        load(settings)


def load(settings: Settings) -> Material:
    """Reads the files. Raises ConfigError; a caller makes sure that a certificate is set."""
    certificate, key = pair(settings)
    client_ca = settings.tls_client_ca
    try:
        material = Material(
            key.read_bytes(), certificate.read_bytes(), None if client_ca is None else client_ca.read_bytes()
        )
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read: {_reason(error)}") from None
    context = server_context(settings)
    try:
        if client_ca is not None:
            context.load_verify_locations(client_ca)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{client_ca} is no certificate of an authority: {_reason(error)}") from None
    return material


def check_command_line(settings: Settings, certificate: str) -> None:
    """Raises ConfigError where BentoML would serve HTTP with another certificate than ours, or without."""
    if settings.tls_certificate is not None and not certificate:
        raise ConfigError(
            f"{PREFIX}TLS_CERTIFICATE is set, but HTTP would be plain: start with `python -m service`, "
            "or give bentoml --ssl-certfile and --ssl-keyfile"
        )


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "") or getattr(error, "strerror", "") or type(error).__name__)
