"""The losses against their papers' formulas, written out in numpy."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.support.networks import SMALL, discs
from training.augment import AugmentConfig
from training.fit import Examples, TrainConfig, fit
from training.losses import Loss, class_weights, log_priors
from training.models import inference

LABEL = np.array([0] * 80 + [1] * 16 + [2] * 4)


def drawn(cells: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    return 2 * torch.randn(cells, 3, generator=rng), torch.randint(0, 3, (cells,), generator=rng)


def log_p(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def test_focal_is_equation_5_with_class_weights() -> None:
    config = TrainConfig(loss="focal", focal_gamma=2.0, class_weight=1.0, label_smoothing=0.0)
    logits, label = drawn()
    found = float(Loss(config, LABEL, 3, "cpu")(logits, label))
    log = log_p(logits.double().numpy())[np.arange(40), label.numpy()]
    weight = class_weights(LABEL, 3, 1.0)[label.numpy()]
    assert found == pytest.approx((weight * (1 - np.exp(log)) ** 2 * -log).sum() / weight.sum(), rel=1e-5)


def test_focal_with_gamma_0_is_the_weighted_loss_and_a_sure_cell_hardly_counts_above() -> None:
    logits, label = drawn()
    losses = {gamma: Loss(TrainConfig(loss="focal", focal_gamma=gamma), LABEL, 3, "cpu") for gamma in (0.0, 1.0, 5.0)}
    assert float(losses[0.0](logits, label)) == float(Loss(TrainConfig(), LABEL, 3, "cpu")(logits, label))
    sure = torch.tensor([[6.0, 0.0, 0.0]])
    parts = [float(losses[gamma].each(sure, torch.tensor([0]))) for gamma in (0.0, 1.0, 5.0)]
    assert parts[0] > 100 * parts[1] > 100 * parts[2]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_logit_adjusted_is_equation_10(power: float) -> None:
    config = TrainConfig(loss="logit_adjusted", class_weight=power, label_smoothing=0.0)
    logits, label = drawn()
    found = float(Loss(config, LABEL, 3, "cpu")(logits, label))
    adjusted = log_p(logits.double().numpy() + power * np.log([0.8, 0.16, 0.04]))
    assert found == pytest.approx(-adjusted[np.arange(40), label.numpy()].mean(), rel=1e-5)


def test_a_class_without_cells_has_a_prior_all_the_same() -> None:
    found = log_priors(np.array([0, 0, 1, 1]), 3, 1.0)
    assert np.isfinite(found).all() and found[2] == found.min()


@pytest.mark.parametrize("loss", ["focal", "logit_adjusted"])
def test_each_loss_learns_what_can_be_seen(loss: str) -> None:
    config = TrainConfig(
        epochs=10, patience=10, batch=16, threads=1, device="cpu", learning_rate=0.01, loss=loss, class_weight=1.0
    )
    found = fit(Examples(*discs(200)), Examples(*discs(30, seed=1)), SMALL, config, AugmentConfig())
    images, label = discs(60, seed=2)
    called = inference.outputs(inference.build(SMALL, found.weights), images).logits.argmax(axis=1)
    assert (called == label).mean() > 0.85


def test_adjusting_finds_more_of_a_rare_class_than_leaving_the_imbalance() -> None:
    images, label = discs(300)
    some = np.flatnonzero((label != 2) | (np.arange(300) % 30 == 2))  # 10 of the 100 cells of class 2
    others, truth = discs(90, seed=2)

    def sensitivity(power: float) -> float:
        config = TrainConfig(
            epochs=8, patience=8, batch=16, threads=1, device="cpu", learning_rate=0.01, loss="logit_adjusted",
            class_weight=power,
        )  # fmt: skip
        cells = Examples(images[some], label[some])
        found = fit(cells, Examples(*discs(30, seed=1)), SMALL, config, AugmentConfig(0, 0, 0, 0, 0))
        logits = inference.outputs(inference.build(SMALL, found.weights), others).logits
        return float((logits.argmax(axis=1) == truth)[truth == 2].mean())

    assert sensitivity(1.0) > sensitivity(0.0)


@pytest.mark.parametrize(
    "change",
    [{"loss": "hinge"}, {"focal_gamma": -1.0}, {"amp": True}, {"amp": "fp8"}, {"initial_sha256": "ab"}],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        TrainConfig(**change)  # type: ignore[arg-type]


def test_mixed_precision_on_the_cpu_learns_too_and_gives_other_weights() -> None:
    config = TrainConfig(epochs=3, patience=3, batch=16, threads=1, device="cpu", learning_rate=0.01)
    half = TrainConfig(**{**vars(config), "amp": "on"})
    cells, others = Examples(*discs(96)), Examples(*discs(30, seed=1))
    one, other = (fit(cells, others, SMALL, kind, AugmentConfig()) for kind in (config, half))
    assert other.best.validation_loss == pytest.approx(one.best.validation_loss, rel=0.15)
    assert all(value.dtype != np.float16 for value in other.weights.values())
    assert not np.array_equal(one.weights["dense.weight"], other.weights["dense.weight"])
