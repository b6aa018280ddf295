"""What every test starts from: none of this machine's settings, one thread a library, no telemetry, fixed examples."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.postgres import Postgres, running

# Set before any test module imports a numeric library; child processes inherit it.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ["DO_NOT_TRACK"] = "1"
os.environ["BENTOML_DO_NOT_TRACK"] = "true"

# The same examples on every machine, and no failure because a machine is slow.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own BLASTWATCH_* settings must neither break nor rescue a test; where data lies may be said."""
    for name in list(os.environ):
        if name.startswith("BLASTWATCH_") and name != "BLASTWATCH_DATA":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of this session; only for tests marked `servers`."""
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An object store of this session (moto's server, over HTTP)."""
    from moto.server import ThreadedMotoServer  # seconds, which other tests need not wait for

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket that AWS' usual variables lead to."""
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    boto3.client("s3").create_bucket(Bucket="site")
    return "site"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that is not there yet, on each kind of database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/var/store.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.url()


@pytest.fixture
def outage(request: pytest.FixtureRequest, store_url: str) -> Callable[[], AbstractContextManager[None]]:
    """While `with outage():` lasts, nobody reaches the store: its folder is elsewhere, or its server is stopped."""
    folder = Path(store_url.removeprefix("sqlite:///")).parent
    away = folder.with_suffix(".away")

    @contextmanager
    def moved() -> Iterator[None]:
        folder.rename(away)
        try:
            yield
        finally:
            away.rename(folder)

    @contextmanager
    def stopped() -> Iterator[None]:
        server: Postgres = request.getfixturevalue("postgres")
        server.stop()
        try:
            yield
        finally:
            server.start()

    return moved if store_url.startswith("sqlite") else stopped
