"""The asyncio client: the answers, errors and retries of the other, many calls at once, cancellation, TLS."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from service import tokens
from service.client import Client
from service.client_aio import AsyncClient
from service.contract.errors import (
    BadImage,
    BlastwatchError,
    ConfigError,
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    NotReady,
    Overloaded,
    TooLarge,
    Unauthenticated,
)
from service.tokens import Role
from tests.service.running import Site, Worker, eventually, free_ports, working
from tests.support.certificates import Authority
from tests.support.images import png

T = TypeVar("T")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    site = Site(tmp_path_factory.mktemp("client_aio"))
    site.promote(site.add().version)
    with working(site.settings(max_message_bytes=2**20)) as found:
        yield found


def asked(where: str, what: Callable[[AsyncClient], Awaitable[T]], **options: Any) -> T:
    """What a client of its own was told."""

    async def ask() -> T:
        async with AsyncClient(where, **options) as client:
            return await what(client)

    return asyncio.run(ask())


class Flaky:
    """A core that meets these faults first, then is itself again."""

    def __init__(self, worker: Worker, monkeypatch: pytest.MonkeyPatch, *faults: BlastwatchError) -> None:
        self.requests: list[str] = []
        self._faults = list(faults)
        self._real = worker.engine.core().classify
        monkeypatch.setattr(worker.engine.core(), "classify", self)

    async def __call__(self, cell: Any, **options: Any) -> Any:
        self.requests.append(cell.request_id)
        if self._faults:
            raise self._faults.pop(0)
        return await self._real(cell, **options)


def test_it_says_what_the_other_client_says(worker: Worker) -> None:
    fields: dict[str, Any] = {"site": "Universitätsklinik", "pixel_size_um": 0.5, "request_id": "same"}
    with Client(worker.grpc) as other:
        assert asked(worker.grpc, lambda client: client.classify(png(1), **fields)) == other.classify(png(1), **fields)
        assert asked(worker.grpc, lambda client: client.model()) == other.model()


def test_a_review_is_taken(worker: Worker) -> None:
    record = asked(worker.grpc, lambda client: client.classify(png(2))).record_id
    assert asked(worker.grpc, lambda client: client.review(record, "L1", sampled=True)).record_id == record
    with pytest.raises(NotFound):
        asked(worker.grpc, lambda client: client.review("0" * 32, "L1"))


def test_many_calls_at_once_are_many_records(worker: Worker) -> None:
    async def many(client: AsyncClient) -> list[str]:
        answers = await asyncio.gather(*(client.classify(png(number)) for number in range(40)))
        return [answer.record_id for answer in answers]

    assert len(set(asked(worker.grpc, many))) == 40


@pytest.mark.parametrize(
    ("image", "fields", "kind"),
    [
        (b"nonsense", {}, BadImage),
        (b"", {}, InvalidRequest),
        (png(1), {"site": "line\nbreak"}, InvalidRequest),
        (bytes(2 * 2**20), {}, TooLarge),
        (png(77), {"request_id": "taken"}, Conflict),
    ],
)
def test_errors_come_back_as_the_tree(
    worker: Worker, image: bytes, fields: dict[str, Any], kind: type[BlastwatchError]
) -> None:
    asked(worker.grpc, lambda client: client.classify(png(1), request_id="taken"))
    with pytest.raises(kind) as caught:
        asked(worker.grpc, lambda client: client.classify(image, **fields))
    assert type(caught.value) is kind


def test_a_busy_service_is_asked_again_under_the_same_name(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    flaky = Flaky(worker, monkeypatch, NotReady("not yet"), Overloaded(retry_after_s=0.01), DeadlineExceeded("slow"))
    asked(worker.grpc, lambda client: client.classify(png(1)))
    assert len(flaky.requests) == 4
    assert len(set(flaky.requests)) == 1


def test_what_will_not_change_is_not_asked_again(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    flaky = Flaky(worker, monkeypatch, Conflict("no"), Conflict("no"))
    with pytest.raises(Conflict):
        asked(worker.grpc, lambda client: client.classify(png(1)))
    assert len(flaky.requests) == 1


def test_the_deadline_bounds_the_retries(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    flaky = Flaky(worker, monkeypatch, *[Overloaded("busy", retry_after_s=60.0) for _ in range(5)])
    with pytest.raises(Overloaded, match="busy"):  # not slept through: the wait would outlast the call
        asked(worker.grpc, lambda client: client.classify(png(1)), timeout_s=20)
    assert len(flaky.requests) == 1


def test_a_cancelled_call_is_cancelled_at_the_service(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[str] = []

    async def slow(cell: Any, **_: object) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            left.append(cell.request_id)
            raise

    monkeypatch.setattr(worker.engine.core(), "classify", slow)

    async def give_up(client: AsyncClient) -> None:
        async with asyncio.timeout(0.5):
            await client.classify(png(1), request_id="given-up")

    with pytest.raises(TimeoutError):
        asked(worker.grpc, give_up)
    assert eventually(lambda: left) == ["given-up"]


def test_a_service_that_is_not_there_is_one_line() -> None:
    (port,) = free_ports(1)
    with pytest.raises(NotReady, match="make serve") as caught:
        asked(f"127.0.0.1:{port}", lambda client: client.model(), attempts=2)
    assert "\n" not in str(caught.value)


def test_certificates_and_tokens_let_it_in(site: Site, tmp_path: Path) -> None:
    site.promote(site.add().version)
    authority = Authority(tmp_path)
    server, scanner = authority.sign("server"), authority.sign("scanner-1")
    file = tmp_path / "tokens"
    token = tokens.add(file, "lis-a", [Role.INFER])
    tokens.add(file, "scanner-1", [Role.INFER], certificate="scanner-1")
    settings = site.settings(
        tokens_file=file,
        tls_certificate=server.certificate_path,
        tls_key=server.key_path,
        tls_client_ca=authority.path,
    )
    shown: dict[str, Any] = {
        "ca": authority.path,
        "certificate": scanner.certificate_path,
        "key": scanner.key_path,
        "attempts": 1,
    }
    with working(settings) as worker:
        for options, name in ((shown, "scanner-1"), ({**shown, "token": token}, "lis-a")):
            record_id = asked(worker.grpc, lambda client: client.classify(png(1)), **options).record_id
            record = worker.engine.core()._recent.by_record(record_id)
            assert record is not None
            assert record.client == name
        with pytest.raises(Unauthenticated):
            asked(worker.grpc, lambda client: client.model(), **shown, token="wrong")
        with pytest.raises(NotReady):
            asked(worker.grpc, lambda client: client.model(), ca=authority.path, token=token, attempts=1)
    with pytest.raises(ConfigError, match="in the clear"):
        asked("10.0.0.7:50051", lambda client: client.model(), token=token)
