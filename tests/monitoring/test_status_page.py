"""The page at the monitor's root says what is on record, also when that is bad, old, hostile or out of reach."""

import asyncio
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from monitoring.findings import Finding
from monitoring.pictures import sparkline
from monitoring.settings import Settings, load_settings
from monitoring.status import Pace, read_status
from monitoring.status_page import HEADERS, page, status_route
from tests.support.status import DAY_S, VERSION, tell

NOW = time.time()
WELL = Pace(alive=True, age_s=1.0, store_up=True, cells=87, patients=5)
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(store_url=f"sqlite:///{tmp_path}/store.db", root=tmp_path)


def shown(settings: Settings, pace: Pace = WELL, later_s: float = 0.0) -> str:
    return page(read_status(settings, NOW + later_s), pace)


class Reader(HTMLParser):
    """Tags that were opened, attributes, and whether every one was closed in turn."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.pictures: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "svg" and dict(attrs).get("aria-hidden") != "true":
            self.pictures.append(dict(attrs).get("aria-label") or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_nothing_on_record_is_said_to_be_nothing(settings: Settings) -> None:
    text = shown(settings)
    assert "No model is in production: nothing to watch yet" in text
    assert "No decision yet." in text
    assert "No retraining yet." in text


def test_a_quiet_month(settings: Settings) -> None:
    tell(settings.store_url, NOW)
    text = shown(settings)
    assert "too few cells or patients to say" not in text
    assert VERSION[:12] in text
    assert "87 of 200 cells" in text
    assert "5 of 10 patients" in text
    assert 'class="notice' not in text


def test_drift_is_said_with_its_numbers(settings: Settings) -> None:
    tell(settings.store_url, NOW, drifting=5)
    status = read_status(settings, NOW)
    assert status.last is not None
    finding = next(item for item in status.last.findings if item.name == "embedding")
    text = page(status, WELL)
    assert "10 findings out in the last window" in text
    assert finding.interval is not None
    numbers = f"Figure {finding.figure:.3g}, interval {finding.interval[0]:.3g} to {finding.interval[1]:.3g}, "
    assert f"{numbers}threshold 1; 200 cells of 12 patients." in text
    assert "alarms: covariate" in text
    assert "covariate is out, or was and has not cleared" in text


def test_the_breaker_is_said_with_the_way_out(settings: Settings) -> None:
    tell(settings.store_url, NOW, drifting=5, refusals=2)
    text = shown(settings)
    assert "The breaker is open." in text
    assert "python -m monitoring.trigger resume" in text
    assert text.count('<span class="run refused">refused</span>') == 2


def test_old_figures_are_called_old(settings: Settings) -> None:
    tell(settings.store_url, NOW)
    late = shown(settings, later_s=10 * DAY_S)
    assert "What is shown here is old" in late
    assert "The last window closed 10 days ago" in late
    stopped = shown(settings, Pace(alive=False, age_s=4000.0, store_up=False))
    assert "What is shown here is old" in stopped
    assert "has not come round for 67 min" in stopped
    assert "last look at the store failed" in stopped


def test_hostile_names_stay_text(settings: Settings) -> None:
    tell(settings.store_url, NOW, drifting=1, why=HOSTILE, site=HOSTILE)
    text = shown(settings)
    reader = Reader(text)
    assert not reader.open
    assert not {"script", "img"} & set(reader.tags)
    assert not {name for name in reader.attributes if name.startswith("on") or name == "style"}
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text
    assert "<h2>Slices</h2>" in text
    assert "<h2>Planned changes</h2>" in text
    assert "slice embedding, site=&lt;script&gt;" in text
    assert "alarms: slice (site=&lt;script&gt;" in text
    assert "10 findings out in the last window" in text  # what was planned is not one of them


def test_every_picture_says_what_it_shows(settings: Settings) -> None:
    tell(settings.store_url, NOW, drifting=3)
    pictures = Reader(shown(settings)).pictures
    assert len(pictures) > 17
    assert all(pictures)


def test_a_line_of_one_window_without_a_figure_is_drawn() -> None:
    finding = Finding("label_shift", "label_shift", "unknown", None, None, None, 200, 12)
    text = sparkline([finding], "label shift")
    assert not Reader(text).open
    assert 'class="unknown"' in text
    assert "nan" not in text


def test_a_store_that_is_away_is_said_without_old_figures(tmp_path: Path) -> None:
    away = load_settings(store_url=f"sqlite:///{tmp_path}/none/store.db", root=tmp_path)
    (tmp_path / "none").write_text("not a folder")
    answer = ask(Starlette(routes=[status_route(lambda: read_status(away, NOW), lambda: WELL)]))
    assert answer.status_code == 503
    assert "Store or ledger cannot be read" in answer.text
    assert "spark" not in answer.text.partition("</style>")[2]


def test_a_browser_may_run_and_load_nothing_else(settings: Settings) -> None:
    answer = ask(Starlette(routes=[status_route(lambda: read_status(settings, NOW), lambda: WELL)]))
    policy = answer.headers["Content-Security-Policy"]
    assert policy == HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in re.sub(r'href="/[^"]*"', "", answer.text)


def ask(app: Starlette) -> httpx.Response:
    async def get() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://monitor") as client:
            return await client.get("/")

    return asyncio.run(get())


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    tell(settings.store_url, NOW, drifting=5, why=HOSTILE, site=HOSTILE)
    app = Starlette(routes=[status_route(lambda: read_status(settings, NOW), lambda: WELL)])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.mark.servers
@pytest.mark.skipif(shutil.which("chromium") is None, reason="CHROMIUM IS MISSING: apt-get install chromium")
def test_a_real_browser_shows_it_without_complaints(address: str, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    line = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/browser"]
    line += ["--enable-logging=stderr", "--window-size=1440,2200", f"--screenshot={picture}", "--dump-dom", address]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240, check=True)
    assert "10 findings out in the last window" in done.stdout
    assert "CONSOLE" not in done.stderr  # a style sheet that the policy refused would be named here
    assert picture.stat().st_size > 50_000
