"""Pages for people: they show the window, name nobody, and are made where they can hold nobody up."""

import asyncio
import os
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from monitoring.background import Background
from monitoring.findings import judged
from monitoring.metrics import build_metrics
from monitoring.reports import COMPONENTS, frames, principal_axes, prune, write_report
from monitoring.verdict import JudgedWindow, judged_window
from monitoring.web import Pulse, build_app
from monitoring.window import Window, tumble
from service.contract.artifact import Artifact
from service.contract.errors import StoreUnavailable
from service.contract.statistics import STATISTICS
from service.contract.store import StoredPrediction
from tests.support.monitoring import stream, watched_artifact


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return watched_artifact(tmp_path / "models")


def a_window(version: str, shift: float = 0.0, patients: int = 10) -> Window:
    records = stream(version, seed=3, patients=patients, shift=shift)
    stored = [StoredPrediction(number + 1, record, False) for number, record in enumerate(records)]
    (window,), _ = tumble(stored, min_cells=len(records), min_patients=patients, max_age_s=1e9, now=0.0)
    return window


def test_a_report_is_a_page_that_shows_the_shift_and_names_nobody(artifact: Artifact, tmp_path: Path) -> None:
    window, page = a_window(artifact.version, shift=2.0), tmp_path / "windows" / "w.html"
    write_report(page, window, artifact, artifact.reference(), cells=60, seed=0)
    text = page.read_text()
    assert text.lstrip().lower().startswith("<!doctype html>")
    for name in (*STATISTICS, "embedding 1", f"embedding {COMPONENTS}", "confidence", "answer"):
        assert name in text
    assert isinstance(window.cells, tuple)
    assert not any(cell.record.patient in text or cell.record.record_id in text for cell in window.cells)
    assert [path.name for path in page.parent.iterdir()] == ["w.html"]


def test_a_report_that_fails_leaves_nothing_behind(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError("planted")

    monkeypatch.setattr("monitoring.reports._html", broken)
    page = tmp_path / "windows" / "w.html"
    with pytest.raises(RuntimeError):
        write_report(page, a_window(artifact.version), artifact, artifact.reference(), cells=60, seed=0)
    assert not page.exists()


def test_the_tables_have_numbers_of_cells_and_no_names(artifact: Artifact) -> None:
    window = a_window(artifact.version, shift=2.0)
    current, past = frames(window, artifact, artifact.reference())
    assert list(current.columns) == list(past.columns)
    assert not {"patient", "record_id", "site"} & set(current.columns)
    assert len(current) == len(window.cells)
    assert len(past) == len(artifact.reference().label)
    assert current["brightness"].mean() - past["brightness"].mean() == pytest.approx(0.1, abs=0.05)
    assert past[[f"embedding {number + 1}" for number in range(COMPONENTS)]].mean().abs().max() < 1e-6


def test_axes_are_the_directions_of_the_most_variance() -> None:
    rng = np.random.default_rng(0)
    cloud = rng.normal(0, 1, (500, 3)) * [5.0, 1.0, 0.1] + [10.0, 0.0, 0.0]
    axes, centre = principal_axes(cloud, 2)
    assert axes.shape == (3, 2)
    assert abs(axes[0, 0]) > 0.99
    assert abs(axes[1, 1]) > 0.99
    assert np.allclose((cloud @ axes - centre).mean(axis=0), 0.0, atol=1e-9)


def test_old_pages_go(tmp_path: Path) -> None:

    for number in range(5):
        page = tmp_path / f"{number}.html"
        page.write_text("")
        os.utime(page, (number, number))
    assert prune(tmp_path, 2) == 3
    assert sorted(page.name for page in tmp_path.iterdir()) == ["3.html", "4.html"]


class TestBackground:
    def test_a_job_that_fails_is_counted_and_the_next_one_runs(self) -> None:
        failures: list[int] = []
        done: list[str] = []
        background = Background(10, lambda: failures.append(1))
        background.submit("bad", lambda: 1 // 0)  # type: ignore[arg-type]
        background.submit("good", lambda: done.append("good"))
        assert background.idle(20)
        background.close(20)
        assert (failures, done) == ([1], ["good"])

    def test_when_too_many_wait_the_oldest_goes(self) -> None:
        go, started = threading.Event(), threading.Event()
        failures: list[int] = []
        done: list[int] = []

        def first() -> None:
            started.set()
            go.wait(20)

        background = Background(2, lambda: failures.append(1))
        background.submit("first", first)
        assert started.wait(20)
        for number in range(4):
            background.submit(str(number), lambda number=number: done.append(number))  # type: ignore[misc]
        go.set()
        assert background.idle(20)
        background.close(20)
        assert (len(failures), done) == (2, [2, 3])

    def test_nothing_runs_after_closing(self) -> None:
        done: list[int] = []
        background = Background(2, lambda: None)
        background.close(20)
        background.submit("late", lambda: done.append(1))
        assert background.idle(1)
        assert done == []


class Browser:
    """Gets pages of an app without a network."""

    def __init__(self, app: Starlette) -> None:
        self._app = app

    def get(self, path: str) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://monitor", follow_redirects=True
            ) as client:
                return await client.get(path)

        return asyncio.run(ask())


class TestWeb:
    @pytest.fixture
    def now(self) -> list[float]:
        return [0.0]

    def client(self, tmp_path: Path, now: list[float], windows: list[JudgedWindow] | None) -> "Browser":
        metrics = build_metrics(CollectorRegistry())
        metrics.last_seen_seq.set(42)

        def listed() -> list[JudgedWindow]:
            if windows is None:
                raise StoreUnavailable("planted")
            return windows

        return Browser(build_app(metrics.registry, Pulse(10.0, lambda: now[0]), tmp_path / "windows", listed))

    def test_metrics(self, tmp_path: Path, now: list[float]) -> None:
        answer = self.client(tmp_path, now, []).get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain")
        assert "blastwatch_monitor_last_seen_seq 42.0" in answer.text

    def test_health_is_that_of_the_loop(self, tmp_path: Path, now: list[float]) -> None:
        client = self.client(tmp_path, now, [])
        assert client.get("/healthz").status_code == 200
        now[0] = 11.0
        answer = client.get("/healthz")
        assert (answer.status_code, answer.json()["alive"]) == (503, False)

    def test_the_list_of_windows_links_the_pages_that_are_there(self, tmp_path: Path, now: list[float]) -> None:
        window = a_window("a" * 32)
        finding = judged(
            "embedding_spread",
            "covariate",
            severity=2.0,
            figure=2.0,
            interval=None,
            threshold=1.0,
            cells=100,
            patients=10,
        )
        verdict = judged_window(window, [finding])
        client = self.client(tmp_path, now, [verdict])
        text = client.get("/reports/").text
        assert "embedding spread" in text
        assert 'class="drift"' in text
        assert f"/reports/{verdict.window_id}.html" not in text
        (tmp_path / "windows" / f"{verdict.window_id}.html").write_text("<!doctype html>page")
        assert f"/reports/{verdict.window_id}.html" in client.get("/reports/").text
        assert client.get(f"/reports/{verdict.window_id}.html").text == "<!doctype html>page"

    def test_nothing_outside_the_folder_is_served(self, tmp_path: Path, now: list[float]) -> None:
        (tmp_path / "secret.html").write_text("secret")
        client = self.client(tmp_path, now, [])
        for path in ("/reports/../secret.html", "/reports/%2e%2e/secret.html", "/reports/none.html"):
            assert client.get(path).status_code == 404

    def test_a_store_that_is_away(self, tmp_path: Path, now: list[float]) -> None:
        answer = self.client(tmp_path, now, None).get("/reports/")
        assert answer.status_code == 503
        assert "cannot be reached" in answer.text
