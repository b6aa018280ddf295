"""Who gets in and to what, on both transports of a real worker: tokens, roles, TLS, client certificates, audit."""

import json
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service import open_inference, tokens
from service.client import AnyClient, Client, HttpClient
from service.contract.errors import BlastwatchError, ConfigError, Forbidden, NotFound, NotReady, Unauthenticated
from service.door import ROLES
from service.grpc_server import SERVICE
from service.preflight import check
from service.tokens import Role
from tests.service.running import Site, Worker, eventually, working
from tests.support.certificates import Authority
from tests.support.images import png

DESCRIBE = b'{"recordId": "x", "label": "L1", "role": "h"}'


@dataclass
class Guarded:
    """A worker that asks for tokens, and the tokens."""

    worker: Worker
    file: Path
    token: dict[str, str]

    def rows(self, **wanted: str) -> list[dict[str, Any]]:
        """Audit rows with these values."""
        found = []
        for path in self.worker.settings.audit_dir.glob("*.jsonl"):
            found += [json.loads(line) for line in path.read_text().splitlines()]
        return [row for row in found if wanted.items() <= row.items()]

    def refused(self, transport: str, reason: str) -> float:
        """How often a call was not let in."""
        name, labels = "blastwatch_auth_failures_total", {"transport": transport, "reason": reason}
        return self.worker.engine.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    site = Site(tmp_path_factory.mktemp("access"))
    site.promote(site.add().version)
    file = site.root / "tokens"
    found = {role.value: tokens.add(file, f"client-{role}", [role]) for role in Role}
    # The limit on failures has a worker of its own below.
    with working(site.settings(tokens_file=file, auth_failures=1000)) as worker:
        yield Guarded(worker, file, found)


def over_grpc(worker: Worker, token: str = "") -> AnyClient:
    return Client(worker.grpc, token=token, attempts=1)


def over_http(worker: Worker, token: str = "") -> AnyClient:
    return HttpClient(worker.http, token=token, attempts=1)


both = pytest.mark.parametrize("connect", [over_grpc, over_http])
Connect = Callable[..., AnyClient]


@both
def test_a_token_gives_its_client_a_name(guarded: Guarded, connect: Connect) -> None:
    client = connect(guarded.worker, guarded.token["infer"])
    answer = client.classify(png(1))
    record = guarded.worker.engine.core()._recent.by_record(answer.record_id)
    assert record is not None
    assert record.client == "client-infer"
    assert client.model().version == answer.model_version
    client.close()


@both
@pytest.mark.parametrize(
    ("token", "says"),
    [("", "who is calling"), ("nonsense", "not known"), ("x" * 300, "Bearer TOKEN")],
    ids=["none", "unknown", "long"],
)
def test_without_a_good_token_nothing_is_answered(guarded: Guarded, connect: Connect, token: str, says: str) -> None:
    client = connect(guarded.worker, token)
    calls: list[Callable[[], object]] = [
        lambda: client.classify(png(1)),
        lambda: client.review("x", "L1"),
        client.model,
    ]
    for call in calls:
        with pytest.raises(Unauthenticated, match=says) as caught:
            call()
        assert "nonsense" not in str(caught.value)
    client.close()


@both
def test_each_role_does_what_it_is_for(guarded: Guarded, connect: Connect) -> None:
    infer, review, admin = (connect(guarded.worker, guarded.token[role]) for role in ("infer", "review", "admin"))
    record = infer.classify(png(2)).record_id
    assert review.review(record, "L1").record_id == record
    assert admin.review(admin.classify(png(3)).record_id, "L1").review_id
    for call in (lambda: infer.review(record, "L1"), lambda: review.classify(png(2)), review.model):
        with pytest.raises(Forbidden, match="has no role for"):
            call()
    with pytest.raises(NotFound):
        review.review("0" * 32, "L1")
    for client in (infer, review, admin):
        client.close()


def test_every_method_has_a_role() -> None:
    for service in (SERVICE, open_inference.SERVICE):
        assert {method.name for method in service.methods} <= ROLES.keys()


@pytest.mark.parametrize(
    "header", ["Bearer", "Basic {token}", "{token}", "Bearer {token} {token}", "Bearer {token},Bearer {token}"]
)
def test_another_form_of_the_header_is_refused(guarded: Guarded, header: str) -> None:
    sent = {"authorization": header.format(token=guarded.token["admin"])}
    response = httpx.get(f"{guarded.worker.http}/v1/model", headers=sent, trust_env=False)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"


def test_two_headers_are_refused(guarded: Guarded) -> None:
    sent = [("authorization", f"Bearer {guarded.token['admin']}")] * 2
    assert httpx.get(f"{guarded.worker.http}/v1/model", headers=sent, trust_env=False).status_code == 401


def test_a_body_is_not_read_before_it_is_known_who_sends_it(guarded: Guarded) -> None:
    with socket.create_connection(("127.0.0.1", guarded.worker.settings.http_port), timeout=20) as raw:
        raw.sendall(b"POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nabc")
        assert raw.recv(100).startswith(b"HTTP/1.1 401")


def test_health_is_open_and_the_rest_asks_for_any_client(guarded: Guarded) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    known = (("authorization", f"Bearer {guarded.token['review']}"),)
    with grpc.insecure_channel(guarded.worker.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        assert next(iter(stub.ServerReflectionInfo(iter([request]), metadata=known, timeout=20)))
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ServerReflectionInfo(iter([request]), timeout=20))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with httpx.Client(base_url=guarded.worker.http, trust_env=False) as http:
        assert http.get("/metrics").status_code == 401
        assert http.get("/metrics", headers=[("authorization", known[0][1])]).status_code == 200


@both
def test_a_revoked_token_is_out_at_once_and_a_new_one_in(guarded: Guarded, connect: Connect) -> None:
    token = tokens.add(guarded.file, "short-lived", [Role.INFER])
    client = connect(guarded.worker, token)
    assert client.model()
    tokens.revoke(guarded.file, "short-lived")
    with pytest.raises(Unauthenticated):
        client.model()
    client.close()


def test_a_broken_file_changes_nothing_and_is_counted(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    good = guarded.file.read_bytes()
    registry = guarded.worker.engine.metrics.registry
    before = registry.get_sample_value("blastwatch_tokens_file_refused_total") or 0
    client = over_grpc(guarded.worker, guarded.token["infer"])
    guarded.file.write_text("nonsense")
    assert client.model()
    assert registry.get_sample_value("blastwatch_tokens_file_refused_total") == before + 1
    assert "what was read before stays in force" in caplog.text
    guarded.file.write_bytes(good)
    assert client.model()
    client.close()


@both
def test_every_access_has_a_row(guarded: Guarded, connect: Connect) -> None:
    name = connect.__name__
    client, reader, stranger, nobody = (
        connect(guarded.worker, token) for token in (guarded.token["infer"], guarded.token["review"], "stranger", "")
    )
    client.classify(png(4), request_id=f"audited-{name}")
    for image in (b"nonsense", b""):
        with pytest.raises(BlastwatchError):
            client.classify(image, request_id=f"bad-{name}")
    for caller, refusal in ((stranger, Unauthenticated), (nobody, Unauthenticated), (reader, Forbidden)):
        with pytest.raises(refusal):
            caller.model()
    transport = name.removeprefix("over_")
    ok, bad, unknown = ("OK", "INVALID_ARGUMENT", "UNAUTHENTICATED") if transport == "grpc" else ("200", "400", "401")
    (row,) = eventually(lambda: guarded.rows(request_id=f"audited-{name}"))
    assert row == {
        "time": row["time"],
        "client": "client-infer",
        "address": "127.0.0.1",
        "transport": transport,
        "method": "Classify",
        "code": ok,
        "request_id": f"audited-{name}",
    }
    assert eventually(lambda: guarded.rows(request_id=f"bad-{name}", code=bad, client="client-infer"))
    assert eventually(lambda: guarded.rows(transport=transport, method="GetModel", code=unknown, client=""))
    for reason in ("unknown", "missing", "role"):
        assert guarded.refused(transport, reason) >= 1
    for caller in (client, reader, stranger, nobody):
        caller.close()


@both
def test_after_so_many_failures_an_address_is_not_listened_to(tmp_path: Path, connect: Connect) -> None:
    site = Site(tmp_path)
    site.promote(site.add().version)
    file = tmp_path / "tokens"
    token = tokens.add(file, "lis-a", [Role.INFER])
    with working(site.settings(tokens_file=file, auth_failures=3, auth_pause_s=1)) as worker:
        guarded = Guarded(worker, file, {})
        known, stranger = connect(worker, token), connect(worker, "guess")
        assert known.model()
        for _ in range(3):
            with pytest.raises(Unauthenticated, match="not known"):
                stranger.model()
        for client in (stranger, known):
            with pytest.raises(Unauthenticated, match="too many failed attempts"):
                client.model()
        transport = connect.__name__.removeprefix("over_")
        assert guarded.refused(transport, "unknown") == 3
        assert guarded.refused(transport, "paused") == 2

        def back() -> bool:
            try:
                return bool(known.model())
            except Unauthenticated:
                return False

        assert eventually(back)
        known.close()
        stranger.close()
    assert len(guarded.rows(method="GetModel", client="")) == 3


@dataclass
class Encrypted:
    """A worker with TLS that asks gRPC callers for a certificate."""

    worker: Worker
    authority: Authority
    folder: Path
    token: str

    def grpc(self, name: str, dns: str, *, authority: Authority | None = None, token: str = "") -> Client:
        """A client with a certificate for these names."""
        signed = (authority or self.authority).sign(name, dns=dns)
        credentials = grpc.ssl_channel_credentials(self.authority.pem, signed.key, signed.certificate)
        return Client(self.worker.grpc, credentials=credentials, token=token, attempts=1, timeout_s=20)

    def subject(self) -> str:
        """The common name that the gRPC server shows to a new connection."""
        context = ssl.create_default_context(cadata=self.authority.pem.decode())
        context.set_alpn_protocols(["h2"])
        port = self.worker.settings.grpc_port
        with (
            socket.create_connection(("127.0.0.1", port), timeout=20) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as shown,
        ):
            der = shown.getpeercert(binary_form=True)
        assert der is not None
        (name,) = x509.load_der_x509_certificate(der).subject
        return str(name.value)


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    site = Site(tmp_path_factory.mktemp("tls"))
    site.promote(site.add().version)
    authority = Authority(site.root)
    server = authority.sign("first", file="server")
    file = site.root / "tokens"
    token = tokens.add(file, "lis-a", [Role.INFER])
    tokens.add(file, "scanner-1", [Role.INFER], certificate="scanner-1.example")
    tokens.add(file, "reader", [Role.REVIEW], certificate="reader")
    settings = site.settings(
        tokens_file=file,
        tls_certificate=server.certificate_path,
        tls_key=server.key_path,
        tls_client_ca=authority.path,
        auth_failures=1000,
    )
    assert check(settings) == []
    with working(settings) as worker:
        yield Encrypted(worker, authority, site.root, token)


def test_a_certificates_alternative_name_is_a_client_with_its_role(encrypted: Encrypted) -> None:
    with encrypted.grpc("whatever", "scanner-1.example") as client:
        record = encrypted.worker.engine.core()._recent.by_record(client.classify(png(1)).record_id)
        assert record is not None
        assert record.client == "scanner-1"
        with pytest.raises(Forbidden):
            client.review("x", "L1")


def test_a_certificates_common_name_is_one_too(encrypted: Encrypted) -> None:
    with encrypted.grpc("reader", "reader.example") as client:
        with pytest.raises(Forbidden):
            client.classify(png(1))
        with pytest.raises(NotFound):
            client.review("0" * 32, "L1")


def test_a_certificate_of_ours_that_nobody_listed_is_refused(encrypted: Encrypted) -> None:
    with encrypted.grpc("stranger", "stranger.example") as client, pytest.raises(Unauthenticated, match="certificate"):
        client.model()


def test_a_token_goes_before_the_certificate(encrypted: Encrypted) -> None:
    with encrypted.grpc("reader", "reader.example", token=encrypted.token) as client:
        assert client.model()
    with (
        encrypted.grpc("reader", "reader.example", token="wrong") as client,
        pytest.raises(Unauthenticated, match="token"),
    ):
        client.review("x", "L1")


def test_without_a_certificate_of_the_authority_there_is_no_connection(encrypted: Encrypted, tmp_path: Path) -> None:
    nothing = grpc.ssl_channel_credentials(encrypted.authority.pem)
    with (
        Client(encrypted.worker.grpc, credentials=nothing, token=encrypted.token, attempts=1) as client,
        pytest.raises(NotReady),
    ):
        client.model()
    other = Authority(tmp_path, "another")
    with encrypted.grpc("reader", "reader.example", authority=other) as client, pytest.raises(NotReady):
        client.model()
    with Client(encrypted.worker.grpc, attempts=1) as client, pytest.raises(NotReady):
        client.model()


def test_http_is_encrypted_and_asks_for_a_token(encrypted: Encrypted) -> None:
    verify = ssl.create_default_context(cadata=encrypted.authority.pem.decode())
    with HttpClient(encrypted.worker.http, token=encrypted.token, verify=verify, attempts=1) as client:
        assert client.classify(png(2)).label
    with HttpClient(encrypted.worker.http, verify=verify, attempts=1) as client, pytest.raises(Unauthenticated):
        client.model()
    with HttpClient(encrypted.worker.http, token=encrypted.token, attempts=1) as client, pytest.raises(NotReady):
        client.model()  # it does not trust the authority


def test_the_health_port_stays_open_to_probes(encrypted: Encrypted) -> None:
    with grpc.insecure_channel(encrypted.worker.health) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_renewed_certificate_is_shown_to_new_connections_and_a_broken_one_never(
    encrypted: Encrypted, caplog: pytest.LogCaptureFixture
) -> None:
    registry = encrypted.worker.engine.metrics.registry
    with encrypted.grpc("whatever", "scanner-1.example") as open_since_before:
        assert open_since_before.model()
        assert encrypted.subject() == "first"
        encrypted.authority.sign("second", file="server")
        assert encrypted.subject() == "second"
        assert open_since_before.model()
        settings = encrypted.worker.settings
        assert settings.tls_key is not None
        good = settings.tls_key.read_bytes()
        settings.tls_key.write_bytes(encrypted.authority.sign("other").key)
        assert encrypted.subject() == "second"
        assert registry.get_sample_value("blastwatch_certificates_refused_total") == 1
        assert "are no certificate with its key" in caplog.text
        settings.tls_key.write_bytes(good)
        encrypted.authority.sign("third", file="server")
        assert encrypted.subject() == "third"


def test_tls_files_that_make_no_sense_stop_the_start(site: Site) -> None:
    authority = Authority(site.root)
    one, two = authority.sign("one"), authority.sign("two")
    nonsense = site.root / "nonsense"
    nonsense.write_text("nonsense")
    tokens.add(site.root / "tokens", "lis-a", [Role.INFER])
    good = {
        "tls_certificate": one.certificate_path,
        "tls_key": one.key_path,
        "tls_client_ca": authority.path,
        "tokens_file": site.root / "tokens",
    }
    assert check(site.settings(**good)) == []
    for name, path in (
        ("tls_key", two.key_path),
        ("tls_key", site.root / "nothing"),
        ("tls_certificate", nonsense),
        ("tls_client_ca", nonsense),
        ("tokens_file", nonsense),
        ("tokens_file", site.root / "nothing"),
    ):
        if nonsense.stat().st_mode & 0o077:
            nonsense.chmod(0o600)
        with pytest.raises(ConfigError) as caught:
            check(site.settings(**{**good, name: path}))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
