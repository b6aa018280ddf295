"""The model card's part about the audit: referring, strange pictures, slices and shortcuts, from their two reports."""

from collections.abc import Mapping
from typing import Any


def evidence_sections(evidence: Mapping[str, Any], shortcuts: Mapping[str, Any]) -> list[str]:
    """Markdown lines of reports/evidence.json and reports/shortcuts.json; what is missing is said to be."""
    return [
        *_abstention(evidence.get("abstention")),
        *_out_of_distribution(evidence.get("out_of_distribution")),
        *_slices(evidence.get("slices")),
        *_shortcuts(shortcuts),
    ]


def _abstention(found: Mapping[str, Any] | None) -> list[str]:
    title = ["## Referring the least sure", ""]
    if not found:
        return [*title, "Not measured.", ""]
    coverage, risk = _with_interval(found["coverage"]), _with_interval(found["risk"])
    return [
        *title,
        f"Below {found['threshold']:.4g} a cell is referred: of the test cells {coverage} are answered, and {risk} of "
        f"these wrongly; of all cells {found['risk_of_all']:.3f} would be.",
        "",
        "| share answered | share of them wrong |",
        "|---|---|",
        *(f"| {point['coverage']:.3f} | {point['risk']:.3f} |" for point in found["curve"]),
        "",
    ]


def _out_of_distribution(found: Mapping[str, Any] | None) -> list[str]:
    title = ["## Pictures that no answer should be given for", ""]
    if not found:
        return [*title, "Not measured.", ""]
    required = found["required"]
    return [
        *title,
        f"Of each kind at least {required['flagged']:.0%} should be flagged, and at most {required['false_flags']:.0%} "
        f"of the test cells; {found['false_flags']:.1%} of these are. Made from test cells and procedural textures.",
        "",
        "| kind | flagged | pictures | met |",
        "|---|---|---|---|",
        *(
            f"| {kind} | {entry['flagged']:.3f} | {entry['pictures']} | {'yes' if entry['met'] else 'no'} |"
            for kind, entry in found["kinds"].items()
        ),
        "",
    ]


def _slices(found: Mapping[str, Mapping[str, Mapping[str, Any]]] | None) -> list[str]:
    title = ["## Parts of the test set", ""]
    if not found:
        return [*title, "Not measured.", ""]
    figures = ("accuracy", "sensitivity", "specificity", "ece_debiased")
    rows = [
        f"| {kind}: {name} | {entry['cells']} | {entry['patients']} | "
        + " | ".join(entry["state"] if figure not in entry else _with_interval(entry[figure]) for figure in figures)
        + " |"
        for kind, entries in found.items()
        for name, entry in entries.items()
    ]
    return [
        *title,
        "| part | cells | patients | accuracy | sensitivity | specificity | calibration error, debiased |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def _shortcuts(found: Mapping[str, Any]) -> list[str]:
    title = ["## Could it be had without the cell?", ""]
    if not found:
        return [*title, "Not measured.", ""]
    rows = []
    for name, entry in found["forests"].items():
        if entry["state"] == "measured":
            value = {"value": entry["balanced_accuracy"], "interval": entry["interval"]}
            ahead = {"value": entry["network_minus"], "interval": entry["network_minus_interval"]}
            shown = f"{_with_interval(value)} | {_with_interval(ahead)}"
        else:
            shown = f"{entry['state']}: {entry['reason']} | –"
        rows.append(f"| {name}: {entry['what']} | {shown} |")
    network = _with_interval(found["network"] | {"value": found["network"]["balanced_accuracy"]})
    return [
        *title,
        f"Balanced accuracy of forests that see no cell; the network has {network}, chance {found['chance']:.3f}.",
        "",
        "| forest on | balanced accuracy | network is ahead by |",
        "|---|---|---|",
        *rows,
        "",
    ]


def _with_interval(figure: Mapping[str, Any] | None) -> str:
    if figure is None or figure["value"] is None:
        return "–"
    ends = figure.get("interval")
    return f"{figure['value']:.3f}" + (f" ({ends[0]:.3f} – {ends[1]:.3f})" if ends else "")
