"""From an answer that is acknowledged to the gauge that shows it: a part of `benchmarks.monitoring`."""

import asyncio
import os
import random
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from service.contract.ledger import Ledger
from service.contract.store import Store
from service.journal import Entry, Journal
from service.shipper import Shipper
from tests.support.monitoring import stream, watched_artifact

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0


def delays(folder: Path, answers: int) -> list[float]:
    """Seconds from an acknowledged answer to the gauge of a monitor with default settings."""
    url = f"sqlite:///{folder}/store.db"
    artifact = watched_artifact(folder / "models")
    ledger = Ledger(url)
    ledger.append("registered", version=artifact.version)
    ledger.promote(artifact.version, None)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BLASTWATCH_")} | {
        "BLASTWATCH_ROOT": str(folder),
        "BLASTWATCH_STORE_URL": url,
        "BLASTWATCH_MODELS_DIR": str(folder / "models"),
        "BLASTWATCH_MONITOR_PORT": str(port),
        "BLASTWATCH_MONITOR_REPORTS": "false",
    }
    with subprocess.Popen([sys.executable, "-m", "monitoring"], cwd=ROOT, env=environment) as monitor:
        try:
            return asyncio.run(_delays(folder / "journal", url, artifact.version, answers, port))
        finally:
            monitor.terminate()


async def _delays(root: Path, url: str, model: str, answers: int, port: int) -> list[float]:
    journal = Journal(root, max_bytes=2**24)
    shipper = Shipper(root, journal, Store(url))
    await shipper.start()
    pause, found = random.Random(1), []
    sent = stream(model, seed=1, patients=answers, cells=1, start=time.time() - 60)
    async with httpx.AsyncClient() as client:
        await _shown(client, port, "production", 1)
        for number, record in enumerate(sent, start=1):
            await asyncio.sleep(pause.uniform(0.0, 2.0))  # anywhere between two looks
            await journal.append([Entry.prediction(record)])
            acknowledged = time.monotonic()
            await _shown(client, port, "open_window_cells", number)
            found.append(time.monotonic() - acknowledged)
    await journal.close()
    await shipper.stop()
    return found


async def _shown(client: httpx.AsyncClient, port: int, name: str, value: float) -> None:
    deadline = time.monotonic() + PATIENCE_S
    pattern = re.compile(rf"^blastwatch_monitor_{name}(?:{{.*}})? (\S+)$", re.MULTILINE)
    while True:
        try:
            text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
        except httpx.TransportError:
            text = ""  # it starts
        if (found := pattern.search(text)) and float(found[1]) == value:
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"the monitor does not show {name} {value:g}")
        await asyncio.sleep(0.02)
