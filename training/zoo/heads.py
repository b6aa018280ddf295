"""What learns from features: scikit-learn's classifiers behind a scaling that is learned with them."""

from typing import Any

import numpy as np

from service.contract.errors import ConfigError
from training.figures import Floats, Integers
from training.zoo.settings import ZooConfig


def fit_head(head: str, features: Floats, label: Integers, config: ZooConfig, seed: int) -> Any:
    """A fitted classifier of features [n, d]; `head` is linear, svm, forest, pca_svm or pca_forest.

    Raises ConfigError for a class with a single training cell, on which no SVM's probabilities can be calibrated.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.decomposition import PCA
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    reduction, _, kind = head.rpartition("_")
    # Of an untrained trunk features may be minute; what matters is how they differ.
    steps: list[Any] = [StandardScaler()]
    if reduction:
        # Each calibrating part of an SVM has two thirds of the cells.
        components = min(config.components, len(label) // 2, features.shape[1])
        steps.append(PCA(components, svd_solver="full"))
    if kind == "svm":
        smallest = int(np.bincount(label)[np.unique(label)].min())
        if smallest < 2:
            raise ConfigError("a class has a single training cell in a fold: take fewer zoo.folds, or more cells")
        machine = make_pipeline(*steps, SVC(class_weight="balanced", cache_size=500))
        # Platt's scaling on held-out thirds, one SVM on all cells.
        model: Any = CalibratedClassifierCV(machine, cv=min(3, smallest), ensemble=False)
    elif kind == "forest":
        forest = RandomForestClassifier(
            config.trees, min_samples_leaf=2, class_weight="balanced_subsample", random_state=seed
        )
        model = make_pipeline(*steps, forest)
    else:
        model = make_pipeline(*steps, LogisticRegression(C=0.1, class_weight="balanced", max_iter=500))
    return model.fit(features, label)


def probabilities(model: Any, features: Floats, classes: int) -> Floats:
    """[n, C] of features [n, d]; 0 for a class that the training cells lack."""
    said = np.zeros((len(features), classes))
    said[:, np.asarray(model.classes_, dtype=np.int64)] = model.predict_proba(features)
    return said
