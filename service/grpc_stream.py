"""ClassifyStream: cells in, replies out as they are ready, and no more of them in hand than `stream_window`.

A cell is read only when there is room for it, and its room is free only when its reply is gone. So a client that reads
slowly, or a service at its bound, stops the sender by HTTP/2's own flow control, and nothing piles up here.
"""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import grpc

from service import converters
from service.contract.errors import NotReady, Overloaded
from service.domain import Answer, Cell
from service.door import client_now, part
from service.engine import Engine
from service.grpc_status import ERROR_KEY, deadline_of, explain, parsed, trailer
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb

CELL = "ClassifyStreamCell"
"""What one cell of a stream is called where calls are counted and put on record."""


class ClassifyStream:
    """The method; once `stopping` is set no stream reads on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.stopping = asyncio.Event()

    async def __call__(
        self, requests: AsyncIterator[bytes], context: "grpc.aio.ServicerContext"
    ) -> AsyncGenerator[pb.StreamReply, None]:
        """The replies. Raises NotReady at the end when the service stops before the client has sent everything."""
        room = asyncio.Semaphore(self._engine.settings.stream_window)
        replies: asyncio.Queue[pb.StreamReply | None] = asyncio.Queue()
        under_way: set[asyncio.Task[None]] = set()

        def begin(position: int, data: bytes) -> None:
            task = asyncio.create_task(self._reply(position, data, deadline_of(context), replies))
            under_way.add(task)
            task.add_done_callback(under_way.discard)

        reading = asyncio.create_task(self._read(requests, room, begin, under_way))
        # However the reading ends, the replies end behind what it began.
        reading.add_done_callback(lambda _: replies.put_nowait(None))
        try:
            while (reply := await replies.get()) is not None:
                yield reply
                room.release()
            everything = reading.result()
        finally:
            # Where the client is gone, nobody waits for what is under way.
            tasks = [reading, *under_way]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not everything:
            raise NotReady("the service is stopping: open another stream for the cells that got no reply")

    async def _read(
        self,
        requests: AsyncIterator[bytes],
        room: asyncio.Semaphore,
        begin: Callable[[int, bytes], None],
        under_way: set[asyncio.Task[None]],
    ) -> bool:
        """Begins each cell as there is room, and ends when all have replied; whether the client had no more to send."""
        stopping = asyncio.create_task(self.stopping.wait())
        everything = False
        try:
            for position in itertools.count():
                await room.acquire()
                coming = asyncio.ensure_future(anext(requests, None))
                try:
                    await asyncio.wait({coming, stopping}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    coming.cancel()  # does nothing to one that has come
                if not coming.done():
                    break
                data = coming.result()
                if data is None:
                    everything = True
                    break
                begin(position, data)
        finally:
            stopping.cancel()
        while under_way:
            await asyncio.wait(set(under_way))
        return everything

    async def _reply(
        self, position: int, data: bytes, deadline: float | None, replies: asyncio.Queue[pb.StreamReply | None]
    ) -> None:
        """Puts one cell's reply into the queue, whatever becomes of it."""
        visit = part(CELL)
        reply = pb.StreamReply(position=position)
        status = grpc.StatusCode.OK
        try:
            answer = await self._answer(converters.cell_from_message(parsed(pb.Cell, data)), deadline)
            reply.prediction.CopyFrom(converters.answer_to_message(answer))
        except asyncio.CancelledError:
            status = grpc.StatusCode.CANCELLED
            raise
        except Exception as error:
            status, text = explain(error, CELL)
            reply.failure.CopyFrom(_failure(error, status, text))
        finally:
            self._engine.metrics.requests.of("grpc", CELL, status.name).inc()
            self._engine.door.leave(visit, status.name)
        reply.request_id = visit.request_id
        replies.put_nowait(reply)

    async def _answer(self, cell: Cell, deadline: float | None) -> Answer:
        """The cell's answer. A service at its bound is asked again until the deadline: its sender cannot know of it."""
        until = time.monotonic() + self._engine.settings.timeout_s if deadline is None else deadline
        while True:
            try:
                return await self._engine.core().classify(cell, transport="grpc", client=client_now(), deadline=until)
            except Overloaded as error:
                pause = error.retry_after_s * random.uniform(0.5, 1)
                if time.monotonic() + pause >= until:
                    raise
                await asyncio.sleep(pause)


def _failure(error: Exception, status: grpc.StatusCode, text: str) -> pb.Failure:
    name = dict(trailer(error)).get(ERROR_KEY, "Internal")
    wait = error.retry_after_s if isinstance(error, Overloaded) else 0.0
    return pb.Failure(error=name, message=text, code=status.value[0], retry_after_s=wait)
