"""Classifiers on features."""

import numpy as np
import pytest

from service.contract.errors import ConfigError
from training.zoo.heads import fit_head, probabilities
from training.zoo.rows import HEADS
from training.zoo.settings import ZooConfig


@pytest.mark.parametrize("head", HEADS)
def test_every_head_learns_and_says_probabilities(head: str) -> None:
    rng = np.random.default_rng(0)
    label = np.arange(60) % 3
    features = np.concatenate([rng.normal(size=(60, 6)) + 3 * np.eye(6)[label], np.ones((60, 1))], axis=1)
    model = fit_head(head, features[:45], label[:45], ZooConfig(trees=30, components=4), seed=0)
    said = probabilities(model, features[45:], classes=4)
    assert said.shape == (15, 4)
    assert (said[:, 3] == 0).all()
    assert np.allclose(said.sum(axis=1), 1)
    assert (said.argmax(axis=1) == label[45:]).mean() > 0.7


def test_minute_features_of_an_untrained_trunk_count_like_any() -> None:
    rng = np.random.default_rng(0)
    label = np.arange(40) % 2
    features = rng.normal(size=(40, 5)) + 3 * label[:, None]
    for head in HEADS:
        model = fit_head(head, features * 1e-10, label, ZooConfig(trees=20), seed=0)
        assert (probabilities(model, features * 1e-10, 2).argmax(axis=1) == label).mean() > 0.9, head


def test_a_class_with_one_cell_is_refused() -> None:
    with pytest.raises(ConfigError, match="a single training cell"):
        fit_head("svm", np.eye(5), np.array([0, 0, 1, 1, 2]), ZooConfig(), seed=0)
