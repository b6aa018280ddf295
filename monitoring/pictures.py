"""Small pictures as SVG text: no scripts, no style attributes (the page's policy refuses both), colours by class.

Every picture has its meaning as text for those who do not see it, and every state a shape of its own beside its colour.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from monitoring.findings import Finding

WIDTH, HEIGHT, MARGIN = 320.0, 96.0, 8.0
_STRIP = 12.0  # height of the row of states below a line


@dataclass(frozen=True)
class Mark:
    """Something on a time line at `time` (seconds since the epoch): a state's or decision's mark, or a bar to `end`."""

    time: float
    css: str
    text: str
    end: float | None = None


def number(value: float | None) -> str:
    """Three significant digits, or a dash.

    >>> number(0.12345), number(None), number(1234.0)
    ('0.123', '–', '1230')
    """
    return "–" if value is None else f"{float(f'{value:.3g}'):g}"


def badge(state: str) -> str:
    """A state's mark alone; the word stands beside it."""
    return f'<svg class="mark" viewBox="-6 -6 12 12" aria-hidden="true">{mark(state, 0, 0, 4.5)}</svg>'


def mark(state: str, x: float, y: float, size: float) -> str:
    """ok a disc, drift a triangle, insufficient an empty square, unknown a diamond; else a bar, low for watch."""
    if state == "watch":
        return f'<rect class="other" x="{x - 1.5:.1f}" y="{y - size / 2:.1f}" width="3" height="{size:.1f}"/>'
    shapes = {
        "ok": f'<circle class="ok" cx="{x:.1f}" cy="{y:.1f}" r="{size * 0.8:.1f}"/>',
        "drift": f'<path class="drift" d="M{x:.1f} {y - size:.1f}l{size:.1f} {1.8 * size:.1f}h{-2 * size:.1f}z"/>',
        "insufficient": f'<rect class="insufficient" x="{x - 0.7 * size:.1f}" y="{y - 0.7 * size:.1f}" '
        f'width="{1.4 * size:.1f}" height="{1.4 * size:.1f}"/>',
        "unknown": f'<path class="unknown" d="M{x:.1f} {y - size:.1f}l{size:.1f} {size:.1f}l{-size:.1f} {size:.1f}'
        f'l{-size:.1f} {-size:.1f}z"/>',
    }
    plain = f'<rect class="other" x="{x - 1.5:.1f}" y="{y - size:.1f}" width="3" height="{2 * size:.1f}"/>'
    return shapes.get(state, plain)


def sparkline(findings: Sequence[Finding], label: str) -> str:
    """One finding over windows, oldest first: line, intervals, threshold, and below them every window's state.

    The axis follows figures and thresholds; an interval that reaches beyond is cut off at the edge.
    """
    low, high = _range(findings)
    floor = HEIGHT - _STRIP - MARGIN
    step = (WIDTH - 2 * MARGIN) / max(len(findings) - 1, 1)

    def across(index: int) -> float:
        return WIDTH - MARGIN - (len(findings) - 1 - index) * step

    def up(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return floor - share * (floor - MARGIN)

    shapes = [f'<line class="base" x1="0" x2="{WIDTH:.0f}" y1="{floor + 2:.1f}" y2="{floor + 2:.1f}"/>']
    line: list[str] = []
    bounds: list[tuple[float, float]] = []
    points: list[str] = []
    for index, finding in enumerate(findings):
        x = across(index)
        if finding.interval is not None:
            ends = [up(value) for value in finding.interval]
            shapes.append(f'<line class="interval" x1="{x:.1f}" x2="{x:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}"/>')
        if finding.threshold is not None:
            bounds.append((x, up(finding.threshold)))
        if finding.figure is not None:
            y = up(finding.figure)
            line.append(f"{'L' if line else 'M'}{x:.1f} {y:.1f}")
            points.append(mark(finding.state, x, y, 5.0 if index == len(findings) - 1 else 2.5))
        points.append(f"<g>{mark(finding.state, x, HEIGHT - _STRIP / 2, 3.2)}<title>{_said(finding)}</title></g>")
    if bounds:  # as far as the edges, so that a single window has a line, too
        ends_at = [(0.0, bounds[0][1]), *bounds, (WIDTH, bounds[-1][1])]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in ends_at)
        shapes.append(f'<path class="threshold" d="M{path}"/>')
    if line:
        shapes.append(f'<path class="line" d="{"".join(line)}"/>')
    return _picture(f"0 0 {WIDTH:.0f} {HEIGHT:.0f}", label, [*shapes, *points], "spark")


def progress(share: float, label: str) -> str:
    """How much of a whole is there, 0…1."""
    full = 100.0 * min(max(share, 0.0), 1.0)
    shapes = ['<rect class="rest" width="100" height="6" rx="3"/>']
    shapes.append(f'<rect class="done" width="{full:.1f}" height="6" rx="3"/>')
    picture = _picture("0 0 100 6", label, shapes, "progress")
    return picture.replace("<svg ", '<svg preserveAspectRatio="none" ', 1)


def time_line(marks: Sequence[Mark], start: float, end: float, label: str) -> str:
    """Marks by their time between `start` and `end`; bars are at least as wide as a mark."""
    span = max(end - start, 1.0)

    def across(time: float) -> float:
        return MARGIN + (min(max(time, start), end) - start) / span * (1000.0 - 2 * MARGIN)

    shapes = ['<line class="base" x1="0" x2="1000" y1="14" y2="14"/>']
    for item in marks:
        x, title = across(item.time), f"<title>{html.escape(item.text)}</title>"
        if item.end is None:
            shapes.append(f"<g>{mark(item.css, x, 14, 8)}{title}</g>")
        else:
            width = max(across(item.end) - x, 12.0)
            css = html.escape(item.css)
            shapes.append(
                f'<rect class="{css}" x="{x:.1f}" y="6" width="{width:.1f}" height="16" rx="3">{title}</rect>'
            )
    return _picture("0 0 1000 28", label, shapes, "time")


def in_words(finding: Finding) -> str:
    """Figure, interval, bound and what they rest on, in a sentence."""
    words = [f"Figure {number(finding.figure)}" if finding.figure is not None else "No figure"]
    if finding.interval is not None:
        words.append(f"interval {number(finding.interval[0])} to {number(finding.interval[1])}")
    if finding.threshold is not None:
        words.append(f"threshold {number(finding.threshold)}")
    return f"{', '.join(words)}; {finding.cells} cells of {finding.patients} patients."


def _said(finding: Finding) -> str:
    return html.escape(f"{finding.state}. {in_words(finding)}")


def _range(findings: Sequence[Finding]) -> tuple[float, float]:
    values = [value for item in findings for value in (item.figure, item.threshold) if value is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.4 * (high - low) or max(abs(high), 1.0) * 0.2
    ends = [value for item in findings for value in item.interval or ()]
    return max(min([low, *ends]), low - room) - 0.05 * room, min(max([high, *ends]), high + room) + 0.05 * room


def _picture(box: str, label: str, shapes: Sequence[str], css: str) -> str:
    text = html.escape(label)
    return f'<svg class="{css}" viewBox="{box}" role="img" aria-label="{text}">{"".join(shapes)}</svg>'
