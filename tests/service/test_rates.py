"""The rate of a client, on a clock of the test's own, and as callers meet it."""

import grpc
import httpx
import pytest

from service.client import Client
from service.contract.errors import RateLimited
from service.proto.inference import open_inference_pb2 as oip
from service.rates import MAX_CLIENTS, Rates
from tests.service.running import Site, working
from tests.support.images import png


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_and_then_the_rate() -> None:
    clock = Clock()
    rates = Rates(10.0, 5, clock=clock)
    for _ in range(5):
        rates.spend("a", 1)
    with pytest.raises(RateLimited) as caught:
        rates.spend("a", 1)
    assert caught.value.retry_after_s == pytest.approx(0.1)
    assert "10 cells a second" in str(caught.value)
    rates.spend("b", 1)  # it is each client's own
    clock.now += 0.1
    rates.spend("a", 1)
    with pytest.raises(RateLimited):
        rates.spend("a", 1)


def test_a_pause_saves_up_no_more_than_a_burst() -> None:
    clock = Clock()
    rates = Rates(10.0, 5, clock=clock)
    rates.spend("a", 5)
    clock.now += 3600
    rates.spend("a", 5)
    with pytest.raises(RateLimited):
        rates.spend("a", 1)


def test_a_message_above_the_burst_is_paid_off() -> None:
    clock = Clock()
    rates = Rates(10.0, 5, clock=clock)
    rates.spend("a", 25)
    with pytest.raises(RateLimited) as caught:
        rates.spend("a", 1)
    assert caught.value.retry_after_s == pytest.approx(2.1)
    clock.now += 2.1
    rates.spend("a", 1)


def test_what_is_refused_costs_nothing() -> None:
    clock = Clock()
    rates = Rates(10.0, 5, clock=clock)
    rates.spend("a", 4)
    with pytest.raises(RateLimited):
        rates.spend("a", 2)
    rates.spend("a", 1)


def test_no_limit_and_bounded_memory() -> None:
    free = Rates(0.0, 1)
    for _ in range(1000):
        free.spend("a", 100)
    assert len(free) == 0
    rates = Rates(1.0, 1)
    for number in range(MAX_CLIENTS + 10):
        rates.spend(str(number), 1)
    assert len(rates) == MAX_CLIENTS


def test_what_a_caller_above_its_rate_is_told(live: Site) -> None:
    with working(live.settings(client_rate=0.001, client_burst=2)) as worker:
        with Client(worker.grpc, attempts=1) as client:
            client.classify(png(1))
            with pytest.raises(RateLimited) as caught:
                for number in range(2, 4):
                    client.classify(png(number))
            assert caught.value.retry_after_s > 1
        headers = {"Content-Type": "image/png"}
        reply = httpx.post(worker.http + "/v1/classify", content=png(5), headers=headers, trust_env=False)
        assert reply.status_code == 429
        assert reply.json()["error"]["code"] == "RateLimited"
        assert int(reply.headers["retry-after"]) > 1
        text = httpx.get(worker.http + "/metrics", trust_env=False).text
        assert 'blastwatch_rejected_total{reason="RateLimited",transport="http"} 1.0' in text


def test_an_inference_request_counts_by_its_cells(live: Site) -> None:
    def request(*numbers: int) -> oip.ModelInferRequest:
        found = oip.ModelInferRequest(model_name="blast-classifier")
        tensor = found.inputs.add(name="image", datatype="BYTES", shape=[len(numbers)])
        tensor.contents.bytes_contents.extend(map(png, numbers))
        return found

    settings = live.settings(client_rate=0.001, client_burst=3)
    with working(settings) as worker, grpc.insecure_channel(worker.grpc) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=oip.ModelInferRequest.SerializeToString,
            response_deserializer=oip.ModelInferResponse.FromString,
        )
        infer(request(1, 2), timeout=20)
        with pytest.raises(grpc.RpcError) as caught:
            infer(request(3, 4), timeout=20)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ("blastwatch-error", "RateLimited") in caught.value.trailing_metadata()
        infer(request(5), timeout=20)
