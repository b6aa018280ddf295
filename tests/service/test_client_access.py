"""How a client gets in: TLS and tokens from files and from memory, against a worker that asks for both."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service import tokens
from service.client import AnyClient, Client, HttpClient
from service.client_access import Bearer
from service.contract.errors import BlastwatchError, ConfigError, NotReady, Unauthenticated
from service.tokens import Role
from tests.service.running import Site, Worker, working
from tests.support.certificates import Authority, Signed
from tests.support.images import png


@dataclass
class Secure:
    """A worker with TLS and tokens, and what its clients need; `mutual` asks gRPC callers for a certificate too."""

    plain: Worker
    mutual: Worker
    authority: Authority
    scanner: Signed
    tokens: Path
    token: str


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    site = Site(tmp_path_factory.mktemp("secure"))
    site.promote(site.add().version)
    authority = Authority(site.root)
    server, scanner = authority.sign("server"), authority.sign("scanner-1")
    file = site.root / "tokens"
    token = tokens.add(file, "lis-a", [Role.INFER])
    tokens.add(file, "scanner-1", [Role.INFER], certificate="scanner-1")
    settings: dict[str, Any] = {
        "tokens_file": file,
        "tls_certificate": server.certificate_path,
        "tls_key": server.key_path,
        "auth_failures": 1000,
    }
    with (
        working(site.settings(**settings)) as plain,
        working(site.settings(**settings, tls_client_ca=authority.path)) as mutual,
    ):
        yield Secure(plain, mutual, authority, scanner, file, token)


@pytest.mark.parametrize("source", ["bytes", "path", "text"])
def test_an_authority_and_a_token_let_both_clients_in(secure: Secure, source: str, tmp_path: Path) -> None:
    authority = secure.authority
    ca: Any = {"bytes": authority.pem, "path": authority.path, "text": str(authority.path)}[source]
    file = tmp_path / "token"
    file.write_text(f"{secure.token}\n")
    token = secure.token if source == "bytes" else file
    clients: tuple[AnyClient, ...] = (
        Client(secure.plain.grpc, ca=ca, token=token, attempts=1),
        HttpClient(secure.plain.http, ca=ca, token=token, attempts=1),
    )
    for client in clients:
        answer = client.classify(png(1))
        record = secure.plain.engine.core()._recent.by_record(answer.record_id)
        assert record is not None
        assert record.client == "lis-a"
        client.close()


@pytest.mark.parametrize("source", ["bytes", "path"])
def test_a_certificate_is_who_the_client_is(secure: Secure, source: str) -> None:
    scanner, authority = secure.scanner, secure.authority
    files: dict[str, Any] = {"ca": authority.path, "certificate": scanner.certificate_path, "key": scanner.key_path}
    memory: dict[str, Any] = {"ca": authority.pem, "certificate": scanner.certificate, "key": scanner.key}
    with Client(secure.mutual.grpc, **(files if source == "path" else memory), attempts=1) as client:
        record = secure.mutual.engine.core()._recent.by_record(client.classify(png(1)).record_id)
    assert record is not None
    assert record.client == "scanner-1"


def test_http_shows_a_certificate_to_whoever_asks(secure: Secure) -> None:
    """The service itself takes tokens over HTTP; what stands in front of it may want a certificate."""
    scanner, authority = secure.scanner, secure.authority
    for certificate, key in ((scanner.certificate, scanner.key), (scanner.certificate_path, scanner.key_path)):
        with HttpClient(
            secure.plain.http, ca=authority.pem, certificate=certificate, key=key, token=secure.token
        ) as client:
            assert client.model()


def test_a_new_token_in_the_file_needs_no_new_client(secure: Secure, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("bw_old")
    ca = secure.authority.pem
    with Client(secure.plain.grpc, ca=ca, token=file) as one, HttpClient(secure.plain.http, ca=ca, token=file) as two:
        for client in (one, two):
            with pytest.raises(Unauthenticated):
                client.model()
        file.write_text(secure.token)
        assert one.model() == two.model()


@pytest.mark.parametrize("kind", [Client, HttpClient])
def test_who_is_not_trusted_gets_nothing(secure: Secure, kind: Any, tmp_path: Path) -> None:
    where = secure.plain.grpc if kind is Client else secure.plain.http
    stranger = Authority(tmp_path, "stranger").pem
    with kind(where, ca=stranger, token=secure.token, attempts=1) as client, pytest.raises(NotReady, match="--ca"):
        client.classify(png(1))


@pytest.mark.parametrize("kind", [Client, HttpClient])
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"ca": b"nonsense"}, "no certificate of an authority"),
        ({"ca": "missing.pem"}, "missing.pem cannot be read"),
        ({"certificate": b"x"}, "belong together|needs ca"),
        ({"certificate": b"x", "key": b"y"}, "unencrypted key|needs ca"),
        ({"token": "two words"}, "one word"),
        ({"token": Path("missing-token")}, "missing-token cannot be read"),
    ],
    ids=str,
)
def test_what_cannot_work_is_one_line(secure: Secure, kind: Any, wrong: dict[str, Any], says: str) -> None:
    where = secure.plain.grpc if kind is Client else secure.plain.http
    with pytest.raises(ConfigError, match=says) as caught:
        kind(where, **{"ca": secure.authority.pem, **wrong}, attempts=1).model()
    assert "\n" not in str(caught.value)


def test_a_key_of_another_certificate_is_found_out(secure: Secure) -> None:
    other = secure.authority.sign("other")
    with pytest.raises(ConfigError, match="unencrypted key"):
        Client(secure.mutual.grpc, ca=secure.authority.pem, certificate=secure.scanner.certificate, key=other.key)


def test_certificates_for_plain_http_are_a_mistake(secure: Secure) -> None:
    with pytest.raises(ConfigError, match="https"):
        HttpClient("http://127.0.0.1:1", ca=secure.authority.pem)
    with pytest.raises(ConfigError, match="no address of HTTP"):
        HttpClient("127.0.0.1:3000")


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("127.0.0.1:50051", True),
        ("localhost:50051", True),
        ("[::1]:50051", True),
        ("dns:///localhost:50051", True),
        ("unix:/run/blastwatch.sock", True),
        ("http://127.0.0.1:3000", True),
        ("10.0.0.7:50051", False),
        ("blastwatch.hospital.example:50051", False),
        ("dns:///blastwatch.hospital.example:50051", False),
        ("http://127.0.0.1.hospital.example:3000", False),
        ("http://[::1", False),
    ],
)
def test_a_token_leaves_the_machine_only_encrypted(where: str, kept: bool) -> None:
    assert Bearer("bw_x", where, secure=True).header() == {"authorization": "Bearer bw_x"}
    assert Bearer("", where, secure=False).header() == {}
    try:
        assert Bearer("bw_x", where, secure=False).header()
        assert kept
    except BlastwatchError as error:
        assert not kept, error
