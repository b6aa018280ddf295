"""Questions of other threads, answered by the loop's own between two looks: the trigger has one user at a time."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from service.contract.errors import NotReady

Q = TypeVar("Q")
A = TypeVar("A")


class Inbox(Generic[Q, A]):
    """`ask` from any thread, `serve` in the loop's."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Q, Future[A]]] = deque()
        self._change = threading.Condition()
        self._closed = False

    def ask(self, question: Q, patience_s: float) -> A:
        """The answer, or what answering raised; NotReady when nobody got to it in time, and then nobody will."""
        answer: Future[A] = Future()
        with self._change:
            if self._closed:
                raise NotReady("the monitor is stopping: try again")
            self._waiting.append((question, answer))
            self._change.notify_all()
        try:
            return answer.result(patience_s)
        except TimeoutError:
            if not answer.cancel():  # it is being answered just now: the next to ask learns how
                raise NotReady("the monitor is at it: try again") from None
            raise NotReady(f"the monitor did not get to it within {patience_s:g} s: try again") from None

    def serve(self, handle: Callable[[Q], A], wait_s: float) -> None:
        """Wait for questions for at most `wait_s` and answer those that are there; returns early for them."""
        with self._change:
            self._change.wait_for(lambda: bool(self._waiting) or self._closed, wait_s)
            found = list(self._waiting)
            self._waiting.clear()
        for question, answer in found:
            if not answer.set_running_or_notify_cancel():
                continue
            try:
                answer.set_result(handle(question))
            except Exception as error:
                answer.set_exception(error)

    def close(self) -> None:
        """The loop ends: wakes it, and turns away who waits."""
        with self._change:
            self._closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
            self._change.notify_all()
        for _, answer in waiting:
            if answer.set_running_or_notify_cancel():
                answer.set_exception(NotReady("the monitor is stopping: try again"))
