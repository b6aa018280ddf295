"""A monitor that other machines reach: the token everywhere but for the kubelet, over TLS."""

import base64
import hashlib
import os
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from monitoring.access import Guarded
from monitoring.webhook import PATH
from tests.monitoring.test_monitor import free_port
from tests.support.certificates import Authority

TOKEN = "4e" * 32
SILENT = "0.0.0.0"  # noqa: S104


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"sre:{password}".encode()).decode()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token.sha256"
    path.write_text(hashlib.sha256(TOKEN.encode()).hexdigest())
    return path


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (basic(TOKEN), 200),
        ("", 401),
        ("Bearer ", 401),
        (f"Bearer {TOKEN}0", 401),
        (basic(""), 401),
        ("Basic %%%", 401),
        ("Basic " + base64.b64encode(b"\xff:\xff").decode(), 401),
        (f"Digest {TOKEN}", 401),
    ],
)
def test_who_has_the_token_reads_and_nobody_else(token_file: Path, authorization: str, status: int) -> None:
    paths = ("/metrics", "/", "/reports/x.html", "/healthz", "/healthz/", PATH)
    pages = [Route(path, lambda request: PlainTextResponse("page")) for path in paths]
    client = TestClient(Guarded(Starlette(routes=pages), token_file))
    headers = {"authorization": authorization}
    for path in ("/metrics", "/", "/reports/x.html", "/healthz/"):
        assert client.get(path, headers=headers, follow_redirects=False).status_code == status, path
    # The first says nothing but that the loop turns, the second asks for the token itself.
    assert [client.get(path, headers=headers).status_code for path in ("/healthz", PATH)] == [200, 200]


def test_a_monitor_on_every_address_speaks_tls_and_asks_for_the_token(tmp_path: Path, token_file: Path) -> None:
    authority = Authority(tmp_path)
    signed = authority.sign("monitor")
    port = free_port()
    environment = os.environ | {
        "BLASTWATCH_ROOT": str(tmp_path),
        "BLASTWATCH_MODELS_DIR": str(tmp_path / "models"),
        "BLASTWATCH_MONITOR_HOST": SILENT,
        "BLASTWATCH_MONITOR_PORT": str(port),
        "BLASTWATCH_MONITOR_TOKEN_FILE": str(token_file),
        "BLASTWATCH_MONITOR_TLS_CERTIFICATE": str(signed.certificate_path),
        "BLASTWATCH_MONITOR_TLS_KEY": str(signed.key_path),
    }
    with subprocess.Popen([sys.executable, "-m", "monitoring"], env=environment) as process:
        try:
            with httpx.Client(
                base_url=f"https://127.0.0.1:{port}", verify=_trust(authority), trust_env=False
            ) as client:
                deadline = time.monotonic() + 60
                while _status(client, "/healthz") != 200:
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
                assert client.get("/metrics").status_code == 401
                seen = client.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"})
                assert "blastwatch_monitor_" in seen.text
            with pytest.raises(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False)
        finally:
            process.kill()


def _trust(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.pem.decode())


def _status(client: httpx.Client, path: str) -> int:
    try:
        return client.get(path).status_code
    except httpx.TransportError:
        return 0
