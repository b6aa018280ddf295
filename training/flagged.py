"""How many pictures that no answer should be given for are flagged, and how many cells wrongly are."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

FLAGGED = 0.95
"""Of each kind at least , whatever fault it has."""
FALSE_FLAGS = 0.05
"""Of test cells at most."""

Scores = npt.NDArray[np.float32]


def flagged(
    cells: Scores, strange: Mapping[str, tuple[Scores, npt.NDArray[np.str_]]], threshold: float
) -> dict[str, Any]:
    """Shares above the threshold: of test cells [n], and of each kind's pictures with their variants, both [m]."""
    false = float((cells > threshold).mean())
    kinds = {
        kind: {
            "flagged": round(float((scores > threshold).mean()), 6),
            "pictures": len(scores),
            "met": bool((scores > threshold).mean() >= FLAGGED),
            "variants": {
                name: round(float((scores[variant == name] > threshold).mean()), 6)
                for name in dict.fromkeys(variant.tolist())
            },
        }
        for kind, (scores, variant) in strange.items()
    }
    return {
        "threshold": threshold,
        "false_flags": round(false, 6),
        "cells": len(cells),
        "required": {"flagged": FLAGGED, "false_flags": FALSE_FLAGS},
        "kinds": kinds,
        "met": bool(false <= FALSE_FLAGS and all(kind["met"] for kind in kinds.values())),
    }
