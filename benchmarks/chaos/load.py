"""Steady load by the project's own clients, and a book of what was asked, answered and refused."""

import contextlib
import threading
import time
from dataclasses import dataclass, field

from benchmarks.chaos.pictures import Pictures
from service.client import AnyClient, Client, HttpClient
from service.contract.errors import BlastwatchError
from service.domain import Answer

PROBE_EVERY_S = 0.05
PROBE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Said:
    """An answer as its caller has it. `at`: monotonic seconds when it came; `took`: seconds since it was asked."""

    number: int
    request_id: str
    record_id: str
    image_sha256: str
    pixels_sha256: str
    label: str
    malignant: float
    version: str
    at: float
    took: float


@dataclass(frozen=True, slots=True)
class Failed:
    """A call that its caller gave up."""

    request_id: str
    error: str
    at: float


@dataclass
class Book:
    """What happened, by request. Threads may write at once."""

    said: list[Said] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    probes: list[tuple[float, float, bool]] = field(default_factory=list)
    """When a call that is tried once ended (monotonic seconds), how long it took, whether it was answered."""
    asked: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def number(self) -> int:
        """The next request's number."""
        with self._lock:
            self.asked += 1
            return self.asked


class Load:
    """Callers over gRPC and HTTP that retry as the client does by default, and a probe that does not.

    pace_s: what a caller waits after an answer. first: where the requests' numbers begin. The probe opens a connection
    a call, so that it meets every worker.
    """

    def __init__(
        self,
        pictures: Pictures,
        grpc: str,
        http: str = "",
        *,
        callers: int = 4,
        pace_s: float = 0.1,
        probe: bool = True,
        first: int = 0,
    ) -> None:
        self.book = Book(asked=first)
        self._pictures, self._grpc, self._http, self._pace_s = pictures, grpc, http, pace_s
        self._stop = threading.Event()
        self._clients: list[AnyClient] = [Client(grpc) for _ in range(callers)]
        self._clients += [HttpClient(http) for _ in range(callers // 2 if http else 0)]
        self._threads = [threading.Thread(target=self._call, args=(client,)) for client in self._clients]
        if probe:
            self._threads.append(threading.Thread(target=self._probe))
        for thread in self._threads:
            thread.start()

    def _call(self, client: AnyClient) -> None:
        with contextlib.closing(client):
            while not self._stop.wait(self._pace_s):
                self._ask(client, "call")

    def _probe(self) -> None:
        while not self._stop.wait(PROBE_EVERY_S):
            began = time.monotonic()
            with Client(self._grpc, attempts=1, timeout_s=PROBE_TIMEOUT_S) as client:
                answered = self._ask(client, "probe")
            now = time.monotonic()
            self.book.probes.append((now, now - began, answered))

    def _ask(self, client: AnyClient, kind: str) -> bool:
        number = self.book.number()
        request_id = f"{kind}-{number}"
        picture = self._pictures.png(number)
        began = time.monotonic()
        try:
            answer = client.classify(picture, request_id=request_id, patient_id=f"patient {number % 40}")
        except BlastwatchError as error:
            if kind == "call":
                self.book.failed.append(Failed(request_id, f"{type(error).__name__}: {error}", time.monotonic()))
            return False
        self.book.said.append(said(number, answer, began))
        return answer.request_id == request_id

    def stop(self) -> None:
        """No call after those under way; returns when they have ended."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def said(number: int, answer: Answer, began: float) -> Said:
    """The answer to request `number`, asked at `began` (monotonic seconds)."""
    now = time.monotonic()
    return Said(
        number,
        answer.request_id,
        answer.record_id,
        answer.image_sha256,
        answer.pixels_sha256,
        answer.label,
        answer.malignant_probability,
        answer.model_version,
        now,
        now - began,
    )
