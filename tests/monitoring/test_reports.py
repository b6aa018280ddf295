"""Pages for people: they show the window, name nobody, and are made where they can hold nobody up."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from monitoring.background import Background
from monitoring.findings import judged
from monitoring.metrics import build_metrics
from monitoring.reports import (
    COMPONENTS,
    PROJECT,
    _panels,
    frames,
    labelled,
    principal_axes,
    prune,
    write_report,
)
from monitoring.verdict import JudgedWindow, judged_window
from monitoring.web import Pulse, build_app
from monitoring.window import Window, tumble
from monitoring.workspace_ui import workspace_ui
from service.contract.artifact import Artifact
from service.contract.errors import ConfigError, StoreUnavailable
from service.contract.records import ReviewRecord
from service.contract.statistics import STATISTICS
from service.contract.store import StoredPrediction
from tests.support.monitoring import LABELS, START, stream, watched_artifact
from tests.support.records import prediction, review


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


def reviews(count: int = 120, labels: Sequence[str] = LABELS) -> list[tuple[StoredPrediction, ReviewRecord]]:
    """Random reviews, one in six of which says another label than the answer."""
    pairs = []
    for number in range(count):
        answer = labels[number % len(labels)]
        record = prediction(number, label=answer)
        truth = labels[(number + (number % 6 == 0)) % len(labels)]
        pairs.append((StoredPrediction(number + 1, record, False), review(record, truth, sampled=True)))
    return pairs


def test_reviews_are_the_latest_random_ones() -> None:
    pairs = reviews()
    item, verdict = pairs[0]
    odd = [
        (replace(item, disputed=True), verdict),
        (replace(item, record=replace(item.record, test=True)), verdict),
        (item, replace(verdict, sampled=False)),
    ]
    table = labelled([*odd, *pairs])
    assert len(table) == 120
    assert (table["label"] != table["answer"]).mean() == pytest.approx(1 / 6)
    assert list(labelled([]).columns) == ["label", "answer"]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pages and the workspace of four windows, of which two may stay."""
    folder = tmp_path_factory.mktemp("watched")
    artifact = watched_artifact(folder / "models")
    for number in range(4):
        window = replace(a_window(artifact.version, shift=0.5 * number), closed=START + number * 86400.0)
        write_report(
            folder / "windows" / f"{number}.html",
            window,
            artifact,
            artifact.reference(),
            cells=60,
            seed=0,
            reviewed=reviews() if number else reviews(labels=LABELS[:2]),
            workspace=folder / "workspace",
            kept=2,
        )
    return folder


def test_a_workspace_has_one_project_and_the_newest_windows(watched: Path) -> None:
    from evidently.ui.workspace import Workspace

    workspace = Workspace.create(str(watched / "workspace"))
    (project,) = workspace.list_projects()
    assert project.name == PROJECT
    runs = [workspace.get_run(project.id, run) for run in workspace.list_runs(project.id)]
    closed = {run.timestamp.timestamp() for run in runs}
    assert closed == {START + 2 * 86400.0, START + 3 * 86400.0}
    assert len(runs) == 6  # cells, embedding and reviews of two windows
    values = {value["metric_name"]: value["value"] for run in runs for value in metric_values(run)}
    (embedding,) = [value for name, value in values.items() if name.startswith("Drift in embeddings")]
    assert embedding > 0.7  # the ROC AUC of a classifier with a chance in it
    (accuracy,) = [value for name, value in values.items() if name.startswith("Accuracy")]
    assert accuracy == pytest.approx(5 / 6)
    assert any(name.startswith("Unique Value Count: answer") for name in values)
    assert len(project.dashboard.model().panels) == 4


def metric_values(run: Any) -> list[dict[str, Any]]:
    return [
        {"metric_name": result.display_name, "value": getattr(result, "value", None)}
        for result in run.metric_results.values()
    ]


def test_panels_follow_the_labels_and_come_back(watched: Path) -> None:
    from evidently.ui.workspace import Workspace

    workspace = Workspace.create(str(watched / "workspace"))
    (project,) = workspace.list_projects()
    project.dashboard.clear_dashboard()
    _panels(project, LABELS)
    _panels(project, LABELS)
    assert len(project.dashboard.model().panels) == 4
    _panels(project, ("healthy", "blast"))
    (answers,) = [panel for panel in project.dashboard.model().panels if panel.title == "Answers"]
    assert [value.legend for value in answers.values] == ["healthy", "blast"]


def test_a_broken_workspace_keeps_the_page(tmp_path: Path, artifact: Artifact) -> None:
    (tmp_path / "workspace").write_text("not a folder")
    page = tmp_path / "windows" / "w.html"
    with pytest.raises(OSError, match="workspace"):
        write_report(
            page,
            a_window(artifact.version),
            artifact,
            artifact.reference(),
            cells=60,
            seed=0,
            workspace=tmp_path / "workspace",
        )
    assert page.is_file()


def test_that_the_ui_died_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with workspace_ui(tmp_path / "workspace", free_port()) as child:
        assert child is not None
        child.kill()
        deadline = time.monotonic() + 30
        while "has ended with code -9" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_the_reviews_have_a_page_where_there_are_enough_labels(watched: Path) -> None:
    pages = {path.name for path in (watched / "windows").iterdir()}
    assert pages == {"0.html", *(f"{n}{end}" for n in range(1, 4) for end in (".html", "-reviews.html"))}
    assert "Recall" in (watched / "windows" / "1-reviews.html").read_text()
    assert prune(watched / "windows", 1) == 3
    assert {path.name for path in (watched / "windows").iterdir()} == {"3.html", "3-reviews.html"}


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def test_the_ui_shows_the_project_and_takes_no_writes(watched: Path) -> None:
    port = free_port()
    with workspace_ui(watched / "workspace", port) as child:
        assert child is not None
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while True:
            try:
                found = httpx.get(f"{address}/api/projects", timeout=5).json()
                break
            except httpx.TransportError:
                assert child.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.3)
        assert [project["name"] for project in found] == [PROJECT]
        refused = httpx.post(f"{address}/api/projects", json={"name": "mine"}, timeout=5)
        assert refused.status_code in (401, 403)
        with pytest.raises(ConfigError, match="set BLASTWATCH_MONITOR_UI_PORT"), workspace_ui(watched, port):
            pass
    assert child.poll() is not None


def test_the_ui_ends_with_a_monitor_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from monitoring.workspace_ui import workspace_ui\n"
        "with workspace_ui(Path(sys.argv[1]), int(sys.argv[2])) as child:\n"
        "    print(child.pid, flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(free_port())], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()  # at once: it may not have told the kernel yet, and then looks for its parent itself
    parent.wait()
    deadline = time.monotonic() + 60
    while running(child):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def running(pid: int) -> bool:
    """Whether there is such a process that is not only waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_without_a_port_there_is_no_ui(tmp_path: Path) -> None:
    with workspace_ui(tmp_path / "workspace", 0) as child:
        assert child is None
    assert not (tmp_path / "workspace").exists()


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
