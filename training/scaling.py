"""Logits to probabilities: one temperature for all classes, or a scale and a shift for each where that is worth it.

Both are fitted on the validation cells by negative log-likelihood (Guo et al., arXiv 1706.04599, sections 4.1 and 4.2).
Vector scaling has 2·C numbers to a temperature's one and can change which label is answered, so it is taken only where
cells that it was not fitted on say that it is better.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar

from service.contract.errors import ConfigError
from training.calibration import Singles, negative_log_likelihood, softmax
from training.figures import Floats, Integers
from training.folds import folds

FOLDS = 5
_PULL = 1e-3  # towards the temperature, in nats: a class that is always right would have its scale grow for ever


@dataclass(frozen=True, eq=False)
class Vector:
    """Class k's logit becomes scale[k] · logit + shift[k]; both [C]."""

    scale: Singles
    shift: Singles

    def __call__(self, logits: Floats) -> Floats:
        """[n, C] → [n, C]."""
        scaled: Floats = logits * self.scale.astype(np.float64) + self.shift.astype(np.float64)
        return scaled


@dataclass(frozen=True)
class Comparison:
    """Negative log-likelihood, in nats a cell, of cells that were not fitted on; None when there are too few."""

    temperature: float
    vector: float

    @property
    def vector_is_better(self) -> bool:
        """Whether vector scaling pays."""
        return self.vector < self.temperature


def moved(vector: Vector, by: Floats) -> Vector:
    """The same with `by` [C] added to what it gives."""
    return Vector(vector.scale, (vector.shift + by).astype(np.float32))


def fit_temperature(logits: Floats, label: Integers) -> float:
    """The temperature, 0.05 to 20, of lowest negative log-likelihood (Guo et al., arXiv 1706.04599, section 4.2)."""
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(logits, label, float(np.exp(log_t))),
        bounds=(np.log(0.05), np.log(20.0)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    # A few decimals decide nothing, and the last ones would differ between machines.
    return round(float(np.exp(found.x)), 4)


def fit_vector(logits: Floats, label: Integers) -> Vector:
    """Scales (above 0) and shifts [C] of lowest negative log-likelihood of logits [n, C], from the temperature on."""
    classes = logits.shape[1]
    start = -np.log(fit_temperature(logits, label))
    target = np.eye(classes)[label]

    def loss(found: Floats) -> tuple[float, Floats]:
        scale, shift = np.exp(start + found[:classes]), found[classes:]
        moved = logits * scale + shift
        slope = (softmax(moved) - target) / len(label)
        gradient = np.concatenate([(slope * logits).sum(axis=0) * scale, slope.sum(axis=0)])
        return (
            negative_log_likelihood(moved, label, 1.0) + _PULL * float(found @ found),
            gradient + 2 * _PULL * found,
        )

    found = minimize(loss, np.zeros(2 * classes), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    scale, shift = np.exp(start + found[:classes]), found[classes:] - found[classes:].mean()
    return Vector(_short(scale), _short(shift))


def compare(logits: Floats, label: Integers, unit: npt.NDArray[np.str_], seed: int = 0) -> Comparison | None:
    """Both fitted on four fifths of the patients and judged on the others, in turn (cross-fitting).

    None when some class has cells of a single patient, so that it cannot be left out and fitted on at once.
    """
    patients = min(len(np.unique(unit[label == k])) for k in np.unique(label))
    if patients < 2:
        return None
    lost = {"temperature": 0.0, "vector": 0.0}
    try:
        for fold in folds(unit, label, folds=min(FOLDS, patients), repeats=1, seed=seed):
            known, held, truth = logits[fold.train], logits[fold.test], label[fold.test]
            temperature = fit_temperature(known, label[fold.train])
            vector = fit_vector(known, label[fold.train])
            lost["temperature"] += len(truth) * negative_log_likelihood(held, truth, temperature)
            lost["vector"] += len(truth) * negative_log_likelihood(vector(held), truth, 1.0)
    except ConfigError:
        return None
    return Comparison(lost["temperature"] / len(label), lost["vector"] / len(label))


def _short(values: Floats) -> npt.NDArray[np.float32]:
    return np.round(values, 4).astype(np.float32)
