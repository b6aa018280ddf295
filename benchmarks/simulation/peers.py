"""What others would have made of the same windows: a KS test a column, and Evidently's drift preset, at their defaults.

Both take cells for independent, and look at one window at a time.
"""

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks.simulation.hospital import Floats
from benchmarks.simulation.monitor import Closed
from service.contract.reference import Reference
from service.contract.statistics import STATISTICS

LEVEL = 0.05


def ks(window: Closed, reference: Reference) -> bool:
    """Whether any column differs: Kolmogorov and Smirnov's test at 5 %, by Bonferroni over the columns."""
    now, before = columns(window), reference_columns(reference)
    smallest = min(float(stats.ks_2samp(one, other).pvalue) for one, other in zip(now.T, before.T, strict=True))
    return bool(smallest < LEVEL / now.shape[1])


def evidently(window: Closed, reference: Reference) -> bool:
    """Whether DataDriftPreset calls the data set drifted: at least half of its columns, each by its default test."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    names = column_names(reference)
    about = DataDefinition(numerical_columns=names)
    frames = [
        Dataset.from_pandas(pd.DataFrame(values, columns=names), data_definition=about)
        for values in (columns(window), reference_columns(reference))
    ]
    found = Report([DataDriftPreset()]).run(*frames).dict()
    return drifted(found)


def drifted(report: dict[str, object]) -> bool:
    """Whether the count of drifted columns reached the preset's share, by the report itself."""
    for metric in report["metrics"]:  # type: ignore[attr-defined]
        if "DriftedColumnsCount" in str(metric.get("metric_name", metric.get("metric_id", ""))):
            return float(metric["value"]["share"]) >= 0.5
    raise ValueError("the report has no count of drifted columns")


def column_names(reference: Reference) -> list[str]:
    """Embedding, statistics, probabilities."""
    size, classes = reference.embedding.shape[1], reference.classes
    return [*(f"e{k}" for k in range(size)), *STATISTICS, *(f"p{k}" for k in range(classes))]


def columns(window: Closed) -> Floats:
    """[n, columns] of a window."""
    arrays = window.arrays
    return np.hstack([arrays.embedding, arrays.statistics, arrays.probabilities])


def reference_columns(reference: Reference) -> Floats:
    """[n, columns] of the reference."""
    values = [reference.embedding, reference.statistics, reference.probabilities]
    return np.hstack([np.asarray(part, dtype=np.float64) for part in values])
