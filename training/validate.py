"""Stage `validate`: the manifest against what was agreed (expectations.py), by Great Expectations. A failure stops
here.

Either way reports/validation.json says what was asked and answered, and reports/data_docs shows it in a browser.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from service.contract.errors import BlastwatchError, CommandParser, run_command
from service.contract.files import aside_of, replace_dir
from training.config import configured
from training.expectations import COLUMNS, Check, Limits, by_label, checks, derive, schema
from training.io import read_json, read_params, read_parquet, write_json
from training.pixels import PREPARED

REPORT = Path("reports/validation.json")
DOCS = Path("reports/data_docs")
SHOWN = 3  # rows on a line for people
EXAMPLES = 20  # in the report


@dataclass(frozen=True)
class Finding:
    """The answer to one check: how many rows fail it, and the first of them as (row, path, value)."""

    name: str
    success: bool
    advice: str
    unexpected: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    observed: str = ""

    def line(self) -> str:
        """For a person, on one line."""
        shown = ", ".join(f"row {row['row']} ({row['path']}{_said(row['value'])})" for row in self.rows[:SHOWN])
        more = f" and {self.unexpected - SHOWN} more" if self.unexpected > SHOWN else ""
        return f"{self.name}: {self.advice}. " + (f"{self.unexpected} rows: {shown}{more}" if shown else self.observed)


def validate(
    manifest: pd.DataFrame, limits: Limits, labels: Sequence[str], *, docs: Path | None = None
) -> list[Finding]:
    """Ask every check of the manifest; with `docs`, write Great Expectations' pages there.

    A table that lacks columns is asked for nothing else.
    """
    asked = [schema()]
    complete = set(COLUMNS) <= set(manifest.columns)
    if complete:
        asked += checks(limits, labels)
    table = derive(manifest) if complete else manifest.reset_index(drop=True)
    return ask(table.assign(row=range(len(table))), asked, docs=docs)


def ask(table: pd.DataFrame, asked: Sequence[Check], *, docs: Path | None = None) -> list[Finding]:
    """Run checks on a table that has the columns they name, and a column `row`."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # nothing about the data leaves the machine
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    batch = (
        context.data_sources.add_pandas("prepared")
        .add_dataframe_asset("manifest")
        .add_batch_definition_whole_dataframe("all cells")
    )
    suite = context.suites.add(
        gx.ExpectationSuite(
            name="manifest",
            expectations=[
                getattr(gx.expectations, check.expectation)(**check.arguments, meta={"check": check.name})
                for check in asked
            ],
        )
    )
    definition = context.validation_definitions.add(gx.ValidationDefinition(name="manifest", data=batch, suite=suite))
    checkpoint = gx.Checkpoint(
        name="manifest",
        validation_definitions=[definition],
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]},
        actions=[gx.checkpoint.UpdateDataDocsAction(name="docs", site_names=["docs"])] if docs else [],
    )
    aside = aside_of(docs) if docs else None
    if aside:
        context.add_data_docs_site("docs", _site(aside))
    try:
        result = checkpoint.run(batch_parameters={"dataframe": table})
        if docs and aside:
            replace_dir(aside, docs)
    finally:
        if aside:
            shutil.rmtree(aside, ignore_errors=True)
    (answers,) = result.run_results.values()
    by_name = {answer.expectation_config.meta["check"]: answer for answer in answers.results}
    return [_finding(check, by_name[check.name], table) for check in asked]


def _finding(check: Check, answer: Any, table: pd.DataFrame) -> Finding:
    if answer.success:
        return Finding(check.name, True, check.advice)
    result = answer.result or {}
    rows = sorted({int(entry["row"]) for entry in result.get("unexpected_index_list") or []})
    column = check.arguments.get("column") or (check.arguments.get("column_list") or ["path"])[0]
    shown = [
        {"row": row, "path": str(table["path"].iloc[row]), "value": _plain(table[column].iloc[row])}
        for row in rows[:EXAMPLES]
    ]
    return Finding(check.name, False, check.advice, len(rows), shown, _observed(answer, result))


def _observed(answer: Any, result: dict[str, Any]) -> str:
    """For what has no rows to name: a table without a column, a label without cells, an error inside the library."""
    missing = (result.get("details") or {}).get("mismatched", {}).get("missing") or result.get("partial_missing_list")
    if missing:
        return f"missing: {', '.join(map(str, missing))}"
    return str((answer.exception_info or {}).get("exception_message") or "")


def _said(value: Any) -> str:
    return "" if isinstance(value, bool) else f": {value:.4g}" if isinstance(value, float) else f": {value}"


def _plain(value: Any) -> Any:
    item = value.item() if hasattr(value, "item") else value
    return None if item != item else item


def _site(folder: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder.absolute())},
    }


def main(argv: list[str] | None = None) -> int:
    """Check prepared/manifest.parquet; write reports/validation.json and reports/data_docs; 2 when something is
    wrong.
    """
    CommandParser(prog="python -m training.validate", description=main.__doc__).parse_args(argv)
    limits = configured(Limits, "validate", read_params("validate"))
    labels = read_json(PREPARED / "dataset.json")["labels"]
    manifest = read_parquet(PREPARED / "manifest.parquet")
    findings = validate(manifest, limits, labels, docs=DOCS)
    failed = [finding for finding in findings if not finding.success]
    answers = [
        vars(finding) if not finding.success else {"name": finding.name, "success": True} for finding in findings
    ]
    tables = by_label(manifest, labels) if set(COLUMNS) <= set(manifest.columns) else {}
    write_json(REPORT, {"success": not failed, "cells": len(manifest), "expectations": answers, "labels": tables})
    for finding in failed:
        print(f"error: {finding.line()}", file=sys.stderr)
    if failed:
        raise BlastwatchError(
            f"{len(failed)} of {len(findings)} expectations failed: correct the data as said above, "
            f"{DOCS}/index.html shows them all"
        )
    print(f"{len(manifest)} cells meet all {len(findings)} expectations")
    return 0


if __name__ == "__main__":
    run_command(main)
