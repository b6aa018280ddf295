"""Class imbalance: has the window become too one-sided to learn from, or to be what was agreed?

Shares of the answers, of cells that are not out of distribution, against bounds relative to the reference's answers:
a class of 1.5 % is what childhood leukemia looks like. A bound counts as passed when the interval is beyond it; the
cells of a patient count as one observation there, so that a rare class which none of twenty patients has is not
called gone.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from monitoring.findings import Finding, insufficient, judged
from monitoring.judge_settings import JudgeSettings
from monitoring.resampling import bootstrap_sums, effective, ordinals, patient_counts, percentile_interval
from monitoring.window import WindowArrays
from service.contract.reference import Reference

Floats = npt.NDArray[np.float64]

SMALLEST, RATIO, ENTROPY = "smallest_share", "ratio_of_extremes", "normalised_entropy"
NAMES = (SMALLEST, RATIO, ENTROPY)


def imbalance(
    window: WindowArrays,
    reference: Reference,
    settings: JudgeSettings,
    rng: np.random.Generator,
    labels: Sequence[str],
) -> list[Finding]:
    """Judge the window's shares → findings named NAMES.

    smallest_share      share of the rarest class; bound below
    ratio_of_extremes   commonest over rarest class, half a cell added to each; bound above
    normalised_entropy  −Σ p ln p / ln C: 1 for equal shares, 0 for one class; bound below
    """
    kept = window.take(~window.ood).with_patient()
    cells, patients, classes = len(kept), kept.patients, reference.classes
    if patients < settings.min_patients:
        return [insufficient(name, "imbalance", cells, patients, "too few patients") for name in NAMES]
    index, _ = ordinals(kept.patient)
    counts = patient_counts(index, kept.predicted, patients, classes)
    total = counts.sum(axis=0)
    answers = reference.probabilities.argmax(axis=1)
    before: Floats = np.bincount(answers, weights=reference.case_weight, minlength=classes).astype(np.float64)
    low, high = _share_intervals(counts, settings.confidence)
    drawn = bootstrap_sums(rng, counts, settings.bootstraps)
    # One more patient, who is like the reference: without it a window of one class would be certain of itself.
    drawn += before / before.sum() * cells / patients
    share = total / cells
    rarest, commonest = int(total.argmin()), int(total.argmax())
    detail = {
        "rarest": labels[rarest],
        "commonest": labels[commonest],
        "shares": {label: round(float(one), 4) for label, one in zip(labels, share, strict=True)},
    }

    def found(name: str, figure: float, interval: tuple[float, float], threshold: float, severity: float) -> Finding:
        return judged(
            name,
            "imbalance",
            severity=severity,
            figure=figure,
            interval=interval,
            threshold=threshold,
            cells=cells,
            patients=patients,
            detail=dict(detail),
        )

    least = settings.smallest_share_factor * float(before.min() / before.sum())
    most = settings.extremes_factor * _ratio(before)
    lowest = settings.entropy_factor * float(entropy(before))
    extremes = (float(low[commonest] / high[rarest]), float(high[commonest] / max(low[rarest], 0.5 / cells)))
    evenness = percentile_interval(entropy(drawn), settings.confidence)
    return [
        found(SMALLEST, float(share[rarest]), (float(low[rarest]), float(high[rarest])), least, least / high[rarest]),
        found(RATIO, _ratio(total), extremes, most, extremes[0] / most),
        found(ENTROPY, float(entropy(total)), evenness, lowest, lowest / max(evenness[1], 1e-12)),
    ]


def entropy(counts: Floats) -> Floats:
    """counts [..., C] → normalised entropy [...].

    >>> entropy(np.array([[5.0, 5.0], [7.0, 0.0]])).tolist()
    [1.0, 0.0]
    """
    share = counts / counts.sum(axis=-1, keepdims=True)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return np.asarray(np.abs((share * logs).sum(axis=-1)) / np.log(counts.shape[-1]))


def _ratio(counts: Floats) -> float:
    return float((counts.max() + 0.5) / (counts.min() + 0.5))


def _share_intervals(counts: Floats, confidence: float) -> tuple[Floats, Floats]:
    """Intervals of the shares, low [C] and high [C], from the patients' counts [P, C].

    Clopper and Pearson's, with the effective number of patients as n (Korn and Graubard 1998).
    """
    tail = (1.0 - confidence) / 2.0
    n = effective(counts.sum(axis=1))
    seen = counts.sum(axis=0) / counts.sum() * n
    low = np.where(seen > 0, stats.beta.ppf(tail, np.maximum(seen, 1e-12), n - seen + 1.0), 0.0)
    high = np.where(seen < n, stats.beta.isf(tail, seen + 1.0, np.maximum(n - seen, 1e-12)), 1.0)
    return low, high
