"""zoo.json as a page to read."""

from collections.abc import Iterable, Mapping
from typing import Any

from training.zoo.published import Published, published, source
from training.zoo.rows import ROWS, TRAINED

HEADINGS = (
    "system", "accuracy %", "sens %", "spec %", "prec %", "F1", "bal. acc %", "macro F1", "AUC", "ECE", "weights M",
    "MMAC", "ms", "accuracy less CNN-GRU's", "trunk's weights", "how", "folds × repeats",
)  # fmt: skip
_NONE = "–"


def markdown(table: Mapping[str, Any]) -> str:
    """The page of a table (training.zoo.table.tabulate)."""
    rows: list[dict[str, Any]] = table["rows"]
    ran = [row for row in rows if row["status"] == "ran"]
    smears = [row for row in ran if row["kind"] != "expression"]
    lines = [
        "# The review's systems, side by side",
        "",
        *_header(table, smears),
        "",
        *([table["note"], ""] if table["note"] else []),
    ]
    lines += _table(HEADINGS, [_measured(row) for row in sorted(smears, key=_rank)])
    lines += [*_printed_rows(), "", *_verdict(table, smears), ""]
    if expression := [row for row in ran if row["kind"] == "expression"]:
        lines += ["## Gene expression", ""]
        lines += [f"{row['title']} {row['reference']}: {row['mode']}. {_sentence(row['remark'])}" for row in expression]
        lines += ["", *_table(HEADINGS[:11], [_measured(row)[:11] for row in expression]), ""]
        lines += [
            "Positive is ALL, negative AML. The review prints 98.21 % accuracy for reference 33, on folds of its own.",
            "",
        ]
    if absent := [row for row in rows if row["status"] != "ran"]:
        lines += ["## Rows that did not run", ""]
        lines += [f"- {row['title']} {row['reference']}: {row['reason']}" for row in absent] + [""]
    remarks = [row for row in smears if row["remark"]]
    lines += ["## Remarks", "", *(f"- {row['title']}: {row['remark']}. ({row['library']})" for row in remarks), ""]
    lines += ["## What they ran on", "", *_ran_on(smears), ""]
    return "\n".join(lines)


def _header(table: Mapping[str, Any], smears: list[dict[str, Any]]) -> list[str]:
    data = table["data"]
    if not smears or data is None:
        return ["No row was run yet: `dvc repro training/zoo/dvc.yaml`."]
    counts = ", ".join(f"{number} {name}" for name, number in table["counts"].items())
    folds = smears[0]["folds"]
    height, width = data["pixels"]
    return [
        f"`dvc repro training/zoo/dvc.yaml` on {data['name']}: {data['cells']} cells of {height}×{width} pixels "
        f"({counts}), {folds} folds, units whole, the same folds and the same pictures for every row. Every cell is "
        "judged by a system that did not train on it; a figure is the mean over the repeats.",
        "",
        f"Sensitivity, specificity, precision, F1 and AUC: {smears[0]['figures_of']}. Accuracy with its 95 % interval, "
        "and the paired difference to the CNN-GRU with its own, on the repeats that both have "
        f"({table['bootstrap']} resamplings of units; the folds as given). ECE after a temperature that the other "
        "folds' answers asked for, the same for every row. Weights and multiply-adds (MMAC, millions, one picture) of "
        "networks alone; ms is one core's time for one picture, features included. `untrained` is a trunk with random "
        "weights: its row says what its shape is worth here, not what transfer learning is. Sorted by balanced "
        "accuracy.",
        "",
        "Rows marked **published** are the review's tables 4 (ALL-IDB1) and 5 (ALL-IDB2), as printed there: other "
        f"cells, other splits, not measured here ({source()}).",
    ]


def _rank(row: Mapping[str, Any]) -> float:
    return -float(row["figures"]["balanced_accuracy"] or 0)


def _measured(row: Mapping[str, Any]) -> list[str]:
    figure, cost = row["figures"], row["cost"]
    low, high = figure["accuracy_interval"]
    against = (row.get("against_ours") or {}).get("accuracy")
    trunk = ", ".join(dict.fromkeys(_origin(part, row["mode"]) for part in row["weights"]))
    return [
        f"{row['title']} {row['reference']}" if row["kind"] != "ours" else f"**{row['title']}** {row['reference']}",
        f"{_percent(figure['accuracy'])} ({_percent(low)}–{_percent(high)})",
        *(_percent(figure[name]) for name in ("sensitivity", "specificity", "precision")),
        _plain(figure["f1"]),
        _percent(figure["balanced_accuracy"]),
        *(_plain(figure[name]) for name in ("macro_f1", "roc_auc", "ece")),
        _NONE if cost["parameters"] is None else f"{cost['parameters'] / 1e6:.2f}",
        _NONE if cost["multiply_adds"] is None else f"{cost['multiply_adds'] / 1e6:.0f}",
        _NONE if cost["ms"] is None else f"{cost['ms']:.1f}",
        _NONE if against is None else _difference(against),
        trunk or _NONE,
        row["mode"] + (f", {row['epochs']} epochs" if row["epochs"] else ""),
        f"{row['folds']} × {row['repeats']}",
    ]


def _origin(part: Mapping[str, str], mode: str) -> str:
    if part["sha256"]:
        return f"{part['source']} ({part['sha256'][:8]})"
    return "random start" if mode == TRAINED else "untrained"


def _difference(against: Mapping[str, Any]) -> str:
    low, high = against["interval"]
    mark = " **better**" if against["better"] else " worse" if against["worse"] else ""
    return f"{100 * against['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}){mark}"


def _printed_rows() -> list[str]:
    return [_line(_printed(row)) for row in published()]


def _printed(row: Published) -> list[str]:
    shares = (f"{value:g}" for value in (row.accuracy, row.sensitivity, row.specificity, row.precision))
    cells = [f"**published** {row.classifier} {row.reference}, {row.data}", *shares, f"{row.f1:g}"]
    return cells + [_NONE] * (len(HEADINGS) - len(cells) - 3) + ["published", f"table {row.table} of the review", _NONE]


def _verdict(table: Mapping[str, Any], smears: list[dict[str, Any]]) -> list[str]:
    if not any(row.get("against_ours") for row in smears):
        return ["The CNN-GRU itself was not run: nothing is compared."]
    lines = []
    for figure, names in table["better"].items():
        title = figure.replace("_", " ")
        if names:
            lines.append(f"Better than the CNN-GRU by the paired interval of the {title}: {_titles(names)}.")
        else:
            lines.append(f"No row is better than the CNN-GRU by the paired interval of the {title}.")
    return ["  \n".join(lines)]


def _titles(names: Iterable[str]) -> str:
    return ", ".join(ROWS[name].title for name in names)


def _ran_on(smears: list[dict[str, Any]]) -> list[str]:
    if not smears:
        return [_NONE]
    machines = "; ".join(sorted({row["machine"] for row in smears}))
    minutes = sum(row["seconds"] for row in smears) / 60
    return [f"{machines}. Training took {minutes:.0f} minutes in all, the machine shared with other work."]


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f}"


def _plain(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3f}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "." if text else ""


def _table(headings: Iterable[str], rows: list[list[str]]) -> list[str]:
    headings = list(headings)
    return [_line(headings), _line(["---", *["---:"] * (len(headings) - 1)]), *map(_line, rows)]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
