"""What a client trusts and shows: certificates and tokens, from files or from memory."""

import ipaddress
import os
import re
import ssl
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import grpc

from service.contract.errors import ConfigError

Pem = bytes | str | os.PathLike[str]
"""PEM itself as bytes, or the path of a file that has it."""
TOKEN = re.compile(r"[!-~]+")


def pem(source: Pem) -> bytes:
    """The bytes behind it. Raises ConfigError for a file that cannot be read."""
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise ConfigError(f"{os.fspath(source)} cannot be read: {error.strerror}") from None


def tls_context(ca: Pem | None, certificate: Pem | None, key: Pem | None) -> ssl.SSLContext:
    """Trusts `ca`, or the system's authorities without one; shows `certificate`. Raises ConfigError."""
    if (certificate is None) != (key is None):
        raise ConfigError("certificate and key belong together: give both or neither")
    try:
        context = ssl.create_default_context(cadata=None if ca is None else pem(ca).decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise ConfigError("ca has no certificate of an authority in PEM") from None
    if certificate is not None and key is not None:
        _show(context, pem(certificate), pem(key))
    return context


def channel_credentials(ca: Pem | None, certificate: Pem | None, key: Pem | None) -> grpc.ChannelCredentials | None:
    """The same for gRPC; None when nothing is given, which means plain text. Raises ConfigError."""
    if ca is None and certificate is None and key is None:
        return None
    if ca is None:
        raise ConfigError("TLS needs ca: the authority that signed the service's certificate, in PEM")
    # gRPC says nothing about unusable files before the first handshake, and little then.
    tls_context(ca, certificate, key)
    shown = (None, None) if key is None or certificate is None else (pem(key), pem(certificate))
    return grpc.ssl_channel_credentials(pem(ca), *shown)


class Bearer:
    """A token, or the file that has it, which is read for every call: a new token needs no new client.

    Raises ConfigError for a token that would leave this machine in the clear.
    """

    def __init__(self, token: str | os.PathLike[str], where: str, *, secure: bool) -> None:
        if token and not secure and not _is_here(where):
            raise ConfigError(f"a token is not sent to {where} in the clear: use TLS (ca, --ca)")
        self._token = token

    def header(self) -> dict[str, str]:
        """The header that carries it, or nothing. Raises ConfigError."""
        token = self._token if isinstance(self._token, str) else pem(self._token).decode(errors="replace").strip()
        if not token and isinstance(self._token, str):
            return {}
        if not TOKEN.fullmatch(token):
            raise ConfigError("the token must be one word of plain text, as `python -m service.tokens add` printed it")
        return {"authorization": f"Bearer {token}"}


def _show(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    # The ssl module takes files only.
    with tempfile.TemporaryDirectory() as folder:
        chain, secret = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        secret.touch(mode=0o600)
        chain.write_bytes(certificate)
        secret.write_bytes(key)
        try:
            # With a passphrase given, an encrypted key is an error rather than a question on the terminal.
            context.load_cert_chain(chain, secret, password="")
        except (ssl.SSLError, ValueError):
            raise ConfigError("certificate and key are no certificate with its unencrypted key, both in PEM") from None


def _is_here(where: str) -> bool:
    """Whether a target (host:port, or an address) is this machine."""
    if where.startswith("unix:"):
        return True
    try:
        host = urlsplit("//" + where.split("//")[-1].lstrip("/")).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
