"""Nothing but the health-only port leaves loopback."""

import socket

import pytest

from service.auth import check_bind, is_loopback, listening_addresses, refuse_exposed
from service.contract.errors import ConfigError
from service.settings import load_settings

EVERYWHERE = "0.0.0.0"  # noqa: S104  (what must be refused)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "::ffff:127.0.0.1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", [EVERYWHERE, "::", "10.0.0.1", "192.168.1.4", "::ffff:10.0.0.1", "hospital.example", ""]
)
def test_beyond_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("name", ["http_host", "grpc_host"])
@pytest.mark.parametrize("host", [EVERYWHERE, "::"])
def test_an_exposed_listener_is_refused_by_name(name: str, host: str) -> None:
    with pytest.raises(ConfigError, match=f"BLASTWATCH_{name.upper()} is {host}"):
        check_bind(load_settings(**{name: host}))


PROTECTED = {"tokens_file": "tokens", "tls_certificate": "server.pem", "tls_key": "server.key"}


def test_with_tokens_and_tls_every_listener_may_be_exposed() -> None:
    check_bind(load_settings(http_host=EVERYWHERE, grpc_host="::", **PROTECTED))


@pytest.mark.parametrize("missing", [("tokens_file",), ("tls_certificate", "tls_key")])
def test_tokens_or_tls_alone_are_not_enough(missing: tuple[str, ...]) -> None:
    values = {name: value for name, value in PROTECTED.items() if name not in missing}
    with pytest.raises(ConfigError, match="BLASTWATCH_TOKENS_FILE, BLASTWATCH_TLS_CERTIFICATE"):
        check_bind(load_settings(http_host=EVERYWHERE, **values))


def test_the_health_port_may_be_exposed() -> None:
    check_bind(load_settings(health_host=EVERYWHERE))


def test_loopback_starts() -> None:
    check_bind(load_settings())


def test_inherited_sockets_are_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as idle:
        idle.bind(("127.0.0.1", 0))
        found = listening_addresses()
        assert listening.getsockname() in found
        assert idle.getsockname() not in found
        refuse_exposed({"here": found[0][0]}, load_settings())
    assert listening.fileno() == -1  # looking at it did not keep it open
