"""An HTTP caller that leaves takes its work along. gRPC cancels a call by itself; here the connection is looked at."""

import asyncio
from types import TracebackType

from starlette.requests import ClientDisconnect, Request

LOOK_AFTER_S = 0.02
"""Most calls are over by then; they cost a timer and not a task."""


class Connected:
    """Cancels what is awaited inside when the client disconnects, and raises ClientDisconnect then.

    For a request whose body was read: whatever else comes is taken for nothing.
    """

    def __init__(self, request: Request) -> None:
        self._receive = request.receive
        self._left = False
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (in a coroutine there is one)
        self._task = task
        self._cancelling = task.cancelling()
        self._timer = asyncio.get_running_loop().call_later(LOOK_AFTER_S, self._look)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()
        # A cancellation by anybody else goes on (compare asyncio.timeout).
        if self._left and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ClientDisconnect from error

    def _look(self) -> None:
        self._watching = asyncio.create_task(self._watch(), name="disconnect")

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self._task.cancel()
