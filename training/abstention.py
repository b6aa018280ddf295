"""What referring the least sure cells costs and gains on the test set: the chosen point, with intervals, and others."""

from typing import Any

import numpy as np
import numpy.typing as npt

from training import bootstrap
from training.figures import Flags, Floats, risk_coverage

SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)


def abstention(
    confidence: Floats, correct: Flags, threshold: float, weight: npt.NDArray[np.float32], *, flagged: Flags
) -> dict[str, Any]:
    """The chosen threshold's coverage and risk with 95 % intervals, the curve at some shares, and its area.

    Args:
        confidence: largest probability of each cell, [n].
        correct: whether the answered label is the true one, [n].
        threshold: below it a cell is referred.
        weight: resamplings of patients [draws, n].
        flagged: which cells are referred as out of distribution, [n].
    """
    answered = confidence >= threshold
    _, coverage, risk = risk_coverage(confidence, correct)
    drawn = weight.astype(np.float64)
    total, given, wrong = drawn.sum(axis=1), drawn @ answered, drawn @ (answered & ~correct)
    risks = np.divide(wrong, given, out=np.full(len(given), np.nan), where=given > 0)
    kept = answered & ~flagged
    return {
        "threshold": round(float(threshold), 6),
        "coverage": _figure(float(answered.mean()), given / total),
        "risk": _figure(_share_wrong(answered, correct), risks),
        "risk_of_all": round(float((~correct).mean()), 6),
        "area_under_curve": round(float(np.trapezoid(risk, coverage)) if len(risk) > 1 else float(risk[0]), 6),
        "curve": [
            {"coverage": round(float(coverage[at]), 6), "risk": round(float(risk[at]), 6)}
            for at in dict.fromkeys(int(np.searchsorted(coverage, min(share, coverage[-1]))) for share in SHARES)
        ],
        "with_out_of_distribution": {
            "coverage": round(float(kept.mean()), 6),
            "risk": _share_wrong(kept, correct),
        },
    }


def _share_wrong(answered: Flags, correct: Flags) -> float | None:
    return round(float((~correct[answered]).mean()), 6) if answered.any() else None


def _figure(value: float | None, draws: Floats) -> dict[str, Any]:
    interval = bootstrap.interval(draws)
    return {
        "value": None if value is None else round(value, 6),
        "interval": None if interval is None else [round(end, 6) for end in interval],
    }
