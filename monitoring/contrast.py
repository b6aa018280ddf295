"""Two groups of patients held against each other, with what else differs between them held fixed.

The model is y = Z γ + g β + e over patients: y a summary, Z the patient's case mix, g one for the window's patients.
The effect β is a sum a'y over patients, whose a sees no Z. Its p is by permutation under nuisance variables:
residuals of the reduced model are correlated and of unequal variance, so they are first turned into n − rank(Z)
combinations of patients that are neither (Huh and Jhun 2001; compared with others in Winkler et al. 2014, NeuroImage
92), and these are permuted.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg
from scipy.linalg import lapack

from monitoring.resampling import Permutations, bootstrap_sums, percentile_interval

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_TINY = 1e-12
_EXACT = 1e-6
_GATHERED = 1 << 21  # numbers of permuted directions at a time: bounds their memory


@dataclass(frozen=True, eq=False)
class Summary:
    """One value a patient: [P, d], with a variance between patients plus `sampling` [d] × `noise` [P] from few cells.

    usable [P]: whether the patient has it.
    """

    value: Floats
    noise: Floats
    sampling: Floats
    usable: Flags


@dataclass(frozen=True, eq=False)
class Comparison:
    """Window against reference, one summary.

    p            of no effect, by permutation
    effect       Mahalanobis length of β in standard deviations of a patient's summary, its square without bias: 0 is
                 typical of no effect however many dimensions there are
    interval     of the effect, by bootstrap of the patients in each group
    change       β itself [d], in the summary's unit
    deviation    the standard deviations [d] it was measured in
    comparable   share of the information that is left once case mix and weights are accounted for, 0 … 1
    """

    p: float
    effect: float
    interval: tuple[float, float]
    change: Floats
    deviation: Floats
    comparable: float


def compare(
    summary: Summary,
    mix: Floats,
    window: Flags,
    weight: Floats,
    *,
    orders: Permutations,
    bootstraps: int,
    confidence: float,
    rng: np.random.Generator,
) -> Comparison:
    """Compare the window's patients [P] with the others, their mix [P, C] held fixed; weight [P] of each patient.

    Needs more usable patients than classes, of both groups. Where the mix alone tells the groups apart nothing can be
    compared: p is 1 and `comparable` 0.
    """
    usable = summary.usable
    design = mix[usable][:, mix[usable].any(axis=0)]
    group = window[usable].astype(np.float64)
    precision, scale = _precision(summary, design, group)
    root = np.sqrt(precision)
    rows = root[:, None] * summary.value[usable] / scale  # equal variances now: [n, d]
    weights = _weights(design, group, precision * weight[usable])  # a, so that β = a'y
    if abs(float(weights @ group) - 1.0) > _EXACT:  # the mix alone says which group a patient is of
        nothing = np.zeros(summary.value.shape[1])
        return Comparison(1.0, 0.0, (0.0, 0.0), nothing, scale, 0.0)
    contrast = weights / root  # the same for `rows`

    rest = Complement(root[:, None] * design)
    turned = rest.into(rows)
    white = turned @ whitener(turned)
    direction = rest.into(contrast[:, None])[:, 0]
    observed = float(((direction @ white) ** 2).sum())
    null = _permuted(direction, white, orders.of(len(direction)))
    # Ties count as extreme, also those that rounding made.
    p = (1 + int((null >= observed * (1 - 1e-9)).sum())) / (len(null) + 1)

    residual = Complement(root[:, None] * np.column_stack([design, group]))
    free = residual.into(rows)  # within both groups: [n − rank, d]
    unit = whitener(free)
    effect = contrast @ rows @ unit
    errors = residual.back(free) @ unit * np.sqrt(len(rows) / len(free))  # residuals are smaller than errors
    bias = float((contrast**2).sum() * ((free @ unit) ** 2).sum() / len(free))
    pulls = contrast[:, None] * errors
    draws = effect - pulls.sum(axis=0)
    for members in (group == 1, group == 0):
        draws = draws + bootstrap_sums(rng, pulls[members], bootstraps)
    # A draw carries the noise of the estimate and its own; the deviations that are its unit are estimated as well.
    known = np.sqrt(rng.chisquare(len(free), size=bootstraps) / len(free))
    lengths = known * np.sqrt(np.maximum((draws**2).sum(axis=1) - 2.0 * bias, 0.0))
    plain = _weights(np.ones((len(group), 1)), group, precision) / root
    return Comparison(
        p=p,
        effect=float(np.sqrt(max(float((effect**2).sum()) - bias, 0.0))),
        interval=percentile_interval(lengths, confidence),
        change=(contrast @ rows) * scale,
        deviation=scale * np.sqrt((free**2).sum(axis=0) / len(free)),
        comparable=float(min(1.0, (plain**2).sum() / max(float((contrast**2).sum()), _TINY))),
    )


def whitener(rows: Floats) -> Floats:
    """rows [n, d] of mean zero → [d, d] that turns them into about uncorrelated ones of variance one.

    The correlations are shrunk towards none by the estimate of Ledoit and Wolf (2004): there may be more dimensions
    than patients.
    """
    n, d = rows.shape
    deviation = np.sqrt(np.maximum((rows**2).sum(axis=0) / n, _TINY))
    if d == 1:
        return np.asarray(1.0 / deviation[:, None])
    unit = rows / deviation
    correlation = unit.T @ unit / n
    squared = unit**2
    distance = float(((correlation - np.eye(d)) ** 2).sum())
    error = float((squared.T @ squared / n - correlation**2).sum() / n)
    shrinkage = min(1.0, error / max(distance, _TINY))
    values, vectors = np.linalg.eigh((1.0 - shrinkage) * correlation + shrinkage * np.eye(d))
    return np.asarray(vectors / np.sqrt(np.maximum(values, 1e-9)) / deviation[:, None])


def _precision(summary: Summary, design: Floats, group: Floats) -> tuple[Floats, Floats]:
    """How much each patient's summary tells [n], one for the window's typical patient; and a scale of each dimension
    [d].

    One-way random effects by moments: the residual variance is that between patients plus the sampling noise.
    """
    value, noise = summary.value[summary.usable], summary.noise[summary.usable]
    residual = Complement(design).into(value)
    variance = (residual**2).sum(axis=0) / len(residual)
    scale = np.sqrt(np.where(variance > _TINY, variance, 1.0))
    sampling = float((summary.sampling / scale**2).mean())
    between = max(float((variance / scale**2).mean()) - sampling * float(noise.mean()), 0.0)
    total = np.maximum(between + sampling * noise, _TINY)
    return (between + sampling * float(np.median(noise[group == 1]))) / total, scale


def _weights(design: Floats, group: Floats, weight: Floats) -> Floats:
    """a [n] of the weighted least-squares estimate a'y of the group's effect; zero where weight is."""
    root = np.sqrt(weight)
    left = group - design @ (np.linalg.pinv(root[:, None] * design) @ (root * group))
    return np.asarray(weight * left / max(float((weight * left**2).sum()), _TINY))


def _permuted(direction: Floats, white: Floats, orders: npt.NDArray[np.unsignedinteger]) -> Floats:
    """Squared lengths of direction'white [B] with the direction [n] in each of the orders [B, n]; white [n, d]."""
    together = max(1, _GATHERED // len(direction))
    return np.concatenate(
        [
            ((direction[orders[start : start + together]] @ white) ** 2).sum(axis=1)
            for start in range(0, len(orders), together)
        ]
    )


class Complement:
    """What the columns [n, k] of a design leave: an orthonormal basis of n − rank vectors, which is never written down.

    It is the end of the Q of a QR decomposition, kept as k reflections: with all patients of a large window the basis
    itself would be too much for memory.
    """

    def __init__(self, design: Floats) -> None:
        (self._reflections, self._factors), upper, _ = linalg.qr(design, mode="raw", pivoting=True)
        size = np.abs(np.diag(upper))
        self._rank = int((size > 1e-9 * size.max()).sum())

    def into(self, values: Floats) -> Floats:
        """Coordinates along the basis: [n, d] → [n − rank, d]."""
        return self._turn(values, "T")[self._rank :]

    def back(self, coordinates: Floats) -> Floats:
        """The vectors with these coordinates: [n − rank, d] → [n, d]."""
        return self._turn(np.concatenate([np.zeros((self._rank, coordinates.shape[1])), coordinates]), "N")

    def _turn(self, values: Floats, transposed: str) -> Floats:
        room = 64 * values.shape[1]  # enough for LAPACK to work in blocks
        turned, _, failed = lapack.dormqr("L", transposed, self._reflections, self._factors, values, room)
        if failed:
            raise np.linalg.LinAlgError(f"dormqr: argument {-failed}")
        return np.asarray(turned)
