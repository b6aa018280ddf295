"""The parent of the workers is killed: they stop by themselves, ship what they answered, and free the ports."""

import os
import signal
from pathlib import Path

import pytest

from service.client import Client
from tests.service.process import service
from tests.service.running import Site, eventually
from tests.support.images import png

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("bento")]


def test_workers_whose_parent_was_killed_stop_and_leave_nothing_behind(live: Site) -> None:
    with service(live, workers="2") as running:
        running.wait()
        eventually(lambda: len(running.workers()) == 2)
        workers = running.workers()
        try:
            with Client(running.grpc) as client:
                answered = {client.classify(png(number)).record_id for number in range(10)}
            os.kill(running.process.pid, signal.SIGKILL)
            running.process.wait(20)
            eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), patience_s=30)
        finally:
            for pid in workers:
                if Path(f"/proc/{pid}").exists():
                    os.kill(pid, signal.SIGKILL)
        assert "the parent process is gone" in running.log
        assert running.status("/healthz") == 0
        assert all(live.store.get(record) for record in answered)
        assert list((live.root / "var/journal").glob("*/*.journal")) == []
