"""A stream of cells from the client's side: what was sent, what was answered, and what is sent again when a connection
breaks. No transport.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from uuid import uuid4

from service import converters
from service.client_errors import from_failure
from service.contract.errors import BlastwatchError, InvalidRequest
from service.domain import Answer, Cell
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.retries import AGAIN


@dataclass(frozen=True)
class StreamResult:
    """What became of one cell of a stream: an answer, or the error that it met. position: its place, from 0."""

    position: int
    request_id: str
    answer: Answer | None = None
    error: BlastwatchError | None = None

    @property
    def may_pass(self) -> bool:
        """Whether the same cell may be answered in a while."""
        return isinstance(self.error, AGAIN)


@dataclass(frozen=True)
class Place:
    """A cell that has a request id, and its place in the caller's order."""

    position: int
    cell: Cell


class Sent:
    """What one connection has sent and not been told about yet."""

    def __init__(self) -> None:
        self._open: dict[int, Place] = {}
        self._count = 0

    def add(self, place: Place) -> pb.Cell:
        """The message to send."""
        self._open[self._count] = place
        self._count += 1
        return converters.cell_to_message(place.cell)

    def result(self, reply: pb.StreamReply) -> tuple[Place, StreamResult]:
        """Which cell a reply is about, and what it says. Raises BlastwatchError for one about none of them."""
        place = self._open.pop(reply.position, None)
        if place is None or reply.request_id not in ("", place.cell.request_id):
            raise BlastwatchError("a reply names a cell that was not sent: is this the service?")
        result = StreamResult(place.position, place.cell.request_id)
        if reply.WhichOneof("result") == "prediction":
            return place, replace(result, answer=converters.answer_from_message(reply.prediction))
        return place, replace(result, error=from_failure(reply.failure))

    def unanswered(self) -> list[Place]:
        """What another connection must send again, in the caller's order."""
        return sorted(self._open.values(), key=lambda place: place.position)


class Backlog:
    """Cells on their way to connections that may break: each is in here, or with the connection `sent` stands for."""

    def __init__(self) -> None:
        self.sent = Sent()
        self.refused: deque[StreamResult] = deque()
        """Cells that make no sense and so were never sent."""
        self._again: deque[Place] = deque()
        self._count = 0

    def place(self, cell: Cell) -> Place | None:
        """The caller's next cell, with a request id; None for one that makes no sense."""
        position, self._count = self._count, self._count + 1
        try:
            cell.check()
        except InvalidRequest as error:
            self.refused.append(StreamResult(position, cell.request_id, error=error))
            return None
        return Place(position, cell if cell.request_id else replace(cell, request_id=uuid4().hex))

    def connect(self) -> Sent:
        """A new connection: what the last one was not told about is sent again, first."""
        self._again.extendleft(reversed(self.sent.unanswered()))
        self.sent = Sent()
        return self.sent

    def message(self, sent: Sent, place: Place | None = None) -> pb.Cell | None:
        """The next message of a connection: of `place`, else of a cell that is sent again; None when there is none.

        A connection that is no longer the current one sends nothing: the cell waits for the one that is.
        """
        if sent is not self.sent:
            if place is not None:
                self._again.append(place)
            return None
        if place is None:
            place = self._again.popleft() if self._again else None
        return None if place is None else sent.add(place)

    def finished(self) -> bool:
        """Whether nothing waits for an answer or for being sent."""
        return not self._again and not self.sent.unanswered()


class Feed:
    """A backlog filled from an iterable, whose `next` may block, by whichever thread sends for a connection."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self.failure: BaseException | None = None
        """What the iterable raised."""
        self._cells = iter(cells)
        self._backlog = Backlog()
        self._ended = False
        self._taking = threading.Lock()
        self._swapping = threading.Lock()

    def connect(self) -> tuple[Sent, Iterator[pb.Cell]]:
        """A new connection, and what it sends."""
        with self._swapping:
            sent = self._backlog.connect()
        return sent, iter(lambda: self._message(sent), None)

    def stop(self) -> None:
        """No connection takes another cell."""
        self._ended = True
        self.connect()

    def refused(self) -> Iterator[StreamResult]:
        """Results of cells that were never sent."""
        while self._backlog.refused:
            yield self._backlog.refused.popleft()

    def finished(self) -> bool:
        """Whether every cell has its answer."""
        return self._ended and self._backlog.finished()

    def _message(self, sent: Sent) -> pb.Cell | None:
        # What is sent again does not wait for the thread of a broken connection that still waits for the next cell.
        if (message := self._next(sent)) is not None:
            return message
        with self._taking:
            if (message := self._next(sent)) is not None or sent is not self._backlog.sent:
                return message
            place = self._take()
            return None if place is None else self._next(sent, place)

    def _next(self, sent: Sent, place: Place | None = None) -> pb.Cell | None:
        with self._swapping:
            return self._backlog.message(sent, place)

    def _take(self) -> Place | None:
        while not self._ended:
            try:
                cell = next(self._cells)
            except StopIteration:
                self._ended = True
            except BaseException as error:  # raised again where the results are read
                self.failure, self._ended = error, True
            else:
                if (place := self._backlog.place(cell)) is not None:
                    return place
        return None
