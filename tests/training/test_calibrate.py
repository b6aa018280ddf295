"""Temperature, abstention and the edges of the known: each against a case where the answer is known."""

import numpy as np
import pytest

from service.contract.errors import ConfigError
from training.calibrate import (
    CalibrateConfig,
    Seen,
    abstain_threshold,
    calibrate,
    class_distances,
    principal_components,
)
from training.calibration import Calibration, Singles, negative_log_likelihood, softmax
from training.figures import Floats, Integers
from training.scaling import compare, fit_temperature, fit_vector

CONFIG = CalibrateConfig(embedding=4, picture_slack=1.3)


def overconfident(cells: int, factor: float, seed: int = 0) -> tuple[Floats, Integers]:
    """Logits that are `factor` times as large as the labels, drawn from their softmax, warrant."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(0, 2, (cells, 3))
    label = (rng.random(cells)[:, None] > np.cumsum(softmax(honest), axis=1)).sum(axis=1)
    return honest * factor, label.astype(np.int64)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_temperature_undoes_the_factor_by_which_logits_are_too_large(factor: float) -> None:
    logits, label = overconfident(4000, factor)
    found = fit_temperature(logits, label)
    assert found == pytest.approx(factor, rel=0.1)
    lowest = negative_log_likelihood(logits, label, found)
    assert lowest <= min(negative_log_likelihood(logits, label, found * k) for k in (0.9, 1.1)) + 1e-9
    assert np.array_equal((logits / found).argmax(axis=1), logits.argmax(axis=1))


def test_negative_log_likelihood_is_that_of_the_softmax() -> None:
    logits, label = overconfident(50, 1.0)
    by_hand = -np.log(softmax(logits / 2)[np.arange(50), label]).mean()
    assert negative_log_likelihood(logits, label, 2.0) == pytest.approx(by_hand)


def unlike(cells: int, seed: int = 0) -> tuple[Floats, Integers]:
    """Logits of which class 0's are three times as large as its labels warrant, and class 2's lie too high."""
    honest, label = overconfident(cells, 1.0, seed)
    return honest * (3.0, 1.0, 1.0) + (0.0, 0.0, 1.5), label


def test_vector_scaling_undoes_each_classes_own_fault() -> None:
    logits, label = unlike(6000)
    found = fit_vector(logits, label)
    assert found.scale == pytest.approx([1 / 3, 1, 1], rel=0.15)
    assert found.shift - found.shift[0] == pytest.approx([0, 0, -1.5], abs=0.2)
    # A step the other way in any number is no better: it is a minimum.
    lowest = negative_log_likelihood(found(logits), label, 1.0)
    for k in range(3):
        for factor in (0.9, 1.1):
            changed = found.scale.copy()
            changed[k] *= factor
            assert negative_log_likelihood(logits * changed + found.shift, label, 1.0) > lowest


def units(cells: int, each: int = 6) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    return np.array([f"p{k // each:04d}" for k in range(cells)])


def test_vector_scaling_is_taken_only_where_cells_it_was_not_fitted_on_gain_by_it() -> None:
    helps = compare(*unlike(1200), units(1200))
    assert helps is not None and helps.vector_is_better and helps.vector < 0.9 * helps.temperature
    # Sixty cells whose only fault is one factor: six numbers fit their chance, and those left out pay for it.
    hurts = [compare(*overconfident(60, 2.0, seed), units(60)) for seed in range(20)]
    assert sum(found is not None and not found.vector_is_better for found in hurts) > 12
    label = np.array([0, 0, 1, 1])
    assert compare(np.zeros((4, 2)), label, np.array(["a", "a", "b", "c"])) is None  # nobody else has class 0


def test_auto_takes_vector_scaling_where_it_pays_and_temperature_never_changes_by_it() -> None:
    training, plain = seen(600, 0), seen(300, 1)
    skewed = Seen(
        (plain.logits * (4, 1, 1) + (0, 0, 3)).astype(np.float32), plain.features, plain.picture, plain.label,
        units(300),
    )  # fmt: skip
    auto = CalibrateConfig(embedding=4, method="auto")
    found, notes = calibrate(training, skewed, auto)
    assert found.scale is not None and notes["method"] == "vector"
    assert notes["cross_fitted_nll_vector"] < notes["cross_fitted_nll_temperature"]
    kept, notes = calibrate(training, skewed, CalibrateConfig(embedding=4))
    assert kept.scale is None and notes["method"] == "temperature"
    assert kept.temperature == found.temperature == fit_temperature(skewed.logits.astype(np.float64), skewed.label)


def test_abstention_answers_as_many_as_the_risk_allows() -> None:
    confidence = np.array([0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.55, 0.5, 0.45, 0.4])
    correct = np.array([True] * 5 + [False, True, False, False, False])
    threshold, coverage, risk = abstain_threshold(confidence, correct, 0.15, 0.2)
    assert coverage == 0.7 and risk == pytest.approx(1 / 7)
    assert threshold == pytest.approx(0.55, abs=1e-4) and threshold <= 0.55
    # A risk that is met only by answering almost nobody is given up for the coverage that was asked for.
    threshold, coverage, risk = abstain_threshold(confidence, ~correct, 0.1, 0.5)
    assert coverage == 0.5 and risk == 1.0 and threshold == pytest.approx(0.7, abs=1e-4)
    # Nothing wrong: everybody is answered.
    assert abstain_threshold(confidence, np.ones(10, dtype=bool), 0.01, 0.5)[1] == 1.0


def test_principal_components_are_ordered_and_their_signs_fixed() -> None:
    rng = np.random.default_rng(0)
    spread = np.array([0.1, 3.0, 1.0, 0.5])
    features = (rng.normal(size=(500, 4)) * spread + 7).astype(np.float32)
    centre, axes = principal_components(features, 2)
    assert centre == pytest.approx(features.mean(axis=0), abs=1e-4)
    assert np.abs(axes).argmax(axis=0).tolist() == [1, 2]
    assert (axes[[1, 2], [0, 1]] > 0).all()
    assert np.array_equal(principal_components(features, 2)[1], axes)


def groups(seed: int = 0) -> tuple[Singles, Integers]:
    """Two classes far apart along the first axis, both long along the second one, and a third axis that never
    varies.
    """
    rng = np.random.default_rng(seed)
    label = np.arange(400) % 2
    values = rng.normal(size=(400, 3)) * (1, 10, 0) + np.stack([20 * label, 0 * label, 0 * label], axis=1)
    return values.astype(np.float32), label.astype(np.int64)


def test_distance_counts_in_spreads_within_a_class() -> None:
    values, label = groups()
    space = class_distances(values, label, 0.1)
    probe = np.array([[0, 10, 0], [1, 0, 0], [20, 0, 0], [10, 0, 0]], dtype=np.float32)
    assert space(probe) == pytest.approx([1, 1, 0, 10], abs=0.25)
    # What never varied in training is suspicious, not infinitely so.
    odd = space(np.array([[0, 0, 1]], dtype=np.float32))
    assert np.isfinite(odd).all() and odd[0] > 10


def test_shrinkage_disbelieves_correlations_of_few_cells() -> None:
    rng = np.random.default_rng(0)
    few = rng.normal(size=(12, 10)).astype(np.float32)
    far = rng.normal(size=(200, 10)).astype(np.float32)
    label = np.zeros(12, dtype=np.int64)
    assert class_distances(few, label, 0.0)(far).mean() > 2 * class_distances(few, label, 0.5)(far).mean()


def seen(cells: int, seed: int, classes: int = 3) -> Seen:
    rng = np.random.default_rng(seed)
    label = (np.arange(cells) % classes).astype(np.int64)
    logits = 2 * np.eye(classes)[label] + rng.normal(0, 1, (cells, classes))
    features = np.eye(6)[label] + rng.normal(0, 0.3, (cells, 6))
    picture = rng.normal(0, 1, (cells, 15))
    return Seen(logits.astype(np.float32), features.astype(np.float32), picture.astype(np.float32), label)


def embedded(found: Calibration, features: Singles) -> Singles:
    embedding: Singles = ((features - found.centre) @ found.projection).astype(np.float32)
    return embedding


def test_thresholds_come_from_the_validation_cells() -> None:
    training, validation = seen(600, 0), seen(300, 1)
    found, notes = calibrate(training, validation, CONFIG)
    embedding = embedded(found, validation.features)
    assert found.embedding(embedding).max() > 1
    assert (found.embedding(embedding) <= 1).mean() == pytest.approx(0.99, abs=0.005)
    assert (found.picture(validation.picture) <= 1).mean() >= 0.99
    assert found.picture.edge == pytest.approx(
        1.3 * np.quantile(found.picture(validation.picture) * found.picture.edge, 0.99, method="higher"), rel=1e-4
    )
    assert notes["validation_cells"] == 300
    confidence = softmax(validation.logits.astype(np.float64) / found.temperature).max(axis=1)
    assert (confidence >= found.abstain).mean() == pytest.approx(notes["validation_coverage"])
    assert notes["validation_coverage"] >= CONFIG.min_coverage
    other, _ = calibrate(training, seen(300, 2), CONFIG)
    assert other.temperature != found.temperature and other.embedding.edge != found.embedding.edge
    assert np.array_equal(other.embedding.means, found.embedding.means)  # which training alone decides


def test_unseen_kinds_of_cells_and_pictures_are_beyond_the_edge() -> None:
    found, _ = calibrate(seen(600, 0), seen(300, 1), CONFIG)
    strange = np.full((1, 6), 1.0, dtype=np.float32)
    assert found.embedding(embedded(found, strange))[0] > 1
    assert found.picture(np.full((1, 15), 9.0, dtype=np.float32))[0] > 1


def test_the_embedding_is_no_wider_than_the_features_and_a_class_may_be_absent() -> None:
    training = seen(600, 0, classes=2)
    found, _ = calibrate(training, seen(300, 1, classes=2), CalibrateConfig(embedding=24))
    assert found.projection.shape == (6, 6)
    absent = Seen(np.pad(training.logits, ((0, 0), (0, 1))), training.features, training.picture, training.label)
    assert calibrate(absent, absent, CONFIG)[0].embedding.means.shape == (2, 4)


def test_too_few_cells_and_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="more than 4 cells"):
        calibrate(seen(4, 0), seen(3, 1), CONFIG)
    for name, value in (("embedding", 0), ("risk", 1.5), ("picture_slack", 0.0), ("method", "isotonic")):
        with pytest.raises(ValueError, match=name):
            CalibrateConfig(**{name: value})  # type: ignore[arg-type]
