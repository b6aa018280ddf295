"""The shortcut audit: one forest for each thing that could give the label away without a cell, beside the network."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from training import bootstrap, figures
from training.figures import Floats, Integers

WHAT = {
    "colour": "mean and standard deviation of red, green and blue",
    "cell size": "areas of the cell and its nucleus",
    "border pixels": "the outermost of 16 × 16 places, without the cell",
    "image size": "width, height and aspect of the source's picture",
    "file size": "bytes of the source's file",
}


def audit(
    forests: Mapping[str, Integers | None],
    label: Integers,
    called: Integers,
    classes: int,
    weight: npt.NDArray[np.float32],
) -> dict[str, Any]:
    """reports/shortcuts.json: balanced accuracy of each forest and how much better the network is, with intervals.

    Args:
        forests: what each calls the test cells, [n]; None where what it needs is not known.
        label: true label [n].
        called: what the network calls each cell, [n].
        classes: number of labels; chance is one over the number of those that have cells.
        weight: resamplings of patients [draws, n], the same for all, so that differences are of the same patients.
    """
    ours, ours_drawn = _balanced(label, called, classes, weight)
    rows: dict[str, dict[str, Any]] = {}
    for name, theirs in forests.items():
        if theirs is None:
            rows[name] = {"state": "not available", "what": WHAT[name], "reason": "the manifest does not have it"}
            continue
        value, drawn = _balanced(label, theirs, classes, weight)
        difference = _ends(ours_drawn - drawn)
        rows[name] = {
            "state": "measured",
            "what": WHAT[name],
            "balanced_accuracy": round(value, 6),
            "interval": _ends(drawn),
            "network_minus": round(ours - value, 6),
            "network_minus_interval": difference,
            "network_is_better": bool(difference is not None and difference[0] > 0),
        }
    return {
        "network": {"balanced_accuracy": round(ours, 6), "interval": _ends(ours_drawn)},
        "chance": round(1 / len(np.unique(label)), 6),
        "forests": rows,
    }


def _balanced(label: Integers, called: Integers, classes: int, weight: npt.NDArray[np.float32]) -> tuple[float, Floats]:
    plain = figures.balanced_accuracy(figures.confusion_matrix(label, called, classes))
    return float(plain), figures.balanced_accuracy(bootstrap.confusions(weight, label, called, classes))


def _ends(draws: Floats) -> list[float] | None:
    found = bootstrap.interval(draws)
    return None if found is None else [round(end, 6) for end in found]
