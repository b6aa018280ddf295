"""What `benchmarks.monitoring` runs in processes of their own: `python -m benchmarks.monitoring_parts PART …`.

Each part prints one JSON object. A process a part, on one core, so that its peak memory is its own; how many threads
numpy makes is for the caller to say (THREADS).
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import text

from monitoring.findings import Finding
from monitoring.job import PAGE
from monitoring.judge import judge
from monitoring.judge_settings import JudgeSettings
from monitoring.moments import moments
from monitoring.tumbling import Tumbling
from monitoring.window import Window
from service.contract.database import Database
from service.contract.records import PredictionRecord
from service.contract.reference import Reference
from service.contract.statistics import STATISTICS
from service.contract.store import Store

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
LABELS = ("healthy", "L1", "L2", "L3")
SHARES = (0.45, 0.35, 0.17, 0.03)
MODEL = "b" * 32
SIZE = 64
PADDING = 15  # columns beside the embedding and the 5 statistics: 84, as Evidently was tried with
REFERENCE_PATIENTS = 60
START = datetime(2026, 1, 5, tzinfo=UTC).timestamp()
SEED = 7
INSERTED = 2000  # records of one transaction


def cells(rng: np.random.Generator, patients: int, each: int, shift: float = 0.0) -> dict[str, npt.NDArray[Any]]:
    """patients × each cells whose patient has an effect of its own; `shift` in standard deviations of that effect."""
    kinds = rng.choice(len(LABELS), size=patients, p=SHARES)
    patient = np.repeat(np.arange(patients), each)
    label = kinds[patient]
    label[(rng.random(len(label)) < 0.2) & (label > 0)] = 0  # leukemic patients have healthy cells too
    centres = 4.0 * np.eye(len(LABELS), SIZE)
    embedding = centres[label] + rng.normal(size=(patients, SIZE))[patient] + rng.normal(size=(len(label), SIZE))
    values = rng.normal(size=(patients, len(STATISTICS)))[patient] + rng.normal(size=(len(label), len(STATISTICS)))
    answered = np.where(rng.random(len(label)) < 0.95, label, rng.integers(0, len(LABELS), len(label)))
    probabilities = np.full((len(label), len(LABELS)), 0.02)
    probabilities[np.arange(len(label)), answered] = 1 - 0.02 * (len(LABELS) - 1)
    return {
        "embedding": (embedding + shift).astype(np.float32),
        "statistics": 0.5 + 0.05 * (values + shift),
        "probabilities": probabilities,
        "label": label,
        "patient": patient,
    }


def reference() -> Reference:
    """What the model was tested on."""
    made = cells(np.random.default_rng([SEED, 0]), REFERENCE_PATIENTS, 100)
    confusion = np.zeros((len(LABELS), len(LABELS)))
    np.add.at(confusion, (made["label"], made["probabilities"].argmax(axis=1)), 1.0)
    return Reference(**made, site=("site-a",) * len(made["label"]), confusion=confusion)


def records(first: int, patients: int, each: int, shift: float = 0.0) -> Iterator[PredictionRecord]:
    """Answers about patients × each cells, one a second, the patients numbered from `first`."""
    made = cells(np.random.default_rng([SEED, 1, first]), patients, each, shift)
    answers = made["probabilities"].argmax(axis=1)
    for row in range(patients * each):
        number = first * each + row
        values = made["probabilities"][row].tolist()
        yield PredictionRecord(
            record_id=f"{number:032x}",
            time=datetime.fromtimestamp(START + number, UTC).isoformat(timespec="microseconds"),
            request_id=f"request-{number}",
            model_version=MODEL,
            runtime="onnxruntime",
            batch_size=16,
            transport="grpc",
            client="ward-1",
            test=False,
            site="site-a",
            stain="may-grünwald",
            scanner="scanner-1",
            pixel_size_um=0.15625,
            patient=f"{first + int(made['patient'][row]):032x}",
            key_id="0123456789ab",
            specimen_id="",
            image_sha256=f"{number:064x}",
            pixels_sha256=f"{number:064x}",
            label=LABELS[answers[row]],
            probabilities=dict(zip(LABELS, values, strict=True)),
            malignant_probability=1.0 - values[0],
            refer=False,
            refer_reasons=(),
            ood_score=1.0,
            embedding=tuple(made["embedding"][row].tolist()),
            statistics=dict(zip(STATISTICS, made["statistics"][row].tolist(), strict=True)),
            latency_ms={"decode": 1.0, "compute": 3.0, "total": 5.0},
            pixels_kept=False,
        )


def fill(url: str, rows: int, each: int, shift: float) -> dict[str, Any]:
    """Answers into an empty store, as the shipper writes them."""
    store, begun, patients = Store(url), time.perf_counter(), rows // each
    step = max(1, INSERTED // each)
    for first in range(0, patients, step):
        store.insert_predictions(records(first, min(step, patients - first), each, shift))
    fill_s = time.perf_counter() - begun
    if url.startswith("postgresql"):
        with Database(url).write() as connection:
            connection.execute(text("ANALYZE predictions"))  # autovacuum does it, but not at once
    return {"fill_s": fill_s, "rows": store.count()}


def read(url: str, rows: int) -> Window:
    """The store's first `rows` answers as the monitor reads them: pages, cut by a rule that wants so many cells."""
    store, after, windows = Store(url), 0, Tumbling(MODEL, min_cells=rows, min_patients=10, max_age_s=1e12)
    while True:
        page = store.cells(MODEL, after_seq=after, limit=PAGE)
        for window in windows.add(page):
            return window
        if not len(page):
            raise SystemExit(f"{url} has fewer than {rows} answers")
        after = int(page.seq[-1])


def judged(url: str, rows: int) -> dict[str, Any]:
    """Seconds to read and to judge, peak memory, and what was found."""
    begun = time.perf_counter()
    window = read(url, rows)
    done = time.perf_counter()
    held = reference()
    ready = time.perf_counter()
    findings = judge(window, held, JudgeSettings(), SEED, labels=LABELS)
    judge_s = time.perf_counter() - ready
    return {
        "read_s": done - begun,
        "judge_s": judge_s,
        "sketch_s": _sketch(held),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "patients": window.patients,
        "findings": [_shown(finding) for finding in findings if finding.family in ("covariate", "label_shift")],
    }


def evidently(url: str, rows: int) -> dict[str, Any]:
    """Evidently's preset on the same cells and the same reference; scipy's own figures of the same columns."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset
    from scipy import stats

    window, held, rng = read(url, rows).columns, reference(), np.random.default_rng([SEED, 2])
    names = [f"embedding {number}" for number in range(SIZE)] + list(STATISTICS)
    padding = [f"padding {number}" for number in range(PADDING)]
    ours, past = (
        np.column_stack([part.embedding, part.statistics, rng.normal(size=(len(part.embedding), PADDING))])
        for part in (window, held)
    )
    current, before = (pd.DataFrame(table, columns=names + padding) for table in (ours, past))
    definition = DataDefinition(numerical_columns=names + padding)
    begun = time.perf_counter()
    snapshot = Report([DataDriftPreset()]).run(
        Dataset.from_pandas(current, data_definition=definition),
        Dataset.from_pandas(before, data_definition=definition),
    )
    metrics = snapshot.dict()["metrics"]
    wall_s = time.perf_counter() - begun
    found = {
        m["config"]["column"]: (m["config"]["method"], float(m["value"])) for m in metrics if "column" in m["config"]
    }
    largest, shown = 0.0, ""
    for number, name in enumerate(names):
        shown, value = found[name]
        here, there = ours[:, number], past[:, number]
        if shown.startswith("Wasserstein"):
            same = stats.wasserstein_distance(there, here) / max(float(there.std()), 0.001)
        else:
            same = stats.ks_2samp(there, here).pvalue
        largest = max(largest, abs(float(same) - value))
    count = next(m["value"] for m in metrics if m["metric_name"].startswith("DriftedColumnsCount"))
    return {
        "evidently_s": wall_s,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "method": shown,
        "largest_difference": largest,
        "drifted_columns": int(count["count"]),
        "columns": len(names + padding),
    }


def _sketch(held: Reference) -> float:
    """Seconds that a sketch of the reference, made once, could save of a window: its sums are its part of judging."""
    begun = time.perf_counter()
    whole = np.ones(len(held.label), dtype=np.bool_)
    answer = held.probabilities.argmax(axis=1)
    for values in (held.embedding, held.statistics):
        moments([(values, whole)], held.patient, answer)
    return time.perf_counter() - begun


def _shown(finding: Finding) -> dict[str, Any]:
    figure = None if finding.figure is None else round(finding.figure, 3)
    return {"name": finding.name, "state": finding.state, "figure": figure, "threshold": finding.threshold}


def main(argv: list[str] | None = None) -> int:
    """One part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.monitoring_parts")
    parser.add_argument("part", choices=("fill", "judged", "evidently"))
    parser.add_argument("url")
    parser.add_argument("rows", type=int)
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--shift", type=float, default=0.0)
    arguments = parser.parse_args(argv)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    match arguments.part:
        case "fill":
            found = fill(arguments.url, arguments.rows, arguments.each, arguments.shift)
        case "judged":
            found = judged(arguments.url, arguments.rows)
        case _:
            found = evidently(arguments.url, arguments.rows)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
