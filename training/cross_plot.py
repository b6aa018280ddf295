"""The picture of a cross-validation: every fold as a dot, the mean and its interval beside them."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from service.contract.files import write_atomic

SHOWN = {"accuracy": "accuracy", "balanced_accuracy": "balanced\naccuracy", "macro_f1": "macro F1"}


def draw(path: Path, found: Mapping[str, Any]) -> None:
    """Write the PNG of reports/cross_validation.json's content."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    rng = np.random.default_rng(0)  # dots beside each other, not over each other
    for place, name in enumerate(SHOWN):
        values = [fold[name] for fold in found["per_fold"] if fold[name] is not None]
        axes.scatter(place - 0.12 + 0.1 * rng.random(len(values)), values, s=14, alpha=0.5, color="#0072B2")
        low, high = found["intervals"][name]
        mean = found["mean"][name]
        axes.errorbar(
            place + 0.15, mean, yerr=[[max(0.0, mean - low)], [max(0.0, high - mean)]], fmt="D", capsize=4,
            color="#D55E00",
        )  # fmt: skip
        axes.annotate(f"{mean:.3f}", (place + 0.22, mean), va="center", fontsize=9)
    axes.set_xticks(range(len(SHOWN)), list(SHOWN.values()))
    axes.set_xlim(-0.5, len(SHOWN) - 0.35)
    axes.set_title(
        f"{found['repeats']} × {found['folds']} folds, {found['cells']} cells of {found['units']} units\n"
        "dots: folds; diamonds: mean over repeats, 95 % interval over units",
        fontsize=10,
    )
    axes.grid(axis="y", alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())
