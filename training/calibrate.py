"""Stage `calibrate`: temperature, abstention and out-of-distribution thresholds, from cells that were not trained on.

The embedding and the class means come from the train split; everything that decides comes from the validation split.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from service.contract.errors import CommandParser, ConfigError, run_command
from training.calibration import Calibration, Distance, Singles, softmax
from training.config import configured
from training.figures import Flags, Floats, Integers, calibration_bins, expected_calibration_error, risk_coverage
from training.io import read_json, read_params, read_parquet
from training.pixels import PREPARED, TRAIN, VALIDATION, cells
from training.priors import cell_weights, log_ratio, shares
from training.scaling import Vector, compare, fit_temperature, fit_vector, moved

METHODS = ("temperature", "auto")
THREADS = 2  # fixed, as in training: the sums that a version is named by must not depend on the machine's load


@dataclass(frozen=True)
class CalibrateConfig:
    """Section `calibrate` of params.yaml."""

    method: str = "temperature"
    """temperature, or auto: a scale and a shift for each class where that lowers the negative log-likelihood of
    validation patients that it was not fitted on.
    """
    embedding: int = 24
    """E: principal components of the features that are kept, as far as there are so many features."""
    shrinkage: float = 0.1
    """How much of the correlations between components is not believed, which few cells estimate badly."""
    ood_quantile: float = 0.99
    """Share of the validation cells that lie within the edge of the known ones."""
    picture_slack: float = 0.85
    """How far out a picture may lie, in that edge: less than 1 finds more that is no smear and flags more cells, more
    than 1 is for few validation patients, who do not show all the stains there are.
    """
    risk: float = 0.02
    """Wrong answers that are tolerated among those that are given rather than referred."""
    min_coverage: float = 0.85
    """Share of validation cells that is answered even when the risk is not met."""
    priors: dict[str, float] = field(default_factory=dict)
    """Label → its share where the model is used (training.priors); empty: as in the validation cells."""

    def __post_init__(self) -> None:
        """Refuse what cannot be fitted. Raises ValueError."""
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}: it is {' or '.join(METHODS)}")
        if self.embedding < 1:
            raise ValueError(f"embedding is {self.embedding}: it must be at least 1")
        if self.picture_slack <= 0:
            raise ValueError(f"picture_slack is {self.picture_slack}: it must be above 0")
        for name in ("shrinkage", "ood_quantile", "risk", "min_coverage"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it is a share, 0 to 1")


@dataclass(frozen=True, eq=False)
class Seen:
    """What is seen in n cells: logits [n, C], features [n, F], picture [n, P] (models.picture); and their label
    [n].
    """

    logits: Singles
    features: Singles
    picture: Singles
    label: Integers
    unit: npt.NDArray[np.str_] | None = None
    """[n] patient, or duplicate group where patients are unknown; None where every cell stands for itself."""


def calibrate(
    training: Seen, validation: Seen, config: CalibrateConfig, priors: Floats | None = None
) -> tuple[Calibration, dict[str, Any]]:
    """Fit on what the network says; returns the calibration and notes for people, its method among them.

    priors: shares of the labels [C] where the model is used, if not those of the validation cells. They come on top of
    what is fitted, and the abstention threshold is chosen for them.

    Raises ConfigError when there are too few cells for that.
    """
    size = min(config.embedding, training.features.shape[1])
    if len(training.label) <= size or not len(validation.label):
        raise ConfigError(
            f"calibration needs more than {size} cells in the train split and some in validation, not "
            f"{len(training.label)} and {len(validation.label)}: add data, or lower calibrate.embedding in params.yaml"
        )
    logits = validation.logits.astype(np.float64)
    temperature = fit_temperature(logits, validation.label)
    vector, compared = _by_class(logits, validation, config)
    fitted = "temperature" if vector is None else "vector"
    if priors is not None:
        vector = moved(vector or Vector(*_plain(temperature, len(priors))), log_ratio(priors, validation.label))
    weight = None if priors is None else cell_weights(priors, validation.label)
    probabilities = softmax(logits / temperature if vector is None else vector(logits))
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == validation.label
    abstain, coverage, risk = abstain_threshold(confidence, correct, config.risk, config.min_coverage, weight)
    centre, projection = principal_components(training.features, size)
    embeddings = [((seen.features - centre) @ projection).astype(np.float32) for seen in (training, validation)]
    embedding = class_distances(embeddings[0], training.label, config.shrinkage)
    picture = class_distances(training.picture, training.label, config.shrinkage)
    embedding = replace(embedding, edge=_edge(embedding(embeddings[1]), config.ood_quantile))
    picture = replace(picture, edge=config.picture_slack * _edge(picture(validation.picture), config.ood_quantile))
    plain = softmax(logits)
    before = calibration_bins(plain.max(axis=1), plain.argmax(axis=1) == validation.label, weight=weight)
    notes = {
        "method": fitted,
        **compared,
        **({} if priors is None else {"priors": dict(config.priors)}),
        "validation_cells": len(validation.label),
        "validation_coverage": coverage,
        "validation_risk": risk,
        "embedding_edge": embedding.edge,
        "picture_edge": picture.edge,
        "validation_ece_before": expected_calibration_error(before),
        "validation_ece_after": expected_calibration_error(calibration_bins(confidence, correct, weight=weight)),
    }
    by_class = () if vector is None else (vector.scale, vector.shift)
    return Calibration(temperature, abstain, centre, projection, embedding, picture, *by_class), notes


def _by_class(
    logits: npt.NDArray[np.float64], validation: Seen, config: CalibrateConfig
) -> tuple[Vector | None, dict[str, float]]:
    """Vector scaling where it was asked for and pays, and what was compared."""
    if config.method == "temperature":
        return None, {}
    unit = validation.unit if validation.unit is not None else np.arange(len(logits)).astype(np.str_)
    found = compare(logits, validation.label, unit)
    if found is None:
        return None, {}
    compared = {"cross_fitted_nll_temperature": found.temperature, "cross_fitted_nll_vector": found.vector}
    return fit_vector(logits, validation.label) if found.vector_is_better else None, compared


def _plain(temperature: float, classes: int) -> tuple[Singles, Singles]:
    return np.full(classes, 1 / temperature, dtype=np.float32), np.zeros(classes, dtype=np.float32)


def abstain_threshold(
    confidence: npt.NDArray[np.float64],
    correct: Flags,
    risk: float,
    min_coverage: float,
    weight: Floats | None = None,
) -> tuple[float, float, float]:
    """The lowest threshold at which the answered cells are wrong in at most `risk` of cases; its coverage and risk.

    Where that would answer fewer than `min_coverage` of the cells, the highest threshold that answers so many. `weight`
    [n]: for how many cells each counts.
    """
    thresholds, coverage, risks = risk_coverage(confidence, correct, weight)
    enough = np.flatnonzero(coverage >= min_coverage)
    met = np.flatnonzero(risks <= risk)
    chosen = max(met[-1] if len(met) else 0, enough[0])
    # Rounded down, so that the cell at the threshold itself is still answered.
    return float(np.floor(thresholds[chosen] * 1e4) / 1e4), float(coverage[chosen]), float(risks[chosen])


def principal_components(features: Singles, size: int) -> tuple[Singles, Singles]:
    """Mean [F] and first `size` principal axes [F, size] of features [n, F], the largest entry of each positive."""
    values = features.astype(np.float64)
    centre = values.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov(values - centre, rowvar=False))
    axes = axes[:, ::-1][:, :size]
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(size)])
    return centre.astype(np.float32), (axes * signs).astype(np.float32)


def class_distances(values: Singles, label: Integers, shrinkage: float) -> Distance:
    """The distance [n, d] → [n] that class means and the covariance within classes give, its correlations shrunk.

    Shrinkage towards a diagonal covariance: Schäfer and Strimmer, Statistical Applications in Genetics and Molecular
    Biology 4 (2005) 32; the weight is a parameter here.
    """
    known = values.astype(np.float64)
    there = np.unique(label)
    means = np.stack([known[label == k].mean(axis=0) for k in there])
    within = known - means[np.searchsorted(there, label)]
    # What never varies in training (a dead feature) must not make everything infinitely far away.
    spread = np.maximum(within.std(axis=0), 1e-3 * max(float(within.std()), 1e-6))
    scaled = within / spread
    correlation = scaled.T @ scaled / len(scaled)
    variances, axes = np.linalg.eigh((1 - shrinkage) * correlation + shrinkage * np.eye(len(correlation)))
    whitening = axes / np.sqrt(np.maximum(variances, 1e-6)) / spread[:, None]
    return Distance(means.astype(np.float32), whitening.astype(np.float32))


def _edge(distance: Singles, quantile: float) -> float:
    return round(max(float(np.quantile(distance, quantile, method="higher")), 1e-6), 6)


def main(argv: list[str] | None = None) -> int:
    """Calibrate the trained network on the validation split; write build/calibration.json and .npz."""
    CommandParser(prog="python -m training.calibrate", description=main.__doc__).parse_args(argv)
    from training.models import inference

    config = configured(CalibrateConfig, "calibrate", read_params("calibrate"))
    labels = tuple(read_json(PREPARED / "dataset.json")["labels"])
    data = cells(read_parquet(PREPARED / "manifest.parquet"), read_parquet(PREPARED / "split.parquet"), labels)
    network = inference.load()
    training, validation = (
        Seen(*inference.outputs(network, part.load(), threads=THREADS), part.label, part.column("unit"))
        for part in (data.only(TRAIN), data.only(VALIDATION))
    )
    priors = shares(config.priors, labels) if config.priors else None
    calibration, notes = calibrate(training, validation, config, priors)
    calibration.save(**notes)
    print(
        f"{notes['method']} scaling{', moved to the priors' if config.priors else ''}, temperature "
        f"{calibration.temperature:.3f}; abstain below {calibration.abstain:.3f} "
        f"(answers {notes['validation_coverage']:.1%}, {notes['validation_risk']:.1%} of them wrong), "
        f"known cells end at {calibration.embedding.edge:.2f} (embedding) and {calibration.picture.edge:.2f} (picture)"
    )
    return 0


if __name__ == "__main__":
    run_command(main)
