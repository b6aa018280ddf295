"""Time that passes when a test says so, threads that run when a test says so."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class FakeTime:
    """A clock and a way to wait on it; seconds pass by `advance` alone."""

    def __init__(self) -> None:
        self.now = 100.0
        self._timers: list[tuple[float, asyncio.Future[object]]] = []

    def clock(self) -> float:
        """Seconds, never going back."""
        return self.now

    async def wait(self, event: asyncio.Event, timeout_s: float | None) -> None:
        """Until the event is set or the fake time has passed."""
        waiter: asyncio.Future[object] = asyncio.ensure_future(event.wait())
        timer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        if timeout_s is not None:
            self._timers.append((self.now + timeout_s, timer))
        try:
            await asyncio.wait({waiter, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
            timer.cancel()

    async def advance(self, seconds: float) -> None:
        """Let time pass, and everything happen that is due by then."""
        await settle()
        self.now += seconds
        due = [timer for moment, timer in self._timers if moment <= self.now]
        self._timers = [(moment, timer) for moment, timer in self._timers if moment > self.now]
        for timer in due:
            if not timer.done():
                timer.set_result(None)
        await settle()


class Inline(Executor):
    """Runs what it is given at once, where it is given."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """A future that is done."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class Held(Executor):
    """Holds what it is given until `release`."""

    def __init__(self) -> None:
        self._held: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self._held)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """A future that is not done yet."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # as in a thread that has begun: nobody can call it back

        def work() -> None:
            done = Inline().submit(fn, *args, **kwargs)
            error = done.exception()
            if error is None:
                future.set_result(done.result())
            else:
                future.set_exception(error)

        self._held.append(work)
        return future

    async def release(self) -> None:
        """Run everything that was held until now."""
        await settle()
        held, self._held = self._held, []
        for work in held:
            work()
        await settle()


async def settle() -> None:
    """Let every task go as far as it can without time passing or a thread answering."""
    for _ in range(50):
        await asyncio.sleep(0)
