"""Evidently's view of a window, for people: the only file that imports evidently.

A page with distributions side by side, one of the reviews, and a run in a workspace whose dashboard shows drift over
time. The verdict is not Evidently's: its tests take cells for independent, and they are not (resampling.py). It is
drawn from samples, since its time and size grow with the rows.
"""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from monitoring.window import Window, arrays
from service.contract.artifact import Artifact
from service.contract.files import write_atomic
from service.contract.records import ReviewRecord
from service.contract.reference import Reference
from service.contract.statistics import STATISTICS
from service.contract.store import StoredPrediction

COMPONENTS = 4
PROJECT = "blastwatch"
REVIEWS = "-reviews.html"
"""Ends the name of the page of a window's reviews."""

_EMBEDDED_CELLS = 200  # of window and reference: EmbeddingsDrift draws a t-SNE, which takes seconds even so
_RUNS_OF_A_WINDOW = 3
_PANELS = 4
_REVIEWED_CELLS = 1000
_FEWEST_LABELS = 3  # Evidently takes two for a binary question

Floats = npt.NDArray[np.float64]
Reviewed = Sequence[tuple[StoredPrediction, ReviewRecord]]


def write_report(
    path: Path,
    window: Window,
    artifact: Artifact,
    reference: Reference,
    *,
    cells: int,
    seed: int,
    reviewed: Reviewed = (),
    workspace: Path | None = None,
    kept: int = 100,
) -> None:
    """Write the HTML page of a window: at most `cells` of it against at most as many of the reference, drawn by `seed`.

    Columns: image statistics, principal components of the embedding, confidence, answer; how often each answer came.
    The latest random reviews of the model, at least three labels among them, get a page of their own beside it. With a
    `workspace` both are runs of its project too, with the drift of the whole embedding, and all but those of the
    newest `kept` windows go (at three a window; one without reviews has two). Whatever goes wrong in Evidently is
    raised as it is; then `path` is as before.
    """
    current, past = frames(window, artifact, reference)
    at = datetime.fromtimestamp(window.closed, UTC)
    drift = _drift(_sample(current, cells, seed), _sample(past, cells, seed), at)
    quality = _quality(labelled(reviewed), at)
    if quality is not None:
        write_atomic(path.with_name(path.stem + REVIEWS), _html(quality))
    write_atomic(path, _html(drift))
    if workspace is not None:
        embedding = _embedding_drift(*_embedded(window, artifact, reference, seed), at)
        _keep(
            workspace, [drift, embedding, *([quality] if quality is not None else [])], kept, artifact.manifest.labels
        )


def prune(folder: Path, keep: int) -> int:
    """Remove all but the newest `keep` windows' pages, and say how many windows' went."""
    pages = [page for page in folder.glob("*.html") if not page.name.endswith(REVIEWS)]
    old = sorted(pages, key=lambda page: page.stat().st_mtime, reverse=True)[keep:]
    for page in old:
        page.unlink(missing_ok=True)
        page.with_name(page.stem + REVIEWS).unlink(missing_ok=True)
    return len(old)


def labelled(reviewed: Reviewed) -> pd.DataFrame:
    """The latest random reviews as a table: `label`, what the readers say, and `answer`, what the model said."""
    rows = [
        (review.label, item.record.label)
        for item, review in reviewed
        if review.sampled and not (item.disputed or item.record.test)
    ]
    return pd.DataFrame(rows[-_REVIEWED_CELLS:], columns=["label", "answer"])


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


def _embedded(window: Window, artifact: Artifact, reference: Reference, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A few whole embeddings of window and reference."""
    now = arrays(window, artifact.manifest.labels).embedding
    tables = (pd.DataFrame(np.asarray(values, dtype=np.float64)) for values in (now, reference.embedding))
    current, past = (_sample(table.add_prefix("dimension "), _EMBEDDED_CELLS, seed) for table in tables)
    return current, past


def _drift(current: pd.DataFrame, past: pd.DataFrame, at: datetime) -> Any:
    """Evidently's snapshot of the cells: each column against the reference's, and how often each answer came."""
    # Imported where it is used: it takes seconds and hundreds of megabytes, and must not hold up the first verdict.
    os.environ["DO_NOT_TRACK"] = "1"
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import UniqueValueCount
    from evidently.presets import DataDriftPreset

    numbers = [name for name in past.columns if name != "answer"]
    columns = DataDefinition(numerical_columns=numbers, categorical_columns=["answer"])
    with np.errstate(divide="ignore", invalid="ignore"):  # it correlates constant columns too
        return Report([DataDriftPreset(), UniqueValueCount(column="answer")]).run(
            Dataset.from_pandas(current, data_definition=columns),
            Dataset.from_pandas(past, data_definition=columns),
            timestamp=at,
        )


def _embedding_drift(current: pd.DataFrame, past: pd.DataFrame, at: datetime) -> Any:
    """Evidently's snapshot of the embedding: how well a classifier tells window and reference apart (ROC AUC)."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import EmbeddingsDrift

    columns = DataDefinition(embeddings={"embedding": list(past.columns)})
    return Report([EmbeddingsDrift(embeddings_name="embedding")]).run(
        Dataset.from_pandas(current, data_definition=columns),
        Dataset.from_pandas(past, data_definition=columns),
        timestamp=at,
    )


def _quality(table: pd.DataFrame, at: datetime) -> Any | None:
    """Evidently's snapshot of the reviews; None where they have too few labels for it."""
    if len(set(table["label"]) | set(table["answer"])) < _FEWEST_LABELS:
        return None
    from evidently import DataDefinition, Dataset, MulticlassClassification, Report
    from evidently.presets import ClassificationPreset

    columns = DataDefinition(
        categorical_columns=["label", "answer"],
        classification=[MulticlassClassification(target="label", prediction_labels="answer")],
    )
    return Report([ClassificationPreset()]).run(Dataset.from_pandas(table, data_definition=columns), None, timestamp=at)


def _html(snapshot: Any) -> str:
    return str(snapshot.get_html_str(as_iframe=False))


def _keep(folder: Path, snapshots: Sequence[Any], kept: int, labels: Sequence[str]) -> None:
    """Add the runs to the workspace's project, which is made where there is none, and remove the oldest windows'."""
    from evidently.ui.workspace import Workspace

    workspace = Workspace.create(str(folder))
    project = next(iter(workspace.search_project(PROJECT)), None)
    if project is None:
        project = workspace.create_project(PROJECT, "Each window of the model in production against its reference.")
    _panels(project, labels)
    for snapshot in snapshots:
        workspace.add_run(project.id, snapshot)
    # Their names are UUIDs of version 7: in the order in which they were made.
    for run in sorted(workspace.list_runs(project.id), key=str)[: -kept * _RUNS_OF_A_WINDOW]:
        workspace.delete_run(project.id, run)


def _panels(project: Any, labels: Sequence[str]) -> None:
    """Make the panels where they are not all there, or are of other labels: a start may have died in between."""
    from evidently.sdk.models import PanelMetric
    from evidently.sdk.panels import DashboardPanelPlot

    panels = project.dashboard.model().panels
    lines_of = {panel.title: [value.legend for value in panel.values] for panel in panels}
    if len(panels) == _PANELS and lines_of.get("Answers") == list(labels):
        return
    project.dashboard.clear_dashboard()
    answers = {label: {"column": "answer", "label": label, "value_type": "share"} for label in labels}
    for title, metric, lines in (
        ("Columns that Evidently calls drifted", "DriftedColumnsCount", {"share": {"value_type": "share"}}),
        ("Window and reference told apart by the embedding", "EmbeddingsDrift", {"ROC AUC": {}}),
        ("Answers", "UniqueValueCount", answers),
        ("Mean sensitivity by random reviews", "Recall", {"sensitivity": {}}),
    ):
        project.dashboard.add_panel(
            DashboardPanelPlot(
                title=title,
                subtitle="by the time at which each window closed",
                size="half",
                values=[
                    PanelMetric(legend=legend, metric=metric, metric_labels=which) for legend, which in lines.items()
                ],
                plot_params={"plot_type": "line"},
            ),
            tab="Over time",
        )
    project.save()
