"""Questions from other threads get their own answer from the loop's, or a refusal: never nothing."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from monitoring.inbox import Inbox
from service.contract.errors import NotReady


def test_each_who_asks_gets_the_answer_of_the_loop() -> None:
    inbox: Inbox[int, tuple[int, str]] = Inbox()
    answered: list[int] = []

    def handle(question: int) -> tuple[int, str]:
        answered.append(question)
        return question, threading.current_thread().name

    def loop() -> None:
        while len(answered) < 8:
            inbox.serve(handle, 5.0)

    with ThreadPoolExecutor(9) as threads:
        threads.submit(loop)
        found = list(threads.map(lambda number: inbox.ask(number, 10.0), range(8)))
    assert [number for number, _ in found] == list(range(8))
    assert len({name for _, name in found}) == 1


def test_what_answering_raises_reaches_who_asked_and_the_loop_goes_on() -> None:
    inbox: Inbox[str, int] = Inbox()
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(inbox.ask, text, 10.0) for text in ("x", "7")]
        while not all(future.done() for future in asked):
            inbox.serve(int, 0.05)
    with pytest.raises(ValueError, match="x"):
        asked[0].result()
    assert asked[1].result() == 7


def test_a_question_that_nobody_got_to_is_not_acted_on_later() -> None:
    inbox: Inbox[str, str] = Inbox()
    with pytest.raises(NotReady, match="try again"):
        inbox.ask("late", 0.01)
    handled: list[str] = []

    def handle(question: str) -> str:
        handled.append(question)
        return ""

    inbox.serve(handle, 0.0)
    assert handled == []


def test_closing_turns_away_who_waits_and_who_comes_and_wakes_the_loop() -> None:
    inbox: Inbox[str, str] = Inbox()
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(inbox.ask, "x", 60.0)
        while not inbox._waiting:
            time.sleep(0.01)
        inbox.close()
        with pytest.raises(NotReady, match="stopping"):
            waiting.result(10)
        threads.submit(inbox.serve, str, 600.0).result(10)
    with pytest.raises(NotReady, match="stopping"):
        inbox.ask("x", 1.0)
