"""The table of the zoo: every row that was run, those that were not and why, and the review's printed figures.

`python -m training.zoo.table [--rows FOLDER] [--out PREFIX] [--note TEXT]` writes PREFIX.md, .json and .png.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.contract.errors import CommandParser, ConfigError, run_command
from service.contract.files import write_atomic
from training.io import read_params, write_json
from training.zoo.figures_of import COLUMNS, compare, figures_of, kind_of_figures
from training.zoo.markdown import markdown
from training.zoo.results import FOLDER, Result, read_results
from training.zoo.rows import ROWS
from training.zoo.settings import parse

OURS = "cnn_gru"
_DATA = ("name", "cells", "pixels", "labels", "malignant", "sha256")


def tabulate(results: Mapping[str, Result], *, draws: int, seed: int, note: str = "") -> dict[str, Any]:
    """The content of zoo.json. Raises ConfigError when rows are of different cells or folds."""
    smears = {name: found for name, found in results.items() if not found.reason and ROWS[name].kind != "expression"}
    _same(smears)
    rows = []
    for name, row in ROWS.items():
        found = results.get(name)
        entry: dict[str, Any] = {
            "row": name, "title": row.title, "kind": row.kind, "reference": row.reference, "library": row.library,
            "remark": row.remark,
        }  # fmt: skip
        if found is None or found.reason:
            reason = found.reason if found else row.missing or f"no result: python -m training.zoo.run {name}"
            rows.append(entry | {"status": "not run", "reason": reason})
            continue
        taken = ("folds", "repeats", "mode", "epochs", "weights", "machine", "seconds", "cost")
        entry |= {"status": "ran", "cells": found.about["data"]["cells"], **{key: found.about[key] for key in taken}}
        entry |= {"figures": figures_of(found, draws=draws, seed=seed), "figures_of": kind_of_figures(found)}
        other = smears.get(OURS) if name in smears and name != OURS else None
        rows.append(entry | {"against_ours": compare(found, other, draws=draws, seed=seed) if other else None})
    data = next(iter(smears.values())).about["data"] if smears else None
    return {
        "columns": list(COLUMNS),
        "data": {key: data[key] for key in ("name", "cells", "pixels", "labels", "malignant", "sha256")}
        if data
        else None,
        "counts": _counts(next(iter(smears.values()))) if smears else None,
        "bootstrap": draws,
        "note": note,
        "rows": rows,
        "better": {
            figure: [row["row"] for row in rows if (row.get("against_ours") or {}).get(figure, {}).get("better")]
            for figure in ("accuracy", "balanced_accuracy")
        },
    }


def _same(results: Mapping[str, Result]) -> None:
    kinds: dict[tuple[object, ...], list[str]] = {}
    for name, found in results.items():
        about = found.about
        kinds.setdefault((about["data"]["sha256"], about["folds"], about["seed"]), []).append(name)
    if len(kinds) > 1:
        _, *others = sorted(kinds.values(), key=len, reverse=True)
        odd = sorted(name for names in others for name in names)
        raise ConfigError(
            f"{', '.join(odd)}: run on other cells or other folds than the rest of the table; run them again with "
            "python -m training.zoo.run ROW, or delete their files"
        )


def _counts(result: Result) -> dict[str, int]:
    return {name: int((result.label == k).sum()) for k, name in enumerate(result.labels)}


def main(argv: list[str] | None = None) -> int:
    """Write reports/zoo.md, reports/zoo.json and reports/zoo.png from the rows in reports/zoo."""
    parser = CommandParser(prog="python -m training.zoo.table", description=main.__doc__)
    parser.add_argument("--rows", type=Path, default=FOLDER, help="the folder of the rows' results (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("reports/zoo"), help="what the files' names start with")
    parser.add_argument("--note", default="", help="how these rows were run, for the head of the page")
    asked = parser.parse_args(argv)
    from training.zoo.picture import draw

    config, _ = parse(read_params("zoo"), read_params("evaluate"), OURS)
    table = tabulate(read_results(asked.rows), draws=config.bootstrap, seed=config.seed, note=asked.note)
    write_json(asked.out.with_suffix(".json"), table)
    write_atomic(asked.out.with_suffix(".md"), markdown(table))
    write_atomic(asked.out.with_suffix(".png"), draw(table))
    ran = sum(row["status"] == "ran" for row in table["rows"])
    print(f"{ran} of {len(table['rows'])} rows were run; {asked.out.with_suffix('.md')} is the table")
    return 0


if __name__ == "__main__":
    run_command(main)
