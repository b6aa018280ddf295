"""Are the pictures sharp, lit and stained as the reference's were? Pure.

Covariate shift (drift.py) asks whether patients' means moved by about a standard deviation; every fifth slide out of
focus hardly moves them. Here each cell is held against the range of the reference's cells, and the share of cells
outside it is judged. The range is of all classes together, so that none needs many cells in the reference; the bound is
far above what another case mix can push over it, and what a new patient's slide is off by itself.

These findings start and ask for nothing (policy.cause_of): a fault of the optics is mended there and not learned, and a
new stain or scanner is the covariate family's to find, which must not be told twice. They have an alert of their own.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from monitoring.findings import Finding, insufficient, judged
from monitoring.judge_settings import JudgeSettings
from monitoring.resampling import bootstrap_sums, ordinals, percentile_interval, sum_by
from monitoring.window import NO_PATIENT, WindowArrays
from service.contract.reference import Reference
from service.contract.statistics import STATISTICS

Flags = npt.NDArray[np.bool_]

BLURRED, EXPOSURE, FADED = "blurred", "exposure", "stain_faded"
NAMES = (BLURRED, EXPOSURE, FADED)

_READ: Final[dict[str, tuple[str, bool]]] = {  # the statistic, and whether too much of it counts as too little does
    BLURRED: ("sharpness", False),
    EXPOSURE: ("brightness", True),
    FADED: ("saturation", False),
}


def picture_quality(
    window: WindowArrays, reference: Reference, settings: JudgeSettings, rng: np.random.Generator
) -> list[Finding]:
    """Judge the window's pictures → findings named NAMES.

    figure: the share of cells with a patient whose statistic lies below the `picture_tail` quantile of the reference's
    cells; of brightness above the opposite one, too. Drift when the interval, the window's patients drawn anew and the
    range held fixed, lies above `max_share_outside`. `unknown` when the reference has too few patients.
    """
    cells = window.with_patient()
    patients, most = cells.patients, settings.max_share_outside
    if patients < settings.min_patients:
        return [insufficient(name, "quality", len(cells), patients, "too few patients", most) for name in NAMES]
    known = reference.patient != NO_PATIENT
    if len(np.unique(reference.patient[known])) < settings.min_reference_patients:
        why = {"why": "the reference has too few patients"}
        return [Finding(name, "quality", "unknown", None, None, most, len(cells), patients, why) for name in NAMES]
    # In the reference's float32: a cell at the edge of the range shall not fall out of it by rounding.
    values = cells.statistics.astype(np.float32)
    low, high = np.quantile(reference.statistics[known], [settings.picture_tail, 1 - settings.picture_tail], axis=0)
    index, _ = ordinals(cells.patient)
    findings = []
    for name, (statistic, both) in _READ.items():
        column = STATISTICS.index(statistic)
        below: Flags = values[:, column] < np.float32(low[column])
        above: Flags = values[:, column] > np.float32(high[column])
        outside = (below | above if both else below).astype(np.float64)
        sums = bootstrap_sums(rng, sum_by(np.column_stack([outside, np.ones(len(cells))]), index), settings.bootstraps)
        interval = percentile_interval(sums[:, 0] / sums[:, 1], settings.confidence)
        findings.append(
            judged(
                name,
                "quality",
                severity=interval[0] / most,
                figure=float(outside.mean()),
                interval=interval,
                threshold=most,
                cells=len(cells),
                patients=patients,
                detail={
                    "statistic": statistic,
                    "range": [round(float(low[column]), 4), round(float(high[column]), 4)],
                    "below": round(float(below.mean()), 4),
                    "above": round(float(above.mean()), 4),
                },
            )
        )
    return findings
