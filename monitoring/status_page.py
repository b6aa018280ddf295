"""The page at the monitor's root: what was found, what was decided, what is in production, in pictures and plain words.

One file without scripts and without anything from elsewhere. Every text that comes from data is escaped, and the
policy of the page lets a browser load and run nothing but the page's own style sheet.
"""

import base64
import hashlib
import html
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from monitoring.findings import Finding
from monitoring.pictures import Mark, badge, in_words, number, progress, sparkline, time_line
from monitoring.status import Pace, Status
from service.contract.errors import BlastwatchError

STYLE = files("monitoring").joinpath("status.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
FAMILIES = {
    "label_shift": ("Case mix", "shares of the cell types, against the reference"),
    "covariate": ("Look of the cells", "in standard deviations between patients, against the reference"),
    "imbalance": ("Class balance", "are all cell types still seen often enough?"),
    "performance": ("Accuracy", "from reviews, if readers agree; estimated from its own confidence where it says so"),
    "slice": ("Slices", "the largest sites, stains, scanners and clients of the window, each against the reference"),
    "planned": ("Planned changes", "what the calendar announced, in its own context: drift is expected here"),
    "quality": ("Service", "shares of cells referred, not known, without a patient; blurred, badly lit or faded"),
}
LISTED = 6


def status_route(read: Callable[[], Status], pace: Callable[[], Pace]) -> Route:
    """`/`; `read` may raise StoreUnavailable or LedgerError: then the page says so, with status 503."""

    def root(request: Request) -> Response:
        try:
            return HTMLResponse(page(read(), pace()), headers=HEADERS)
        except BlastwatchError as error:
            return HTMLResponse(away(str(error), pace()), status_code=503, headers=HEADERS)

    return Route("/", root)


def page(status: Status, pace: Pace) -> str:
    """The whole page."""
    parts = [_head(*_verdict(status, pace), status.now), *_notices(status, pace), _tiles(status, pace)]
    parts += [_history(status), _findings(status), _decisions(status), _retrainings(status)]
    return _document("\n".join(parts))


def away(why: str, pace: Pace) -> str:
    """The page while store or ledger cannot be read: it shows nothing that might be old."""
    text = f"{why}. What was judged before is kept; this page shows it again once it can be read."
    notices = [_notice("drift", "Store or ledger cannot be read", text), *_slow(pace)]
    return _document(_head("unknown", "Nothing can be said just now", None) + "".join(notices))


def _verdict(status: Status, pace: Pace) -> tuple[str, str]:
    """(state, sentence) for the top of the page."""
    if not pace.alive or status.overdue:
        return "unknown", "What is shown here is old"
    if status.production is None:
        return "insufficient", "No model is in production: nothing to watch yet"
    if status.last is None:
        return "insufficient", "No window of this model has closed yet"
    out = sum(finding.out and finding.family != "planned" for finding in status.last.findings)
    words = {
        "ok": "Nothing is out in the last window",
        "drift": f"{out} finding{'s' if out != 1 else ''} out in the last window",
        "insufficient": "The last window had too few cells or patients to say",
        "unknown": "The last window could not be judged in everything",
    }
    return status.last.state, words[status.last.state]


def _notices(status: Status, pace: Pace) -> list[str]:
    notes = _slow(pace)
    if not pace.store_up:
        title = "The monitor's last look at the store failed, or none has ended yet"
        notes.append(_notice("drift", title, "It tries again; its log says why."))
    if status.overdue and status.last is not None:
        text = f"The last window closed {_ago(status.now - status.last.closed)} ago: no cells come, or none are judged."
        notes.append(_notice("unknown", "Old figures", text))
    if status.breaker_open:
        text = (
            "Refused candidates in a row keep retraining off until a person resumes it: "
            "look at the gate's reasons, then run python -m monitoring.trigger resume."
        )
        notes.append(_notice("drift", "The breaker is open", text))
    if status.frozen:
        text = "A person froze the trigger: nothing retrains until python -m monitoring.trigger resume."
        notes.append(_notice("unknown", "Retraining is frozen", text))
    return notes


def _slow(pace: Pace) -> list[str]:
    if pace.alive:
        return []
    text = f"The monitor's loop has not come round for {_ago(pace.age_s)}: nothing new is judged. See its log."
    return [_notice("drift", "The monitor stands still", text)]


def _tiles(status: Status, pace: Pace) -> str:
    model = f'<p class="big">{_escape((status.production or "none")[:12])}</p>'
    model += f"<p>in production since {_when(status.since)}</p>" if status.since else "<p>none is in production</p>"
    trigger = "breaker open" if status.breaker_open else "frozen" if status.frozen else "free"
    trigger = "a retraining runs" if status.running else trigger
    due = f"due: {_words(status.pending)}" if status.pending else "nothing is due"
    alarms = f"alarms: {_words(status.alarms)}" if status.alarms else "no alarm"
    alarms += f" ({', '.join(status.slices)})" if status.slices else ""
    last = status.decisions[-1] if status.decisions else None
    decided = f'<p class="big">{_escape(last.kind)}</p><p>{_when(last.time)}: {_escape(last.why)}</p>' if last else ""
    return (
        '<section class="tiles" aria-label="Now">'
        f"<div><h2>Model</h2>{model}</div>"
        f"<div><h2>Open window</h2>{_filling(pace.cells, status.min_cells, 'cells')}"
        f"{_filling(pace.patients, status.min_patients, 'patients')}</div>"
        f'<div><h2>Retraining</h2><p class="big">{trigger}</p><p>{_escape(due)}; {_escape(alarms)}</p></div>'
        f"<div><h2>Last decision</h2>{decided or '<p>none yet</p>'}</div></section>"
    )


def _filling(have: int, wanted: int, what: str) -> str:
    label = f"{have} of {wanted} {what}"
    return f"<p>{label}</p>{progress(have / wanted, label)}"


def _history(status: Status) -> str:
    """Windows, decisions and retrainings along one time line."""
    if not status.windows:
        return ""
    start, end = status.windows[0].closed, status.now
    judged = [Mark(item.closed, item.state, f"{_plain(item.closed)}: window {item.state}") for item in status.windows]
    decided = [
        Mark(item.time, item.kind, f"{_plain(item.time)}: {item.kind}, {item.why}")
        for item in status.decisions
        if item.kind != "none" and item.time >= start
    ]
    runs = [
        Mark(item.started, item.outcome, f"{_plain(item.started)}: retraining {item.outcome}", item.ended or status.now)
        for item in status.retrainings
        if (item.ended or status.now) >= start
    ]
    rows = []
    for title, marks in (("Windows", judged), ("Decisions (low bars: watch)", decided), ("Retrainings", runs)):
        label = f"{title}: " + ("; ".join(mark.text for mark in marks[-LISTED:]) or "none")
        rows.append(f"<h3>{title} <small>{len(marks)}</small></h3>{time_line(marks, start, end, label)}")
    ends = f'<p class="ends"><span>{_when(start)}</span><span>{_when(end)}</span></p>'
    return f"<section><h2>What happened</h2>{_key()}{''.join(rows)}{ends}</section>"


def _key() -> str:
    states = "".join(f"<li>{badge(state)} {state}</li>" for state in ("ok", "drift", "insufficient", "unknown"))
    return f'<ul class="key">{states}</ul>'


def _findings(status: Status) -> str:
    last = status.last
    if last is None:
        return ""
    parts = []
    for family in dict.fromkeys(finding.family for finding in last.findings):
        title, what = FAMILIES.get(family, (str(family).replace("_", " "), ""))
        cards = [_card(item, status) for item in last.findings if item.family == family]
        heading = f"<h2>{_escape(title)}</h2><p>{_escape(what)}</p>"
        parts.append(f'<section>{heading}<div class="cards">{"".join(cards)}</div></section>')
    return "".join(parts)


def _card(finding: Finding, status: Status) -> str:
    same = (finding.family, finding.title)
    past = [item for window in status.judged for item in window.findings if (item.family, item.title) == same]
    name = finding.title
    label = f"{name} over {len(past)} windows, now {finding.state}. {in_words(finding)}"
    detail = "".join(
        f"<dt>{_escape(key.replace('_', ' '))}</dt><dd>{_shown(value)}</dd>" for key, value in _rest(finding)
    )
    more = f"<details><summary>Details of {_escape(name)}</summary><dl>{detail}</dl></details>" if detail else ""
    return (
        f'<article class="card is-{finding.state}"><h3>{_escape(name)}'
        f'<span class="state">{badge(finding.state)} {finding.state}</span></h3>'
        f"{sparkline(past, label)}<p>{_escape(in_words(finding))}</p>{more}</article>"
    )


def _rest(finding: Finding) -> list[tuple[str, object]]:
    severity = [] if finding.severity is None else [("way to drift", f"{round(100 * finding.severity)} %")]
    return [*severity, *finding.detail.items()]


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{_escape(str(key))} {_shown(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_shown(one) for one in value)
    return number(value) if isinstance(value, float) else _escape(str(value))


def _decisions(status: Status) -> str:
    lines = [
        f"<li><strong>{_escape(item.kind)}</strong> {_when(item.time)}<br>{_escape(item.why)}</li>"
        for item in reversed(status.decisions[-LISTED:])
    ]
    return f"<section><h2>Last decisions</h2>{_list(lines, 'No decision yet.')}</section>"


def _retrainings(status: Status) -> str:
    lines = [
        f'<li><span class="run {item.outcome}">{item.outcome}</span> {_when(item.started)}'
        f"{f', {_ago(item.ended - item.started)}' if item.ended else ', still running'}<br>run {_escape(item.run)}</li>"
        for item in reversed(status.retrainings)
    ]
    return f"<section><h2>Retrainings</h2>{_list(lines, 'No retraining yet.')}</section>"


def _list(lines: Sequence[str], otherwise: str) -> str:
    return f'<ol class="log">{"".join(lines)}</ol>' if lines else f"<p>{otherwise}</p>"


def _head(state: str, sentence: str, now: float | None) -> str:
    at = f"<p>As of {_when(now)}; load the page again for newer figures.</p>" if now else ""
    links = '<nav><a href="/reports/">Windows and reports</a> <a href="/metrics">Metrics</a></nav>'
    return f'<header class="is-{state}"><h1>{badge(state)} {_escape(sentence)}</h1>{at}{links}</header>'


def _notice(state: str, title: str, text: str) -> str:
    return f'<p class="notice is-{state}" role="status">{badge(state)} <strong>{title}.</strong> {_escape(text)}</p>'


def _document(body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>blastwatch: status</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head>\n<body><main>{body}</main></body></html>\n"
    )


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def _words(causes: Sequence[str]) -> str:
    return " and ".join(cause.replace("_", " ") for cause in causes)


def _plain(time: float) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M} UTC"


def _when(time: float) -> str:
    return f'<time datetime="{datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")}">{_plain(time)}</time>'


def _ago(seconds: float) -> str:
    """A span in the largest unit that fits.

    >>> _ago(30), _ago(7200), _ago(3 * 86400)
    ('30 s', '2 h', '3 days')
    """
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
