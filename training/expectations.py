"""What a manifest must be like before anything is trained on it: one entry of `checks` each, as data.

`validate` runs them with Great Expectations. Each looks at one column, of the manifest or derived from it by
`derive`, so that a failure names the rows that it is about.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from service.contract.statistics import STATISTICS
from training.units import members

COLUMNS = (
    "path", "sha256", "pixels_sha256", "label", "patient", "site", "stain", "scanner", "pixel_size_um", "source",
    "order", "width", "height", "file_bytes", "group", "near", "unit", *STATISTICS,
)  # fmt: skip
HASH = r"^[0-9a-f]{64}$"
_BOUNDED = ("side", "brightness", "contrast", "sharpness", "hue", "saturation")


@dataclass(frozen=True)
class Limits:
    """Section `validate` of params.yaml."""

    min_cells: int = 20
    """Cells that each class needs."""
    min_patients: int = 8
    """Patients that each class needs, where every cell of it names one."""
    side: tuple[float, float] = (16, 8192)
    """Width and height of the source's pictures, in pixels."""
    brightness: tuple[float, float] = (0.15, 0.98)
    contrast: tuple[float, float] = (0.03, 0.45)
    sharpness: tuple[float, float] = (0.0005, 2.0)
    hue: tuple[float, float] = (-0.42, 0.25)
    """Of the stain, in turns from red: blue, purple, pink and yellow are inside, green and cyan are not."""
    saturation: tuple[float, float] = (0.02, 1.0)

    def __post_init__(self) -> None:
        """Refuse bounds that nothing can meet. Raises ValueError."""
        for name in _BOUNDED:
            bounds = getattr(self, name)
            if len(bounds) != 2 or not bounds[0] < bounds[1]:
                raise ValueError(f"{name} is {list(bounds)}: it must be [lowest, highest]")


@dataclass(frozen=True)
class Check:
    """One expectation: its name, Great Expectations' class and arguments, and what to do about a failure."""

    name: str
    expectation: str
    arguments: Mapping[str, Any]
    advice: str


def schema() -> Check:
    """Without its columns nothing else can be asked of a table."""
    return Check(
        "columns",
        "ExpectTableColumnsToMatchSet",
        {"column_set": list(COLUMNS), "exact_match": False},
        "the manifest lacks columns: make it anew with `dvc repro --force prepare`",
    )


def checks(limits: Limits, labels: Sequence[str]) -> list[Check]:
    """Everything that is asked of a table with all columns, with `derive` applied."""
    between, among = "ExpectColumnValuesToBeBetween", "ExpectColumnValuesToBeInSet"
    remake = "make the manifest anew with `dvc repro --force prepare`"
    look = "look at the pictures, and remove them from the source or widen the bounds in params.yaml: validate."
    return [
        Check("label known", among, {"column": "label", "value_set": list(labels)},
              "a label is not in data.labels of params.yaml: correct it in the source"),
        Check("every label has cells", "ExpectColumnDistinctValuesToContainSet",
              {"column": "label", "value_set": list(labels)},
              "a label of data.labels has no cells: add a source that has some, or take it out of params.yaml"),
        Check("cells per class", between, {"column": "class_cells", "min_value": limits.min_cells},
              f"a class has fewer than {limits.min_cells} cells (validate.min_cells): add more or drop it"),
        Check("patients per class", between, {"column": "class_patients", "min_value": limits.min_patients},
              f"a class has fewer than {limits.min_patients} patients (validate.min_patients): add more or drop it"),
        Check("cell once", "ExpectCompoundColumnsToBeUnique", {"column_list": ["path", "patient"]},
              f"a cell is in the manifest twice: {remake}"),
        Check("file once", "ExpectCompoundColumnsToBeUnique", {"column_list": ["sha256", "patient"]},
              "the same file is there at two scales: correct its pixel size in the source, or remove one"),
        Check("path names the pixels", among, {"column": "path_right", "value_set": [True]},
              f"a path is not cells/<pixels_sha256>.png: {remake}"),
        Check("hash of the source", "ExpectColumnValuesToMatchRegex", {"column": "sha256", "regex": HASH},
              f"a source has no SHA-256: {remake}"),
        Check("one label a picture", between, {"column": "picture_labels", "max_value": 1},
              "the same pixels have two labels: correct one in the source, or remove both"),
        Check("unit", among, {"column": "unit_right", "value_set": [True]},
              f"a unit does not have the name of its first patient or, without one, of its first picture: {remake}"),
        Check("one unit a patient", between, {"column": "patient_units", "max_value": 1},
              f"a patient's cells are in two units, so a split could divide them: {remake}"),
        Check("one unit a group of near-duplicates", between, {"column": "near_units", "max_value": 1},
              f"near-duplicates are in two units, so a split could divide them: {remake}"),
        Check("patient has a site", among, {"column": "site_missing", "value_set": [False]},
              "a patient comes from no site: name it in the source"),
        Check("one site a patient", between, {"column": "patient_sites", "max_value": 1},
              "one patient id is used at two sites: two people may share it, make the ids different in the source"),
        Check("pixel size", between, {"column": "pixel_size_um", "min_value": 0, "max_value": 5},
              "a pixel size is not 0 (unknown) to 5 µm: correct it in the source"),
        Check("statistics measured", among, {"column": "statistics_finite", "value_set": [True]},
              f"a picture's statistics are missing: {remake}"),
        *(
            Check(name, between, {"column": name, "min_value": limits.side[0], "max_value": limits.side[1]},
                  f"{look}side") for name in ("width", "height")
        ),
        *(
            Check(name, between, {"column": name, "min_value": low, "max_value": high}, f"{look}{name}")
            for name, (low, high) in (
                ("brightness", limits.brightness), ("contrast", limits.contrast),
                ("sharpness", limits.sharpness), ("hue", limits.hue), ("saturation", limits.saturation),
            )
        ),
    ]  # fmt: skip


def derive(manifest: pd.DataFrame) -> pd.DataFrame:
    """The manifest with the columns that the checks ask about; null where a question does not apply to a row."""
    table = manifest.reset_index(drop=True)
    patient = table["patient"].replace("", None)
    named = patient.notna()
    by_label = table.groupby("label", sort=False)
    all_named = named.groupby(table["label"], sort=False).transform("all")
    patients = patient.groupby(table["label"], sort=False).transform("nunique")
    statistics = table[list(STATISTICS)].to_numpy(dtype=np.float64)
    return table.assign(
        class_cells=by_label["label"].transform("size"),
        class_patients=patients.astype("float64").where(all_named),
        path_right=table["path"] == "cells/" + table["pixels_sha256"].astype(str) + ".png",
        picture_labels=table.groupby("pixels_sha256", sort=False)["label"].transform("nunique"),
        unit_right=table["unit"] == pd.Series(members(table)).groupby(table["unit"]).transform("min"),
        patient_units=table["unit"].groupby(patient, sort=False).transform("nunique").astype("float64").where(named),
        near_units=table.groupby("near", sort=False)["unit"].transform("nunique"),
        site_missing=named & (table["site"] == ""),
        patient_sites=table["site"].groupby(patient, sort=False).transform("nunique").astype("float64").where(named),
        statistics_finite=np.isfinite(statistics).all(axis=1),
    )


def by_label(manifest: pd.DataFrame, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Of each label: cells, patients, units, near-duplicates, and median with 5 % and 95 % of what pictures measure.

    For a reader who looks for what tells labels apart besides the cell: stain, focus, size of the files.
    """
    twin = manifest.groupby("near", sort=False)["near"].transform("size") > 1
    found = {}
    for label in labels:
        rows = manifest[(manifest["label"] == label).to_numpy()]
        measured = rows[[*STATISTICS, "width", "height", "file_bytes"]].quantile([0.05, 0.5, 0.95])
        found[label] = {
            "cells": len(rows),
            "patients": int(rows.loc[rows["patient"] != "", "patient"].nunique()),
            "units": int(rows["unit"].nunique()),
            "near_duplicates": int(twin[rows.index].sum()),
            **{
                name: dict(zip(("p5", "median", "p95"), (round(float(v), 4) for v in measured[name]), strict=True))
                for name in measured.columns
            },
        }
    return found
