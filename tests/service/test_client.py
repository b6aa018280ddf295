"""The client: both transports say the same, errors come back as the tree, and busy services are asked again."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from service.client import Client, HttpClient
from service.contract.errors import (
    BadImage,
    BlastwatchError,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    NotFound,
    NotReady,
    Overloaded,
    TooLarge,
)
from tests.service.running import Site, Worker, free_ports, held, working
from tests.support.images import jpeg, png


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    site = Site(tmp_path_factory.mktemp("client"))
    site.promote(site.add().version)
    with working(site.settings(max_message_bytes=2**20)) as found:
        yield found


@pytest.fixture(params=["grpc", "http"])
def client(worker: Worker, request: pytest.FixtureRequest) -> Iterator[Client | HttpClient]:
    with Client(worker.grpc) if request.param == "grpc" else HttpClient(worker.http) as found:
        yield found


def test_both_transports_give_the_same_answer(worker: Worker) -> None:
    fields: dict[str, Any] = {
        "site": "Universitätsklinik",
        "pixel_size_um": 0.5,
        "patient_id": "p",
        "request_id": "same",
    }
    with Client(worker.grpc) as one, HttpClient(worker.http) as two:
        first, second = one.classify(jpeg(1), **fields), two.classify(jpeg(1), **fields)
        assert first == second
        assert one.model() == two.model()
        assert one.model().card == ""
        assert one.model(card=True).card == two.model(card=True).card != ""
    record = worker.engine.core()._recent.by_record(first.record_id)
    assert record is not None
    assert (record.site, record.pixel_size_um, record.test) == ("Universitätsklinik", 0.5, False)


def test_a_request_id_is_made_where_there_is_none(client: Client | HttpClient) -> None:
    one, two = client.classify(png(1)), client.classify(png(1))
    assert len({one.request_id, two.request_id, ""}) == 3


def test_test_traffic_is_marked(client: Client | HttpClient, worker: Worker) -> None:
    record = worker.engine.core()._recent.by_record(client.classify(png(1), test=True).record_id)
    assert record is not None
    assert record.test


def test_a_review_is_taken(client: Client | HttpClient) -> None:
    answer = client.classify(png(2))
    found = client.review(answer.record_id, "L1", sampled=True)
    assert found.record_id == answer.record_id
    assert not found.counts_for_training


@pytest.mark.parametrize(
    ("image", "fields", "kind"),
    [
        (b"nonsense", {}, BadImage),
        (png(1), {"pixel_size_um": -1.0}, InvalidRequest),
        (png(1), {"site": "line\nbreak"}, InvalidRequest),
        (bytes(2**20 + 1), {}, TooLarge),
        (bytes(2 * 2**20), {}, TooLarge),
        (png(77), {"request_id": "taken"}, Conflict),
    ],
)
def test_errors_come_back_as_the_tree(
    client: Client | HttpClient, image: bytes, fields: dict[str, Any], kind: type[BlastwatchError]
) -> None:
    client.classify(png(1), request_id="taken")
    with pytest.raises(kind) as caught:
        client.classify(image, **fields)
    assert type(caught.value) is kind


def test_an_unknown_record_is_not_found(client: Client | HttpClient) -> None:
    with pytest.raises(NotFound):
        client.review("0" * 32, "L1")


class Flaky:
    """A core that is busy or away a few times, then itself again."""

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


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits that are noted, not waited for."""
    waits: list[float] = []
    monkeypatch.setattr("service.client_calls.sleep", waits.append)
    return waits


def test_a_busy_service_is_asked_again_under_the_same_name(
    client: Client | HttpClient, worker: Worker, monkeypatch: pytest.MonkeyPatch, quick: list[float]
) -> None:
    flaky = Flaky(worker, monkeypatch, NotReady("not yet"), Overloaded(retry_after_s=0.1), NotReady("not yet"))
    client.classify(png(1))
    assert len(flaky.requests) == 4
    assert len(set(flaky.requests)) == 1
    assert flaky.requests[0]
    assert len(quick) == 3
    assert quick[1] >= 0.1, "what the service asked for is waited at least"


def test_it_gives_up_after_a_while(
    client: Client | HttpClient, worker: Worker, monkeypatch: pytest.MonkeyPatch, quick: list[float]
) -> None:
    flaky = Flaky(worker, monkeypatch, *[NotReady("not yet") for _ in range(50)])
    with pytest.raises(NotReady, match="not yet"):
        client.classify(png(1))
    assert len(flaky.requests) == 5


def test_what_will_not_change_is_not_asked_again(
    client: Client | HttpClient, worker: Worker, monkeypatch: pytest.MonkeyPatch, quick: list[float]
) -> None:
    flaky = Flaky(worker, monkeypatch, *[InvalidRequest("no") for _ in range(5)])
    with pytest.raises(InvalidRequest):
        client.classify(png(1))
    assert len(flaky.requests) == 1
    assert quick == []


@pytest.mark.parametrize("fault", [Conflict("no"), BadImage("no"), TooLarge("no"), Forbidden("no")], ids=repr)
def test_nor_is_what_is_wrong_with_the_request(
    client: Client | HttpClient,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    quick: list[float],
    fault: BlastwatchError,
) -> None:
    flaky = Flaky(worker, monkeypatch, fault)
    with pytest.raises(type(fault)):
        client.classify(png(1))
    assert (len(flaky.requests), quick) == (1, [])


def test_a_deadline_of_the_service_is_tried_again_while_there_is_time(
    client: Client | HttpClient, worker: Worker, monkeypatch: pytest.MonkeyPatch, quick: list[float]
) -> None:
    flaky = Flaky(worker, monkeypatch, DeadlineExceeded("too slow"))
    client.classify(png(1))
    assert len(set(flaky.requests)) == 1
    assert len(flaky.requests) == 2


def test_a_review_is_sent_again_only_if_the_service_said_that_it_was_not_taken(
    client: Client | HttpClient, worker: Worker, monkeypatch: pytest.MonkeyPatch, quick: list[float]
) -> None:
    record = client.classify(png(3)).record_id
    real, seen = worker.engine.core().review, []

    async def busy(*args: Any, **options: Any) -> Any:
        seen.append(args)
        if len(seen) == 1:
            raise Overloaded(retry_after_s=0.0)
        if len(seen) == 3:
            raise DeadlineExceeded("it may be on record")
        return await real(*args, **options)

    monkeypatch.setattr(worker.engine.core(), "review", busy)
    assert client.review(record, "L1").record_id == record
    assert len(seen) == 2
    with pytest.raises(DeadlineExceeded):
        client.review(record, "L1")
    assert len(seen) == 3


def test_a_fault_of_the_service_is_no_known_error(
    client: Client | HttpClient, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(worker.engine.core(), "classify", broken)
    with pytest.raises(BlastwatchError) as caught:
        client.classify(png(1))
    assert type(caught.value) is BlastwatchError
    assert "internal error" in str(caught.value)


def test_a_deadline_of_the_client(live: Site) -> None:
    settings = live.settings(max_wait_ms=1000)
    with (
        working(settings) as worker,
        held(worker.engine),
        Client(worker.grpc, timeout_s=0.2) as client,
        pytest.raises(DeadlineExceeded),
    ):
        client.classify(png(1))


@contextlib.contextmanager
def replying(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """An address where every connection gets these bytes, or nothing; and what was asked there."""
    asked: list[bytes] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked.append(self.request.recv(65536))
            self.request.sendall(answer)
            if not answer:
                self.request.recv(65536)  # until the caller hangs up

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_a_silent_service_takes_no_more_than_the_deadline(kind: str) -> None:
    with replying(b"") as (address, asked):
        client = Client(address, timeout_s=0.5) if kind == "grpc" else HttpClient(f"http://{address}", timeout_s=0.5)
        with client, pytest.raises((DeadlineExceeded, NotReady)):
            client.classify(png(1))
        assert asked


@pytest.mark.parametrize(
    ("status", "error"),
    [(429, Overloaded), (502, NotReady), (503, NotReady), (504, DeadlineExceeded), (418, BlastwatchError)],
)
def test_a_proxy_in_between_has_its_own_words(status: int, error: type[BlastwatchError], quick: list[float]) -> None:
    answer = f"HTTP/1.1 {status} Words\r\ncontent-length: 5\r\nretry-after: 3\r\nconnection: close\r\n\r\nsorry"
    with (
        replying(answer.encode()) as (address, asked),
        HttpClient(f"http://{address}", attempts=2) as client,
        pytest.raises(error, match=str(status)) as caught,
    ):
        client.classify(png(1))
    assert type(caught.value) is error
    assert [wait >= 3 for wait in quick] == [True] * (len(asked) - 1)
    assert len(asked) == (1 if status == 418 else 2)


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_a_service_that_is_not_there_is_one_line(kind: str, quick: list[float]) -> None:
    (port,) = free_ports(1)
    client = Client(f"127.0.0.1:{port}") if kind == "grpc" else HttpClient(f"http://127.0.0.1:{port}")
    with client, pytest.raises(NotReady, match="make serve") as caught:
        client.classify(png(1))
    assert "\n" not in str(caught.value)


def test_patients_never_pass_through_a_proxy(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "grpc_proxy"):
            monkeypatch.setenv(name, address)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with Client(worker.grpc, attempts=1) as one, HttpClient(worker.http, attempts=1) as two:
            assert one.classify(png(1)).label == two.classify(png(1)).label


def test_one_client_serves_many_threads(worker: Worker) -> None:
    with Client(worker.grpc) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: client.classify(png(number)), range(40)))
    assert len({answer.record_id for answer in answers}) == 40


def test_a_strange_server_is_no_traceback() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"127.0.0.1:{port}") as client, pytest.raises(BlastwatchError, match="UNIMPLEMENTED"):
            client.model()
    finally:
        server.stop(None)
