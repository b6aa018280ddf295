"""The load generator of `benchmarks.serving`: closed loop, open loop, gRPC and HTTP, every answer checked."""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import grpc

Send = Callable[[int, int], Awaitable[bool]]
"""(client, number of the image) → whether the answer was the right one. Raises Refused when the service is full."""
Check = Callable[[bytes, str], bool]
"""(reply, the right label) → whether the reply says so."""
OPEN_TIMEOUT_S = 10.0


class Refused(Exception):
    """RESOURCE_EXHAUSTED or 503: the service said that it is full."""


@dataclass
class Point:
    """What a stretch of load gave. Latencies in seconds, of right answers only."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0

    @property
    def rate(self) -> float:
        """Right answers a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def quantile(self, share: float) -> float:
        """The latency that this share does not exceed, in seconds; NaN without answers."""
        return quantile(self.latencies, share)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed (nearest rank); NaN of none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


async def closed(send: Send, *, clients: int, seconds: float, images: int) -> Point:
    """Each client sends its next request when it has the answer to the one before."""
    point = Point()
    started = time.perf_counter()
    until = started + seconds

    async def client(number: int) -> None:
        turn = number
        while time.perf_counter() < until:
            await _timed(point, send, number, turn % images)
            turn += clients

    await asyncio.gather(*map(client, range(clients)))
    point.seconds = time.perf_counter() - started
    return point


async def opened(send: Send, *, rate: float, seconds: float, images: int, seed: int) -> Point:
    """Requests at random moments (Poisson, `rate` a second), whatever has become of those before."""
    point = Point()
    rng = random.Random(seed)
    running: set[asyncio.Task[None]] = set()
    started = due = time.perf_counter()
    number = 0
    while (due := due + rng.expovariate(rate)) < started + seconds:
        if (ahead := due - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)
        # Counted from when it was due: a generator that is late does not make the service look fast.
        task = asyncio.create_task(_timed(point, send, number, number % images, since=due))
        running.add(task)
        task.add_done_callback(running.discard)
        number += 1
    if running:
        await asyncio.wait(running)
    point.seconds = time.perf_counter() - started
    return point


async def _timed(point: Point, send: Send, client: int, image: int, since: float | None = None) -> None:
    began = time.perf_counter() if since is None else since
    try:
        right = await send(client, image)
    except Refused:
        point.refused += 1
        await asyncio.sleep(0)
    except (OSError, EOFError, ValueError, grpc.RpcError):
        point.failed += 1
        await asyncio.sleep(0.01)  # a server that is gone must not spin the generator
    else:
        if right:
            point.latencies.append(time.perf_counter() - began)
        else:
            point.failed += 1


class GrpcLoad:
    """Sends messages that were serialised beforehand, over a few channels."""

    def __init__(
        self, port: int, method: str, requests: Sequence[bytes], labels: Sequence[str], check: Check, token: str
    ) -> None:
        # Local pools, or grpc joins equal channels into one connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) for _ in range(4)]
        self._calls = [channel.unary_unary(f"/{method}") for channel in self._channels]
        self._requests, self._labels, self._check = requests, labels, check
        self._metadata = (("authorization", f"Bearer {token}"),) if token else None

    async def __call__(self, client: int, image: int) -> bool:
        """See Send."""
        call = self._calls[client % len(self._calls)]
        try:
            reply = await call(self._requests[image], metadata=self._metadata, timeout=OPEN_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise Refused from None
            raise
        return self._check(reply, self._labels[image])

    async def close(self) -> None:
        """Lets the connections go."""
        for channel in self._channels:
            await channel.close()


class HttpLoad:
    """HTTP/1.1 with a kept connection a client; requests are whole byte strings made beforehand."""

    def __init__(
        self, port: int, path: str, bodies: Sequence[bytes], labels: Sequence[str], check: Check, headers: str
    ) -> None:
        self._port, self._labels, self._check = port, labels, check
        self._requests = [
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body
            for body in bodies
        ]
        self._streams: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def __call__(self, client: int, image: int) -> bool:
        """See Send."""
        streams = self._streams.pop(client, None) or await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = streams
        try:
            writer.write(self._requests[image])
            status, body, stays = await read_reply(reader)
        except BaseException:
            writer.close()
            raise
        if stays:
            self._streams[client] = streams
        else:
            writer.close()
        if status == 503:
            raise Refused
        return status == 200 and self._check(body, self._labels[image])

    async def close(self) -> None:
        """Lets the connections go."""
        for _, writer in self._streams.values():
            writer.close()
        self._streams.clear()


async def read_reply(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Status, body, and whether the connection stays. Raises EOFError when it ends early, ValueError for no HTTP."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").lower().split("\r\n")
    status = int(first.split(" ", 2)[1])
    headers = dict(line.split(":", 1) for line in lines if ":" in line)
    if "chunked" in headers.get("transfer-encoding", ""):
        body = bytearray()
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    else:
        body = bytearray(await reader.readexactly(int(headers.get("content-length", "0"))))
    return status, bytes(body), "close" not in headers.get("connection", "")
