"""Expression data: read as it lies, patients apart, genes chosen on the training patients alone."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.realdata import data_folder
from tests.training.zoo.worlds import expression
from training.datasets import DatasetError
from training.zoo.golub import LABELS, load, predict
from training.zoo.settings import ZooConfig


def test_all_is_told_from_aml_by_the_genes_that_differ(tmp_path: Path) -> None:
    train, test = load(expression(tmp_path))
    assert train.values.shape == (12, 40)
    assert test.patient == tuple(str(k) for k in range(13, 21))
    said, weights = predict(train, test, ZooConfig(genes=10), seed=0)
    assert weights == 10 * 64 + 64 + 64 * 32 + 32 + 32 + 1
    assert (said.argmax(axis=1) == test.label).all()


def test_what_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    folder = expression(tmp_path)
    actual = folder / "actual.csv"
    text = actual.read_text()
    actual.write_text(text.replace("3,ALL", "3,CML"))
    with pytest.raises(DatasetError, match="no ALL or AML for patients 3 of "):
        load(folder)
    actual.write_text(text)
    (folder / "data_set_ALL_AML_independent.csv").write_text((folder / "data_set_ALL_AML_train.csv").read_text())
    with pytest.raises(DatasetError, match="are in both files"):
        load(folder)
    (folder / "data_set_ALL_AML_independent.csv").unlink()
    with pytest.raises(DatasetError, match=r"data_set_ALL_AML_independent.csv cannot be read; get the three files"):
        load(folder)


@pytest.mark.realdata
def test_golubs_patients() -> None:
    train, test = load(data_folder("golub"))
    assert train.values.shape == (38, 7129)
    assert test.values.shape == (34, 7129)
    together = np.concatenate([train.label, test.label])
    assert (np.bincount(together) == [25, 47]).all()
    assert LABELS == ("AML", "ALL")
    said, _ = predict(train, test, ZooConfig(), seed=0)
    assert (said.argmax(axis=1) == test.label).mean() >= 0.85
