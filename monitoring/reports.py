"""An Evidently page a window, for people: the only file that imports evidently.

It shows distributions side by side. The verdict is not Evidently's: its tests take cells for independent, and they are
not (resampling.py). It is drawn from samples, since its time and size grow with the rows.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from monitoring.window import Window, arrays
from service.contract.artifact import Artifact
from service.contract.files import write_atomic
from service.contract.reference import Reference
from service.contract.statistics import STATISTICS

COMPONENTS = 4

Floats = npt.NDArray[np.float64]


def write_report(
    path: Path, window: Window, artifact: Artifact, reference: Reference, *, cells: int, seed: int
) -> None:
    """Write the HTML page of a window: at most `cells` of it against at most as many of the reference, drawn by `seed`.

    Columns: image statistics, principal components of the embedding, confidence, answer. Whatever goes wrong in
    Evidently is raised as it is; then `path` is as before.
    """
    current, past = frames(window, artifact, reference)
    page = _html(_sample(current, cells, seed), _sample(past, cells, seed))
    write_atomic(path, page)


def prune(folder: Path, keep: int) -> int:
    """Remove all but the newest `keep` pages, and say how many went."""
    pages = sorted(folder.glob("*.html"), key=lambda page: page.stat().st_mtime, reverse=True)
    for page in pages[keep:]:
        page.unlink(missing_ok=True)
    return len(pages[keep:])


def frames(window: Window, artifact: Artifact, reference: Reference) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The window and the reference as tables with the same columns; no patient, no identifier."""
    labels = artifact.manifest.labels
    now = arrays(window, labels)
    axes, centre = principal_axes(np.asarray(reference.embedding, dtype=np.float64), COMPONENTS)
    current = _frame(now.embedding @ axes - centre, now.statistics, now.probabilities, labels)
    past = _frame(
        np.asarray(reference.embedding, dtype=np.float64) @ axes - centre,
        np.asarray(reference.statistics, dtype=np.float64),
        np.asarray(reference.probabilities, dtype=np.float64),
        labels,
    )
    return current, past


def principal_axes(embedding: Floats, components: int) -> tuple[Floats, Floats]:
    """embedding [n, E] → its first axes [E, k] and the centre along them [k]; k ≤ components."""
    mean = embedding.mean(axis=0)
    _, _, rows = np.linalg.svd(embedding - mean, full_matrices=False)
    axes = rows[:components].T
    return axes, mean @ axes


def _frame(components: Floats, statistics: Floats, probabilities: Floats, labels: tuple[str, ...]) -> pd.DataFrame:
    columns: dict[str, Any] = {name: statistics[:, number] for number, name in enumerate(STATISTICS)}
    columns |= {f"embedding {number + 1}": components[:, number] for number in range(components.shape[1])}
    columns["confidence"] = probabilities.max(axis=1)
    columns["answer"] = np.array(labels)[probabilities.argmax(axis=1)]
    return pd.DataFrame(columns)


def _sample(table: pd.DataFrame, cells: int, seed: int) -> pd.DataFrame:
    if len(table) <= cells:
        return table
    chosen = np.sort(np.random.default_rng(seed).choice(len(table), cells, replace=False))
    return table.iloc[chosen].reset_index(drop=True)


def _html(current: pd.DataFrame, past: pd.DataFrame) -> str:
    # Imported where it is used: it takes seconds and hundreds of megabytes, and must not hold up the first verdict.
    os.environ["DO_NOT_TRACK"] = "1"
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    numbers = [name for name in past.columns if name != "answer"]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=["answer"])
    with np.errstate(divide="ignore", invalid="ignore"):  # it correlates constant columns too
        snapshot = Report([DataDriftPreset()]).run(
            Dataset.from_pandas(current, data_definition=definition),
            Dataset.from_pandas(past, data_definition=definition),
        )
    return str(snapshot.get_html_str(as_iframe=False))
