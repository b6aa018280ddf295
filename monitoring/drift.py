"""Covariate shift: have the cells of a class changed? Patients against patients, whatever the case mix.

Each patient gives one summary a question: the mean of the embedding, how much the patient's cells differ in it, the
mean of each image statistic. Cells out of distribution are among them: a new scanner makes many. The window's
patients are held against the reference's in a linear model with the patient's shares of the answers as covariates
(contrast.py). If only the case mix changed, a patient's mean is linear in these shares (x̄ = M π and f = A π, so x̄ =
M A⁻¹ f, whatever the priors): what is left between window and reference is a change of the cells. Where a label shift
was found, the reference's patients are also reweighted to the window's shares, so that a class they have in common
counts for what it is in the window: weighting and regression guard each other (Bang and Robins 2005). Where none was
found the weights stay one: shares estimated from twenty patients would correct nothing and cost power. Where it is
unknown, `drift` must hold with and without them.

Not to be told apart from label shift: a change that moves cells of one class exactly onto another one. Only reviews
show it.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import special

from monitoring.contrast import Comparison, Summary, compare
from monitoring.evidence import evidence
from monitoring.findings import Finding, insufficient, judged
from monitoring.judge_settings import JudgeSettings
from monitoring.moments import Moments, moments
from monitoring.resampling import Permutations, benjamini_hochberg, ordinals, patient_counts, permutation_count
from monitoring.window import NO_PATIENT, WindowArrays
from service.contract.reference import Reference
from service.contract.statistics import STATISTICS

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

EMBEDDING, SPREAD = "embedding", "embedding_spread"
NAMES = (EMBEDDING, SPREAD, *STATISTICS)


def covariate(
    window: WindowArrays,
    reference: Reference,
    label_shift: Finding,
    shares: Floats | None,
    settings: JudgeSettings,
    rng: np.random.Generator,
) -> list[Finding]:
    """Judge the cells → findings named NAMES; `label_shift` and `shares` [C] are what shift.label_shift says.

    figure: length of the change in standard deviations of a patient's summary, without bias. One family: Benjamini and
    Hochberg at q, in which the embedding, all that the model reads of a cell, has a weight of its own (Genovese,
    Roeder and Wasserman 2006). `unknown` when the reference has too few patients or the window hardly shares a class
    with it.
    """
    mine = window.patient != NO_PATIENT
    # The embeddings are read where they are: a copy of a large window's would be most of the memory.
    cells = replace(window, embedding=window.embedding[:, :0]).with_patient()
    patients = cells.patients
    floor = settings.covariate_floor
    if patients < settings.min_patients:
        why = "too few patients"
        return [insufficient(name, "covariate", len(cells), patients, why, floor) for name in NAMES]
    known = reference.patient != NO_PATIENT
    if len(np.unique(reference.patient[known])) < settings.min_reference_patients:
        return [_unknown(name, len(cells), patients, "the reference has too few patients", floor) for name in NAMES]

    index, new = _pool(cells.patient, reference.patient[known])
    answer = np.concatenate([cells.predicted, reference.probabilities[known].argmax(axis=1)])
    counts = patient_counts(index, answer, len(new), reference.classes)
    mix = counts / counts.sum(axis=1, keepdims=True)
    summaries = {
        **_embedding(moments([(window.embedding, mine), (reference.embedding, known)], index, answer), settings),
        **_statistics(moments([(window.statistics, mine), (reference.statistics, known)], index, answer)),
    }
    tested = {name: item for name, item in summaries.items() if _enough(item.usable, new, settings)}
    weights = [np.ones(len(new))]
    if shares is not None and label_shift.state != "ok":
        reweighted = np.concatenate([np.ones(patients), _weights(reference, known, shares, settings.max_weight)])
        weights = [reweighted] if label_shift.state == "drift" else [*weights, reweighted]

    count = permutation_count(settings.permutations_per_hypothesis, len(tested), settings.q)
    orders = Permutations(rng, count)
    found: dict[str, list[Comparison]] = {
        name: [
            compare(
                item,
                mix,
                new,
                weight,
                orders=orders,
                bootstraps=settings.bootstraps,
                confidence=settings.confidence,
                rng=rng,
            )
            for weight in weights
        ]
        for name, item in tested.items()
    }
    p = np.array([max(one.p for one in both) for both in found.values()])
    adjusted = dict(zip(found, benjamini_hochberg(p / _importance(list(found), settings)), strict=True))
    findings = []
    for name in NAMES:
        if name not in found:
            why = "too few patients with enough cells"
            findings.append(insufficient(name, "covariate", len(cells), patients, why, floor))
        elif min(one.comparable for one in found[name]) < settings.min_comparable:
            why = "window and reference hardly have a class in common"
            findings.append(_unknown(name, len(cells), patients, why, floor))
        else:
            usable = int((summaries[name].usable & new).sum())
            findings.append(_finding(name, found[name], float(adjusted[name]), len(cells), usable, settings))
    return findings


def _finding(
    name: str, found: list[Comparison], adjusted: float, cells: int, patients: int, settings: JudgeSettings
) -> Finding:
    weakest = min(found, key=lambda one: one.effect)
    sure = evidence(adjusted, settings.q)
    effect = weakest.effect / settings.covariate_floor if settings.covariate_floor > 0 else sure
    detail: dict[str, object] = {
        "p": max(one.p for one in found),
        "p_adjusted": adjusted,
        "comparable": round(min(one.comparable for one in found), 4),
    }
    if len(weakest.change) == 1:
        detail |= {"change": float(weakest.change[0]), "patient_sd": float(weakest.deviation[0])}
    return judged(
        name,
        "covariate",
        severity=min(effect, sure),
        figure=weakest.effect,
        interval=weakest.interval,
        threshold=settings.covariate_floor,
        cells=cells,
        patients=patients,
        detail=detail,
    )


def _pool(window: Integers, reference: Integers) -> tuple[Integers, Flags]:
    """Patient ordinals of all cells, the window's first [n]; and which patients are the window's [P]."""
    first, here = ordinals(window)
    second, there = ordinals(reference)
    return np.concatenate([first, second + here]), np.arange(here + there) < here


def _means(found: Moments, columns: slice) -> Summary:
    usable = np.ones(len(found.sizes), dtype=np.bool_)
    return Summary(found.mean[:, columns], 1.0 / found.sizes, found.variance[columns], usable)


def _embedding(found: Moments, settings: JudgeSettings) -> dict[str, Summary]:
    """The patients' means, and half the logarithm of their cells' variance over the dimensions (the log of a
    deviation).

    The logarithm of an estimated variance is too small by ln(k/2) − ψ(k/2) with k degrees of freedom, and has
    variance ψ′(k/2) (Bartlett and Kendall 1946); correlated dimensions count as (Σλ)²/Σλ² ones.
    """
    sizes, deviation = found.sizes, np.sqrt(found.variance)
    correlation = found.cross / np.outer(deviation, deviation) / sizes.sum()
    # At least one: where no patient has two cells there is nothing to see, and no spread is usable.
    dimensions = max(1.0, float(np.trace(correlation) ** 2 / max(float((correlation**2).sum()), 1e-24)))
    half = np.maximum(sizes - 1, 1) * dimensions / 2.0
    spread = (found.squares / found.variance).mean(axis=1) / np.maximum(sizes - 1, 1)
    log = np.log(np.maximum(spread, 1e-12)) - (special.digamma(half) - np.log(half))
    usable = sizes >= settings.min_spread_cells
    return {
        EMBEDDING: _means(found, slice(None)),
        SPREAD: Summary(log[:, None] / 2.0, special.polygamma(1, half) / 4.0, np.ones(1), usable),
    }


def _statistics(found: Moments) -> dict[str, Summary]:
    return {name: _means(found, slice(column, column + 1)) for column, name in enumerate(STATISTICS)}


def _enough(usable: Flags, new: Flags, settings: JudgeSettings) -> bool:
    here, there = int((usable & new).sum()), int((usable & ~new).sum())
    return here >= settings.min_patients and there >= settings.min_reference_patients


def _weights(reference: Reference, known: Flags, shares: Floats, most: float) -> Floats:
    """What a reference patient counts for so that the labels have the window's shares [C]: [P], 1 on average."""
    index, patients = ordinals(reference.patient[known])
    counts = patient_counts(index, reference.label[known], patients, reference.classes)
    mix = counts / counts.sum(axis=1, keepdims=True)
    before = mix.mean(axis=0)
    weight = mix @ np.where(before > 0, shares / np.maximum(before, 1e-12), 0.0)
    return np.asarray(np.minimum(weight, most))


def _importance(names: list[str], settings: JudgeSettings) -> Floats:
    """Weights of the hypotheses, 1 on average."""
    others = [name for name in names if name != EMBEDDING]
    if len(others) == len(names) or not others:
        return np.ones(len(names))
    rest = (1.0 - settings.embedding_weight) / len(others)
    shares = [settings.embedding_weight if name == EMBEDDING else rest for name in names]
    return np.array(shares) * len(names)


def _unknown(name: str, cells: int, patients: int, why: str, floor: float) -> Finding:
    return Finding(name, "covariate", "unknown", None, None, floor, cells, patients, {"why": why})
