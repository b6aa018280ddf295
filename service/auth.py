"""Who may reach the service. Without tokens and TLS nothing but the health-only port leaves loopback."""

import ipaddress
import os
import socket
from pathlib import Path

from service.contract.errors import ConfigError
from service.settings import Settings

LOCAL = "local"
"""The client name of every caller while there are no tokens; no client may have it."""


def is_loopback(host: str) -> bool:
    """True for an address that only this machine reaches; a name other than localhost is not trusted to be one."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def check_bind(settings: Settings) -> None:
    """Raises ConfigError when HTTP or gRPC would listen beyond loopback unprotected; the health-only port may."""
    refuse_exposed({"BLASTWATCH_HTTP_HOST": settings.http_host, "BLASTWATCH_GRPC_HOST": settings.grpc_host}, settings)


def is_protected(settings: Settings) -> bool:
    """Whether callers authenticate and nobody can listen in. Client certificates are in the tokens file too."""
    return settings.tokens_file is not None and settings.tls_certificate is not None


def refuse_exposed(hosts: dict[str, str], settings: Settings) -> None:
    """Raises ConfigError for the first of `hosts` (where it comes from → address) that is exposed and unprotected."""
    if is_protected(settings):
        return
    for origin, host in hosts.items():
        if not is_loopback(host):
            raise ConfigError(
                f"{origin} is {host}: without authentication and TLS the service listens on loopback only "
                "(set 127.0.0.1, or BLASTWATCH_TOKENS_FILE, BLASTWATCH_TLS_CERTIFICATE and BLASTWATCH_TLS_KEY)"
            )


def check_inherited_sockets(settings: Settings) -> None:
    """Raises ConfigError when this process holds a TCP socket that listens beyond loopback unprotected.

    BentoML opens the HTTP socket in its parent process and hands it down, whatever our settings say; its own default is
    0.0.0.0. So a worker looks at the sockets it really got.
    """
    found = {f"the socket handed down on port {port}": host for host, port in listening_addresses()}
    refuse_exposed(found, settings)


def listening_addresses() -> list[tuple[str, int]]:
    """Address and port of every listening TCP socket that this process holds."""
    found: list[tuple[str, int]] = []
    for entry in sorted(Path("/dev/fd").iterdir()) if Path("/dev/fd").is_dir() else []:
        try:
            copy = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:  # not a socket, or the descriptor that listed the folder
            continue
        with copy:
            if copy.family not in (socket.AF_INET, socket.AF_INET6) or copy.type != socket.SOCK_STREAM:
                continue
            if copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                host, port = copy.getsockname()[:2]
                found.append((str(host), int(port)))
    return found
