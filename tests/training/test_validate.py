"""Each expectation refuses its own fault and names the rows; without it, the fault would pass."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from service.contract.errors import BlastwatchError
from tests.support.manifests import LABELS, anonymous, manifest, row, sha
from training.expectations import COLUMNS, Limits, checks, schema
from training.validate import Finding, main, validate

LIMITS = Limits(min_cells=20, min_patients=8)


def failed(findings: list[Finding]) -> list[str]:
    return [finding.name for finding in findings if not finding.success]


def put(column: str, value: str | float, rows: int = 1) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Put a wrong value in the first rows."""

    def fault(table: pd.DataFrame) -> pd.DataFrame:
        values = table[column].tolist()
        return table.assign(**{column: [value] * rows + values[rows:]})

    return fault


def fewer(label: str, patients: int, cells: int) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Another composition of one label."""

    def fault(table: pd.DataFrame) -> pd.DataFrame:
        rows = [row(label, f"few-{label}-{p}", k) for p in range(patients) for k in range(cells)]
        others = table[table["label"] != label]
        return pd.concat([others, pd.DataFrame(rows, columns=list(COLUMNS))], ignore_index=True)

    return fault


def two_labels(table: pd.DataFrame) -> pd.DataFrame:
    for column in ("path", "pixels_sha256", "group"):
        table.loc[0, column] = table.loc[len(table) - 2, column]
    return table


def two_scales(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[1, "sha256"] = table.loc[0, "sha256"]
    return table


def half_of_a_patient_with_another(table: pd.DataFrame) -> pd.DataFrame:
    """Two cells of the second patient are a unit with the first, three are by themselves."""
    first, second = sorted(table["patient"].unique())[:2]
    rows = table.index[table["patient"] == second]
    table.loc[rows[:2], "unit"] = first
    return table


def renamed(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(unit=table["unit"].replace("p-L2-03", "somebody else"))


def twins_apart(table: pd.DataFrame) -> pd.DataFrame:
    of_another = table.index[table["patient"] != table.loc[0, "patient"]][0]
    table.loc[of_another, "near"] = table.loc[0, "near"]
    return table


def twice(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table.iloc[:1].assign(sha256=sha("once more"))], ignore_index=True)


FAULTS: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], int]] = {
    # name of the expectation: (what is planted, rows that it names)
    "label known": (lambda table: pd.concat([table, fewer("L4", 10, 3)(table.iloc[:0])], ignore_index=True), 30),
    "every label has cells": (lambda table: table[table["label"] != "L3"].reset_index(drop=True), 0),
    "cells per class": (fewer("L3", 9, 2), 18),
    "patients per class": (fewer("L3", 5, 6), 30),
    "cell once": (twice, 2),
    "file once": (two_scales, 2),
    "path names the pixels": (put("path", "cells/other.png"), 1),
    "hash of the source": (put("sha256", "none"), 1),
    "one label a picture": (two_labels, 2),
    "unit": (renamed, 6),
    "one unit a patient": (half_of_a_patient_with_another, 6),
    "one unit a group of near-duplicates": (twins_apart, 2),
    "patient has a site": (put("site", "", 5), 5),
    "one site a patient": (put("site", "site-z", 2), 5),
    "pixel size": (put("pixel_size_um", 20.0), 1),
    "statistics measured": (put("hue", np.nan, 2), 2),
    "brightness": (put("brightness", 0.99), 1),
    "contrast": (put("contrast", 0.0), 1),
    "sharpness": (put("sharpness", 19.0), 1),
    "hue": (put("hue", 0.4), 1),
    "width": (put("width", 12, 2), 2),
    "height": (put("height", 10_000), 1),
    "saturation": (put("saturation", 0.0), 1),
}  # fmt: skip


def test_a_good_manifest_meets_every_expectation() -> None:
    assert failed(validate(manifest(), LIMITS, LABELS)) == []


def test_cells_without_patients_are_not_asked_for_patients() -> None:
    assert failed(validate(anonymous(), LIMITS, LABELS)) == []


def test_every_expectation_has_a_planted_fault() -> None:
    assert set(FAULTS) == {check.name for check in checks(LIMITS, LABELS)}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_refused_by_its_expectation_alone_and_names_the_rows(name: str) -> None:
    plant, rows = FAULTS[name]
    table = plant(manifest())
    findings = validate(table, LIMITS, LABELS)
    assert failed(findings) == [name]  # so that without it the fault would pass
    (found,) = [finding for finding in findings if not finding.success]
    assert found.unexpected == rows
    line = found.line()
    assert "\n" not in line and line.startswith(f"{name}: ")
    if rows:
        first = found.rows[0]["row"]
        assert f"row {first} ({table['path'].iloc[first]}" in line


def test_a_missing_column_is_refused_before_anything_else_is_asked() -> None:
    findings = validate(manifest().drop(columns=["site", "hue"]), LIMITS, LABELS)
    assert failed(findings) == [schema().name] and len(findings) == 1
    assert findings[0].line().endswith("missing: hue, site")


def test_a_missing_label_is_named() -> None:
    (found,) = [f for f in validate(FAULTS["every label has cells"][0](manifest()), LIMITS, LABELS) if not f.success]
    assert found.line().endswith("missing: L3")


@pytest.mark.parametrize(("name", "value"), [("brightness", (0.9, 0.1)), ("contrast", (0.1,))])
def test_bounds_that_nothing_meets_are_refused(name: str, value: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=name):
        Limits(**{name: value})  # type: ignore[arg-type]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("validate: {min_cells: 20, min_patients: 8}")
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared/dataset.json").write_text(json.dumps({"labels": LABELS}))
    return tmp_path


def test_the_stage_writes_its_report_and_pages(repository: Path) -> None:
    manifest().to_parquet("prepared/manifest.parquet")
    assert main([]) == 0
    report = json.loads((repository / "reports/validation.json").read_text())
    assert report["success"] and report["cells"] == len(manifest())
    healthy = report["labels"]["healthy"]
    assert (healthy["cells"], healthy["patients"], healthy["units"]) == (96, 48, 48)
    assert healthy["hue"] == {"p5": -0.1, "median": -0.1, "p95": -0.1}
    assert list(report["labels"]) == list(LABELS)
    first = (repository / "reports/validation.json").read_bytes()
    assert (repository / "reports/data_docs/index.html").is_file()
    assert main([]) == 0  # again, over what is there
    assert (repository / "reports/validation.json").read_bytes() == first


def test_a_failed_expectation_stops_the_stage_with_a_line_each(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = put("contrast", 0.0, 7)(put("sha256", "?")(manifest()))
    bad.to_parquet("prepared/manifest.parquet")
    with pytest.raises(BlastwatchError, match="2 of 24 expectations failed"):
        main([])
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["hash of the source", "contrast"]
    assert f"row 0 ({bad['path'][0]}: 0)" in lines[1] and "7 rows" in lines[1] and "and 4 more" in lines[1]
    report = json.loads((repository / "reports/validation.json").read_text())
    assert not report["success"]
    assert (repository / "reports/data_docs/index.html").is_file()
