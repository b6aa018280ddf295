"""An explanation (monitoring/explain.py) as plain text for people."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

SIGNS: Final = {"out": "x", "between": "-", "clear": ".", "silent": " "}


def listing(decisions: Iterable[dict[str, Any]]) -> str:
    """One line a decision."""
    rows = [
        (str(item["number"]), item["time"][:16].replace("T", " "), item["by"], _kind(item), item["why"])
        for item in decisions
    ]
    return "\n".join(_table(rows)) if rows else "no decision is on record yet: nothing was ever out"


def text(explained: dict[str, Any]) -> str:
    """A page, in the order of the questions that a person asks."""
    return "\n".join(_lines(explained))


def _lines(item: dict[str, Any]) -> Iterator[str]:
    model = f", model {item['model']}" if item["model"] else ""
    yield f"decision {item['number']}, {item['time'][:16].replace('T', ' ')} UTC{model}"
    yield f"  {_kind(item)}"
    yield f"  because: {item['why']}"
    yield f"  asked by: {item['by']}"
    if "asked" in item:
        yield "  it was not for the policy to decide: the door was open, and no figures are behind it"
    else:
        yield from _figures(item)
    if item["outcome"] is not None:
        yield from ("", "what became of it", *_outcome(item["outcome"]))


def _figures(item: dict[str, Any]) -> Iterator[str]:
    if not item["reproduced"]:
        yield "  NOTE: this release decides otherwise from the same record; what follows is by its rules"
    if item["decided_on_window"] != item["number"]:
        yield "  no window closed just then: something else had changed"
    if item["window"] is not None:
        window, of = item["window"], item["decided_on_window"]
        since = "" if of == item["number"] else f", as decision {of} saw it"
        yield f"  on window {window['window']}: {window['cells']} cells of {window['patients']} patients{since}"
        yield from ("", "findings (x: drift, of what drift asks)", *_findings(item["findings"]))
        yield from ("", "history, oldest first (x out, - between, . clear, blank: said nothing)", *_history(item))
    reviewed, alarms = item["reviewed"], item["alarms"]
    yield ""
    yield f"alarms before: {_names(alarms['before'])}; after: {_names(alarms['after'])}"
    yield f"due before: {_names(item['pending_before'])}"
    yield f"new reviewed cells: {reviewed['cells']} of {reviewed['patients']} patients"
    yield f"kept back by: {item['blocked_by'] or 'nothing'}"
    yield from ("", "what would have changed it", *_otherwise(item["otherwise"]))
    yield from ("", f"the policy's numbers (all settings: sha256 {item['settings_sha256'][:16]})")
    yield from _table([(f"  {name}", str(value)) for name, value in item["settings"].items()])


def _findings(findings: Sequence[dict[str, Any]]) -> list[str]:
    rows = [("", "finding", "figure", "interval", "threshold", "severity", "cells", "patients", "")]
    for item in findings:
        low_high = item["interval"]
        rows.append(
            (
                "  x" if item["state"] == "drift" else "   ",
                item["name"] + (f" of {item['slice']}" if item.get("slice") else ""),
                _number(item["figure"]),
                "" if low_high is None else f"{_number(low_high[0])} … {_number(low_high[1])}",
                _number(item["threshold"]),
                "" if item["severity"] is None else f"{item['severity']:.0%}",
                str(item["cells"]),
                str(item["patients"]),
                "; ".join([*_state(item), *_planned(item)]),
            )
        )
    return _table(rows)


def _state(finding: dict[str, Any]) -> list[str]:
    """Why it is neither ok nor drift."""
    if finding["severity"] is not None:
        return []
    return [f"{finding['state']}: {finding['detail'].get('why', '')}".rstrip(": ")]


def _planned(finding: dict[str, Any]) -> list[str]:
    """What the calendar said of the slice."""
    return [
        f"planned from {entry['from']} until {entry['until']}: {entry['why']} ({entry['who']})"
        for entry in finding["detail"].get("planned", [])
    ]


def _history(item: dict[str, Any]) -> list[str]:
    settings = item["settings"]
    rows = []
    for cause, said in item["history"]["said"].items():
        spoke = [state for state in said if state != "silent"]
        last = spoke[-settings["fire_of"] :]
        count = f"{last.count('out')} of the last {len(last)} out" if last else "never said anything"
        rows.append((f"  {cause}", "".join(SIGNS[state] for state in said), count))
    asked = f"  an alarm asks for {settings['fire_windows']} of {settings['fire_of']}, and ends after "
    return [*_table(rows), f"{asked}{settings['clear_windows']} clear in a row"]


def _otherwise(changes: Sequence[dict[str, Any]]) -> list[str]:
    rows = [(f"  {item['change']}:", _kind(item)) for item in changes]
    return _table(rows) if rows else ["  no single thing that is tried here"]


def _outcome(outcome: dict[str, Any]) -> Iterator[str]:
    started = f", started {outcome['started']}" if "started" in outcome else ""
    yield f"  retraining {outcome['run']}: {outcome['outcome']}{started}"
    for reason in [outcome.get("reason"), *outcome.get("reasons", [])]:
        if reason:
            yield f"    {reason}"
    if "version" in outcome:
        yield f"  candidate {outcome['version']}{', which was promoted' if outcome.get('promoted') else ''}"
    if "cost" in outcome:
        cost = outcome["cost"]
        yield (
            f"  it took {cost['seconds']:.0f} s, {cost['processor_seconds']:.0f} processor seconds and "
            f"{cost['peak_memory_bytes'] / 2**20:.0f} MiB"
        )


def _kind(item: dict[str, Any]) -> str:
    """A decision in a few words."""
    causes = f" ({_names(item['causes'])})" if item["causes"] else ""
    block = f", kept back by: {item['blocked_by']}" if item["blocked_by"] and item["decision"] != "breaker" else ""
    return f"{item['decision']}{causes}{block}"


def _names(causes: Sequence[str]) -> str:
    return " and ".join(cause.replace("_", " ") for cause in causes) or "none"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns side by side, the last one as long as it is."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
