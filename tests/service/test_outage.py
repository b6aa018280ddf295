"""PostgreSQL stops at once under load and comes back: no request fails, no answer is lost, none is there twice."""

import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.client import Client
from tests.service.process import service
from tests.service.running import Site, eventually
from tests.support.images import png
from tests.support.postgres import Postgres

pytestmark = [pytest.mark.servers, pytest.mark.e2e]

OUTAGE_S = float(os.environ.get("TEST_OUTAGE_S", "10"))
CALLERS = 4
PATIENCE_S = 120.0


@dataclass
class ServerSite(Site):
    """A site whose store is on a server."""

    database: str

    @property
    def url(self) -> str:
        """The store's URL."""
        return self.database


@dataclass(frozen=True)
class Said:
    """An answer as the client has it."""

    record_id: str
    request_id: str
    pixels_sha256: str
    label: str


class Load:
    """Callers that classify one cell after another until told to stop, and keep what they were answered."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._stop = threading.Event()
        self.answered: list[Said] = []

    def call(self, caller: int) -> None:
        """One caller. Raises what the client could not get over."""
        number = 0
        with Client(self._target) as client:
            while not self._stop.wait(0.02):
                number += 1
                answer = client.classify(png(number), request_id=f"{caller}-{number}", patient_id=f"patient {caller}")
                self.answered.append(Said(answer.record_id, answer.request_id, answer.pixels_sha256, answer.label))

    def stop(self) -> None:
        """No call after those under way."""
        self._stop.set()


def test_a_server_that_stops_under_load_costs_nothing(tmp_path: Path, postgres: Postgres) -> None:
    site = ServerSite(tmp_path, postgres.url())
    site.promote(site.add().version)
    with service(site) as running, ThreadPoolExecutor(CALLERS) as pool:
        running.wait()
        load = Load(running.grpc)
        callers = [pool.submit(load.call, caller) for caller in range(CALLERS)]
        try:
            eventually(lambda: site.store.count() >= 20, patience_s=PATIENCE_S)
            postgres.stop()
            before = len(load.answered)
            threading.Event().wait(OUTAGE_S)
            during = len(load.answered) - before
            assert running.status("/readyz") == 200
            postgres.start()
            eventually(lambda: len(load.answered) > before + during + 20, patience_s=PATIENCE_S)
        finally:
            load.stop()
        for caller in callers:
            caller.result()  # raises what failed
        assert during > 0, "nothing was answered while the store was away, so this shows nothing"

        store = site.store
        eventually(lambda: store.count() >= len(load.answered), patience_s=PATIENCE_S)
        running.terminate()
    found = [stored.record for stored in store.predictions()]
    assert Counter(Said(r.record_id, r.request_id, r.pixels_sha256, r.label) for r in found) == Counter(load.answered)
    assert not [stored for stored in store.predictions() if stored.disputed]
    assert list((site.root / "var/journal").glob("*/*.journal")) == []
    site.ledger.verify()
    print(f"{len(load.answered)} answers, {during} of them in an outage of {OUTAGE_S:g} s")
