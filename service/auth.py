"""Who may reach the service. Until callers can authenticate, nothing but the health-only port leaves loopback."""

import ipaddress
import os
import socket
from pathlib import Path

from service.contract.errors import ConfigError
from service.settings import Settings

LOCAL = "local"
"""The client name of every caller until callers authenticate."""


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
    """Raises ConfigError when HTTP or gRPC would listen beyond loopback; the health-only port may."""
    refuse_exposed({"BLASTWATCH_HTTP_HOST": settings.http_host, "BLASTWATCH_GRPC_HOST": settings.grpc_host})


def refuse_exposed(hosts: dict[str, str]) -> None:
    """Raises ConfigError for the first of `hosts` (where it comes from → address) that is not loopback."""
    for origin, host in hosts.items():
        if not is_loopback(host):
            raise ConfigError(
                f"{origin} is {host}: without authentication and TLS the service listens on loopback only "
                "(set 127.0.0.1 and put a TLS-terminating, authenticating proxy in front)"
            )


def check_inherited_sockets() -> None:
    """Raises ConfigError when this process holds a TCP socket that listens beyond loopback.

    BentoML opens the HTTP socket in its parent process and hands it down, whatever our settings say; its own default is
    0.0.0.0. So a worker looks at the sockets it really got.
    """
    refuse_exposed({f"the socket handed down on port {port}": host for host, port in listening_addresses()})


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
