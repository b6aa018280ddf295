"""HTTP's certificate is renewed while two real workers serve: new connections see it, and a broken pair never."""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from cryptography import x509

from service import tokens
from service.client import HttpClient
from service.tokens import Role
from tests.service.process import Service, service
from tests.service.running import Site, eventually
from tests.support.certificates import Authority
from tests.support.images import png

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("bento")]

CONNECTIONS = 12
"""Enough that each worker takes one of them."""


@dataclass
class Encrypted:
    """A service whose HTTP shows a certificate by an authority of the test's own."""

    running: Service
    authority: Authority
    token: str

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.authority.pem.decode())

    @contextlib.contextmanager
    def connected(self, server_name: str | None = "127.0.0.1") -> Iterator[ssl.SSLSocket]:
        """A verified connection; None: the client names no server in its greeting."""
        context = self.trust()
        context.check_hostname = server_name is not None
        address = self.running.http.removeprefix("http://").partition(":")
        with (
            socket.create_connection((address[0], int(address[2])), timeout=20) as raw,
            context.wrap_socket(raw, server_hostname=server_name) as shown,
        ):
            yield shown

    def subject(self, server_name: str | None = "127.0.0.1") -> str:
        """The common name that a new connection sees; "" while nothing answers."""
        try:
            with self.connected(server_name) as shown:
                der = shown.getpeercert(binary_form=True)
        except OSError:
            return ""
        assert der is not None
        (name,) = x509.load_der_x509_certificate(der).subject
        return str(name.value)

    def subjects(self) -> set[str]:
        return {self.subject() for _ in range(CONNECTIONS)}


@pytest.fixture
def encrypted(live: Site) -> Iterator[Encrypted]:
    authority = Authority(live.root)
    server = authority.sign("first", file="server")
    file = live.root / "tokens"
    token = tokens.add(file, "lis-a", [Role.ADMIN])
    settings = {
        "workers": "2",
        "tls_certificate": str(server.certificate_path),
        "tls_key": str(server.key_path),
        "tokens_file": str(file),
    }
    with service(live, **settings) as running:
        found = Encrypted(running, authority, token)
        # A worker that holds its journal but does not answer yet waits for a pair that fits: see service.watched.
        eventually(lambda: found.subject() == "first" and len(running.workers()) == 2, patience_s=60)
        yield found


def test_a_renewed_certificate_is_shown_to_new_connections_and_a_broken_one_never(encrypted: Encrypted) -> None:
    running, authority = encrypted.running, encrypted.authority
    key = running.site.root / "server.key"
    https = running.http.replace("http://", "https://")
    with HttpClient(https, token=encrypted.token, verify=encrypted.trust()) as open_since_before:
        record = open_since_before.classify(png(1), request_id="before").record_id
        with encrypted.connected() as connection:
            authority.sign("second", file="server")
            assert encrypted.subjects() == {"second"}
            assert encrypted.subject(server_name=None) == "second"
            connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert open_since_before.classify(png(1), request_id="before").record_id == record

        good = key.read_bytes()
        key.write_bytes(authority.sign("other").key)
        assert encrypted.subjects() == {"second"}
        assert "are no certificate with its key" in running.log
        headers = {"authorization": f"Bearer {encrypted.token}"}
        metrics = httpx.get(https + "/metrics", headers=headers, verify=encrypted.trust(), trust_env=False, timeout=20)
        assert "blastwatch_certificates_refused_total 0.0" not in metrics.text
        assert "blastwatch_certificates_refused_total " in metrics.text
        key.write_bytes(good)
        authority.sign("third", file="server")
        assert encrypted.subjects() == {"third"}
    with HttpClient(https, token=encrypted.token, verify=encrypted.trust()) as renewed:
        assert renewed.classify(png(2)).label
    assert "Traceback" not in running.log
