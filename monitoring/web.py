"""What the monitor shows over HTTP: metrics for Prometheus, its own health, and the pages of the windows."""

import html
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from monitoring.verdict import JudgedWindow
from service.contract.errors import StoreUnavailable

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>blastwatch monitor</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem}}
table{{border-collapse:collapse;width:100%}}td,th{{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd}}
.drift{{color:#b00020;font-weight:600}}.ok{{color:#1b6e2d}}</style>
<h1>Windows</h1>
<p>Newest first. The state is blastwatch's, from tests that resample patients; the linked Evidently pages show
distributions, and their own tests, which take cells for independent, decide nothing. <a href="/">Status</a>
<a href="/metrics">Metrics</a></p>
{note}<table><tr><th>closed<th>model<th>cells<th>patients<th>state<th>out<th>report</tr>
{rows}</table></html>"""


class Pulse:
    """When the loop last came round; its thread beats, the health check listens."""

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._last = clock()

    def beat(self) -> None:
        """The loop came round."""
        self._last = self._clock()

    @property
    def age_s(self) -> float:
        """Seconds since."""
        return self._clock() - self._last

    @property
    def alive(self) -> bool:
        """Whether that is recent enough."""
        return self.age_s <= self._limit_s


def build_app(
    registry: CollectorRegistry,
    pulse: Pulse,
    reports: Path,
    windows: Callable[[], Sequence[JudgedWindow]],
    more: Sequence[Route] = (),
) -> Starlette:
    """The app; `windows` gives the last judged windows, oldest first, and may raise StoreUnavailable."""

    def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def healthz(request: Request) -> Response:
        body = {"alive": pulse.alive, "seconds_since_last_look": round(pulse.age_s, 1)}
        return JSONResponse(body, status_code=200 if pulse.alive else 503)

    def index(request: Request) -> Response:
        try:
            return HTMLResponse(_index(windows(), reports))
        except StoreUnavailable:
            note = "<p>The store cannot be reached just now.</p>"
            return HTMLResponse(_PAGE.format(note=note, rows=""), status_code=503)

    reports.mkdir(parents=True, exist_ok=True)
    return Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/healthz", healthz),
            Route("/reports/", index),
            *more,
            Mount("/reports", StaticFiles(directory=reports)),
        ]
    )


def _index(windows: Sequence[JudgedWindow], reports: Path) -> str:
    rows = []
    for window in reversed(windows):
        page = f"{window.window_id}.html"
        link = f'<a href="/reports/{page}">Evidently</a>' if (reports / page).is_file() else "–"
        if (reports / f"{window.window_id}-reviews.html").is_file():
            link += f', <a href="/reports/{window.window_id}-reviews.html">reviews</a>'
        out = ", ".join(finding.title for finding in window.findings if finding.out)
        closed = f"{datetime.fromtimestamp(window.closed, UTC):%Y-%m-%d %H:%M:%S}"
        cells = [closed, window.model_version[:12], str(window.cells), str(window.patients)]
        text = "".join(f"<td>{html.escape(cell)}" for cell in cells)
        rows.append(f'<tr>{text}<td class="{window.state}">{window.state}<td>{html.escape(out)}<td>{link}</tr>')
    note = "" if rows else "<p>No window has closed yet.</p>"
    return _PAGE.format(note=note, rows="\n".join(rows))
