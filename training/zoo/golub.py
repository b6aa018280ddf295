"""The expression DNN of reference 33 on the data of Golub et al., Science 286 (1999) 531–537: ALL against AML.

These patients have no pictures: they are a table of their own and are never paired with smears.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.datasets import DatasetError
from training.figures import Floats, Integers
from training.zoo.settings import ZooConfig

LABELS = ("AML", "ALL")
TRAIN, TEST, ACTUAL = "data_set_ALL_AML_train.csv", "data_set_ALL_AML_independent.csv", "actual.csv"
_OBTAIN = "get the three files of Golub et al. (1999) from the Broad Institute, and name their folder in zoo.golub"
# Dudoit, Fridlyand and Speed, J. Am. Stat. Assoc. 97 (2002) 77–87: below is noise, above is saturated.
_FLOOR, _CEILING = 100.0, 16000.0


@dataclass(frozen=True)
class Expression:
    """Base-10 logarithms of expression [n, genes], labels [n] (1 is ALL) and patient numbers [n]."""

    values: Floats
    label: Integers
    patient: tuple[str, ...]


def load(root: Path) -> tuple[Expression, Expression]:
    """The 38 patients to train on and the 34 independent ones. Raises DatasetError naming what is missing or wrong."""
    actual = {row[0]: row[1] for row in _rows(root / ACTUAL)[1:]}
    train, test = (_one(root / name, actual) for name in (TRAIN, TEST))
    if shared := sorted(set(train.patient) & set(test.patient)):
        raise DatasetError(f"golub: patients {', '.join(shared)} are in both files; {_OBTAIN}")
    if train.values.shape[1] != test.values.shape[1]:
        raise DatasetError(f"golub: {TRAIN} and {TEST} have different genes; {_OBTAIN}")
    return train, test


def predict(train: Expression, test: Expression, config: ZooConfig, seed: int) -> tuple[Floats, int]:
    """Probabilities [m, 2] of the test patients, and the number of weights.

    Genes are chosen and scaled on the training patients alone; the network is scikit-learn's, of two hidden layers.
    """
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    chosen = np.sort(np.argsort(-train.values.std(axis=0), kind="stable")[: config.genes])
    network = MLPClassifier((64, 32), alpha=0.1, max_iter=1000, random_state=seed)
    model = make_pipeline(StandardScaler(), network).fit(train.values[:, chosen], train.label)
    weights = sum(part.size for part in (*network.coefs_, *network.intercepts_))
    return np.asarray(model.predict_proba(test.values[:, chosen]), dtype=np.float64), weights


def _one(path: Path, actual: dict[str, str]) -> Expression:
    header, *rows = _rows(path)
    columns = [k for k, name in enumerate(header) if name.isdecimal()]
    patients = tuple(header[k] for k in columns)
    if not columns or not rows:
        raise DatasetError(f"golub: {path} names no patients in its first row; {_OBTAIN}")
    if unknown := [name for name in patients if actual.get(name) not in LABELS]:
        raise DatasetError(f"golub: {ACTUAL} has no ALL or AML for patients {', '.join(unknown)} of {path}; {_OBTAIN}")
    try:
        raw = np.array([[float(row[k]) for row in rows] for k in columns])
    except (ValueError, IndexError):
        raise DatasetError(f"golub: {path} has an entry that is no number, or a short row; {_OBTAIN}") from None
    label = np.array([LABELS.index(actual[name]) for name in patients], dtype=np.int64)
    return Expression(np.log10(np.clip(raw, _FLOOR, _CEILING)), label, patients)


def _rows(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [row for row in csv.reader(file) if row]
    except OSError:
        raise DatasetError(f"golub: {path} cannot be read; {_OBTAIN}") from None
