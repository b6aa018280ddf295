"""Label shift: has the case mix changed? Black-box shift estimation from the answers.

The method is that of Lipton et al. 2018, arXiv 1802.03916: if only the shares p of the labels change, the shares q of
the answers obey q = A p with A = P(answer | label), which the reference's confusion matrix shows. The change of p is
held against what patients drawn anew would give; it is drift when the interval of a class excludes no change and the
change passes a floor.
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

NAME = "label_shift"
_STEPS = 80
_TOLERANCE = 1e-6


def label_shift(
    window: WindowArrays,
    reference: Reference,
    settings: JudgeSettings,
    rng: np.random.Generator,
    labels: Sequence[str],
) -> tuple[Finding, Floats | None]:
    """Judge the case mix → finding, and the window's shares [C] (None where they cannot be estimated).

    figure: the change of one class's share, in absolute terms, of the class that speaks loudest; interval:
    simultaneous over the classes. Uses every cell with a patient that is not out of distribution, the referred ones
    included: an OOD cell's label means nothing, while leaving out the referred ones would leave out the hard classes.
    `unknown` when the confusion matrix cannot tell the classes apart, and for a reference of too few patients.
    """
    kept = window.take(~window.ood).with_patient()
    patients = kept.patients
    if patients < settings.min_patients:
        return insufficient(NAME, "label_shift", len(kept), patients, "too few patients with known-looking cells"), None
    labelled = reference.confusion.sum(axis=1)
    known = reference.patient >= 0
    if labelled.min() == 0:
        absent = ", ".join(label for label, cells in zip(labels, labelled, strict=True) if cells == 0)
        return _unknown(kept, f"the reference has no cell of {absent}"), None
    if len(np.unique(reference.patient[known])) < settings.min_reference_patients:
        return _unknown(kept, "the reference has too few patients"), None

    classes = reference.classes
    answers = _by_patient(kept.patient, kept.predicted, classes)  # [P, C]
    predicted = reference.probabilities.argmax(axis=1)
    crossed = _by_patient(reference.patient[known], (reference.label * classes + predicted)[known], classes * classes)
    # A model for another case mix than its reference's is held against that one.
    crossed = crossed * np.repeat(label_weight(reference), classes)
    matrix = (reference.confusion / labelled[:, None]).T  # [C answer, C label]
    before = crossed.reshape(-1, classes, classes).sum(axis=(0, 2)) / crossed.sum()
    shares = solve_shares(matrix, answers.sum(axis=0) / answers.sum())
    change = shares - before

    drawn_shares, drawn_before = _bootstrap(answers, crossed, matrix, settings.bootstraps, rng)
    spread = np.maximum(
        (drawn_shares - drawn_before).std(axis=0, ddof=1),
        _null_spread(answers, crossed.reshape(-1, classes, classes).sum(axis=1), matrix),
    )
    freedom = effective(answers.sum(axis=1)) + effective(crossed.sum(axis=1)) - 2.0
    # Bonferroni over the classes: the finding speaks of whichever of them moved.
    half = np.maximum(stats.t.isf((1.0 - settings.confidence) / (2 * classes), freedom) * spread, 1e-12)
    severity = np.minimum(np.abs(change) / settings.label_floor, np.abs(change) / half)
    loudest = int(np.lexsort((np.abs(change), severity))[-1])
    singular = float(np.linalg.svd(matrix, compute_uv=False)[-1])
    intervals = [percentile_interval(drawn_shares[:, one], settings.confidence) for one in range(classes)]
    detail = {
        "class": labels[loudest],
        "p": min(1.0, 2 * classes * float(stats.t.sf(abs(change[loudest]) / max(spread[loudest], 1e-12), freedom))),
        "shares": {label: round(float(share), 4) for label, share in zip(labels, shares, strict=True)},
        "share_intervals": {
            label: [round(low, 4), round(high, 4)] for label, (low, high) in zip(labels, intervals, strict=True)
        },
        "reference_shares": {label: round(float(share), 4) for label, share in zip(labels, before, strict=True)},
        "smallest_singular_value": round(singular, 4),
    }
    if singular < settings.min_singular_value:
        return _unknown(kept, "the confusion matrix cannot tell the classes apart", detail), shares
    size = float(abs(change[loudest]))
    finding = judged(
        NAME,
        "label_shift",
        severity=float(severity[loudest]),
        figure=size,
        interval=(size - float(half[loudest]), size + float(half[loudest])),
        threshold=settings.label_floor,
        cells=len(kept),
        patients=patients,
        detail=detail,
    )
    return finding, shares


def label_weight(reference: Reference) -> Floats:
    """[C] for how many cells one of the reference counts, by its label."""
    weight = np.zeros(reference.classes)
    weight[reference.label] = reference.case_weight
    return weight


def solve_shares(matrix: Floats, answers: Floats) -> Floats:
    """Least squares for q = A p over the simplex: A [..., C, C] (column = label), q [..., C] → p [..., C].

    Where A⁻¹ q lies in the simplex it is the answer; elsewhere accelerated projected gradient (Beck and Teboulle 2009),
    which keeps a class of which hardly any cell was seen between 0 and 1 instead of letting it go wild.
    """
    classes = answers.shape[-1]
    flat = np.broadcast_to(matrix, (*answers.shape, classes)).reshape(-1, classes, classes)
    target = answers.reshape(-1, classes, 1)
    plain = (np.linalg.pinv(flat) @ target)[..., 0]
    shares = project(plain)
    outside = plain.min(axis=1) < 0
    if outside.any():
        shares[outside] = _constrained(flat[outside], target[outside], shares[outside])
    return shares.reshape(answers.shape)


def _constrained(matrix: Floats, target: Floats, start: Floats) -> Floats:
    transposed = np.swapaxes(matrix, 1, 2)
    step = 1.0 / np.maximum(np.linalg.norm(matrix, ord=2, axis=(1, 2)) ** 2, 1e-12)[:, None]
    point, ahead, momentum = start, start, 1.0
    for _ in range(_STEPS):
        gradient = (transposed @ (matrix @ ahead[..., None] - target))[..., 0]
        following = project(ahead - step * gradient)
        if np.abs(following - point).max() < _TOLERANCE:
            return following
        faster = (1.0 + np.sqrt(1.0 + 4.0 * momentum**2)) / 2.0
        ahead = following + (momentum - 1.0) / faster * (following - point)
        point, momentum = following, faster
    return point


def project(values: Floats) -> Floats:
    """The nearest points of the simplex: [..., C] → [..., C] (Duchi et al. 2008, algorithm 1).

    >>> project(np.array([0.7, 0.5, -0.4])).round(3).tolist()
    [0.6, 0.4, 0.0]
    """
    ordered = -np.sort(-values, axis=-1)
    excess = (np.cumsum(ordered, axis=-1) - 1.0) / np.arange(1, values.shape[-1] + 1)
    last = (ordered > excess).sum(axis=-1, keepdims=True) - 1
    return np.maximum(values - np.take_along_axis(excess, last, axis=-1), 0.0)


def _by_patient(patient: npt.NDArray[np.int64], column: npt.NDArray[np.int64], width: int) -> Floats:
    index, patients = ordinals(patient)
    return patient_counts(index, column, patients, width)


def _bootstrap(
    answers: Floats, crossed: Floats, matrix: Floats, draws: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Shares of window and reference [draws, C] each, with the patients of both drawn anew.

    Half a cell a class, answered as the whole reference answers, keeps a class whose patients were not drawn from
    leaving a column of zeros.
    """
    classes = len(matrix)
    counts = bootstrap_sums(rng, answers, draws)  # [B, C]
    tables = bootstrap_sums(rng, crossed, draws).reshape(draws, classes, classes)
    labelled = tables.sum(axis=2)  # [B, C label]
    matrices = np.swapaxes((tables + 0.5 * matrix.T) / (labelled + 0.5)[..., None], 1, 2)
    shares = solve_shares(matrices, counts / counts.sum(axis=1, keepdims=True))
    return shares, labelled / labelled.sum(axis=1, keepdims=True)


def _null_spread(window: Floats, reference: Floats, matrix: Floats) -> Floats:
    """Standard errors [C] of the change of shares if there is none, from the answers [P, C] of both groups' patients.

    As in a score test the variance is that of the pooled patients: in a window that by chance holds no patient of a
    class the bootstrap alone would take that class's share for certain.
    """
    sizes = [counts.sum(axis=1) for counts in (window, reference)]
    weight = [effective(size) for size in sizes]
    means = [counts.sum(axis=0) / counts.sum() for counts in (window, reference)]
    mean = (weight[0] * means[0] + weight[1] * means[1]) / sum(weight)
    scatter = np.zeros((len(mean), len(mean)))
    for counts, size, share in zip((window, reference), sizes, weight, strict=True):
        away = counts / size[:, None] - mean
        scatter += share / sum(weight) * (away * (size / size.sum())[:, None]).T @ away
    covariance = scatter * (1.0 / weight[0] + 1.0 / weight[1])
    inverse = np.linalg.pinv(matrix)
    return np.asarray(np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", inverse, covariance, inverse), 0.0)))


def _unknown(kept: WindowArrays, why: str, detail: dict[str, object] | None = None) -> Finding:
    return Finding(
        NAME, "label_shift", "unknown", None, None, None, len(kept), kept.patients, {**(detail or {}), "why": why}
    )
