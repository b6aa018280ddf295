"""How a shadow's answers compare with those that were sent: python -m service.shadow report."""

import argparse
import json
import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from service.agreement import LEVEL, MIN_PATIENTS, Agreement, Figure, agreement
from service.contract.artifact import read_artifact
from service.contract.errors import CommandParser, NotFound, run_command
from service.contract.ledger import Ledger
from service.contract.shadows import Pair, Shadows
from service.contract.shared_models import model_store
from service.settings import Settings, load_settings

CORNER = "sent, shadow:"


def main(argv: list[str] | None = None) -> int:
    """Runs the command. Raises BlastwatchError with a line that says what to do."""
    arguments = _parser().parse_args(argv)
    settings = load_settings()
    version = arguments.version or _last_shadow(settings)
    found = _pairs(settings, version, arguments.days)
    # After a promotion the shadow is held against another model: only the last one is compared with.
    live = found[-1].live.model_version
    pairs = [pair for pair in found if pair.live.model_version == live]
    compared = agreement(pairs, _malignant(settings, live))
    print(_as_json(version, live, compared, pairs) if arguments.json else _as_text(version, live, compared, pairs))
    if left := len(found) - len(pairs):
        others = Counter(pair.live.model_version for pair in found if pair.live.model_version != live)
        if not arguments.json:
            print(f"\nleft out: {left} cells answered by {', '.join(others)} before")
    return 0


def _last_shadow(settings: Settings) -> str:
    ledger = Ledger(settings.store_url, create=False)
    try:
        rows = ledger.rows("shadow_started")
    finally:
        ledger.close()
    if not rows:
        raise NotFound("there has been no shadow: `python -m service.control shadow VERSION` begins one")
    return rows[-1].version


def _pairs(settings: Settings, version: str, days: float | None) -> list[Pair]:
    since = "" if days is None else (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="microseconds")
    shadows = Shadows(settings.store_url)
    try:
        found = shadows.pairs(version, since=since)
    finally:
        shadows.close()
    if not found:
        raise NotFound(f"shadow {version} has seen no cell that is on record{' in that time' if days else ''} yet")
    return found


def _malignant(settings: Settings, version: str) -> tuple[str, ...]:
    folder = model_store(settings.models, settings.models_url).path(version)
    return tuple(read_artifact(folder, expect_version=version).manifest.malignant)


def _latencies(pairs: Sequence[Pair]) -> dict[str, list[float]]:
    """{whose: [median, 99th percentile]} in milliseconds."""
    live = [pair.live.latency_ms["compute"] for pair in pairs]
    shadow = [pair.shadow.compute_ms for pair in pairs]
    return {name: np.percentile(values, (50, 99)).tolist() for name, values in (("live", live), ("shadow", shadow))}


def _figures(found: Agreement) -> dict[str, Figure]:
    return {
        "same label": found.label,
        "Cohen's kappa": found.kappa,
        "malignant or not": found.malignant,
        "referred or not": found.refer,
        "|difference| of p(malignant)": found.difference,
    }


def _as_text(version: str, live: str, found: Agreement, pairs: Sequence[Pair]) -> str:
    first, last = (datetime.fromisoformat(pairs[place].shadow.time) for place in (0, -1))
    lines = [
        f"shadow {version} beside {live}: {found.cells} cells of {found.patients} patients",
        f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC",
    ]
    if anonymous := sum(not pair.live.patient for pair in pairs):
        lines.append(f"{anonymous} cells came without a patient: each counts as a patient of its own")
    lines.append("")
    for name, figure in _figures(found).items():
        lines.append(f"{name:29} {_number(figure.value)}  {_interval(figure, found.patients)}".rstrip())
    width = max(len(label) for label in (*found.labels, CORNER))
    cells = max(len(str(found.confusion.max())), *(len(label) for label in found.labels))
    lines += ["", f"{CORNER:{width}}  " + "  ".join(f"{label:>{cells}}" for label in found.labels)]
    for label, row in zip(found.labels, found.confusion.tolist(), strict=True):
        lines.append(f"{label:{width}}  " + "  ".join(f"{count:>{cells}}" for count in row))
    lines.append("")
    for name, (median, worst) in _latencies(pairs).items():
        how = "in batches" if name == "live" else "one by one, in a thread that yields to the others"
        lines.append(f"compute, {name:7} median {median:8.2f} ms, 99th percentile {worst:8.2f} ms ({how})")
    lines.append("cells that the shadow could not keep up with: blastwatch_shadow_dropped_total")
    return "\n".join(lines)


def _as_json(version: str, live: str, found: Agreement, pairs: Sequence[Pair]) -> str:
    return json.dumps(
        {
            "shadow": version,
            "live": live,
            "cells": found.cells,
            "patients": found.patients,
            "level": LEVEL,
            "figures": {
                name: {"value": None if math.isnan(figure.value) else figure.value, "interval": figure.interval}
                for name, figure in _figures(found).items()
            },
            "labels": found.labels,
            "confusion": found.confusion.tolist(),
            "compute_ms": {name: {"p50": p50, "p99": p99} for name, (p50, p99) in _latencies(pairs).items()},
        }
    )


def _number(value: float) -> str:
    return "not defined: both have one label only" if math.isnan(value) else f"{value:.3f}"


def _interval(figure: Figure, patients: int) -> str:
    if figure.interval is not None:
        return f"({figure.interval[0]:.3f} to {figure.interval[1]:.3f})"
    return f"(fewer than {MIN_PATIENTS} patients: no interval)" if patients < MIN_PATIENTS else ""


def _days(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is no number of days")
    return value


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m service.shadow",
        description="A shadow sees a share of the cells and answers nobody (`python -m service.control shadow`).",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    report = commands.add_parser("report", help="agreement with the answers that were sent")
    report.add_argument("--version", metavar="VERSION", help="of the shadow (default: the last one)")
    report.add_argument("--days", metavar="DAYS", type=_days, help="only the last so many (default: all)")
    report.add_argument("--json", action="store_true", help="for machines")
    return parser


if __name__ == "__main__":
    run_command(main)
