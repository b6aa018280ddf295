"""Figures of answers that are known, and who is called better."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.contract.errors import ConfigError
from training.zoo.figures_of import compare, figures_of, kind_of_figures
from training.zoo.markdown import markdown
from training.zoo.results import DECIMALS, Result, not_run, packed, read_result, unpacked
from training.zoo.rows import ROWS
from training.zoo.table import tabulate


def result(row: str, wrong: int, *, malignant: tuple[str, ...] = (), repeats: int = 1, cells: str = "x") -> Result:
    """60 cells of three labels, the first `wrong` of which are called by the next label's name."""
    label = np.arange(60) % 3
    called = np.where(np.arange(60) < wrong, (label + 1) % 3, label)
    said = np.full((repeats, 60, 3), 0.1)
    said[:, np.arange(60), called] = 0.8
    data = {"name": "tests", "sha256": cells, "cells": 60, "pixels": [8, 8], "labels": list("abc"), "malignant": []}
    cost = {"parameters": None, "multiply_adds": None, "ms": 1.0}
    about: Mapping[str, Any] = {
        "data": data, "folds": 2, "repeats": repeats, "seed": 0, "mode": "known", "epochs": None, "weights": [],
        "machine": "this", "seconds": 1.0, "cost": cost,
    }  # fmt: skip
    unit = np.array([f"u{k}" for k in range(60)])
    return Result(row, about, "", ("a", "b", "c"), malignant, label.astype(np.int64), unit, said)


def test_macro_figures_are_means_over_the_classes() -> None:
    found = figures_of(result("resnet18", wrong=6), draws=100, seed=0)
    # Two cells of each class are wrong: 18 of 20 found, 2 of 40 falsely.
    assert found["accuracy"] == pytest.approx(0.9)
    assert found["sensitivity"] == pytest.approx(18 / 20)
    assert found["specificity"] == pytest.approx(38 / 40)
    assert found["precision"] == pytest.approx(18 / 20)
    assert found["macro_f1"] == found["f1"] == pytest.approx(0.9)
    # Bins of four cells, all 0.8 sure: one all wrong, one half, thirteen all right.
    assert found["ece"] == pytest.approx((0.8 + 0.3 + 13 * 0.2) / 15, abs=1e-5)
    low, high = found["accuracy_interval"]
    assert low < 0.9 < high


def test_with_a_malignant_label_it_is_against_the_rest() -> None:
    one = result("resnet18", wrong=6, malignant=("b", "c"))
    found = figures_of(one, draws=20, seed=0)
    # b called c is still malignant; c called a is missed, a called b is a false alarm.
    assert found["sensitivity"] == pytest.approx(38 / 40)
    assert found["specificity"] == pytest.approx(18 / 20)
    assert kind_of_figures(one) == "malignant against the rest"


def test_a_class_that_is_never_called_has_no_precision_and_counts_as_none() -> None:
    one = result("resnet18", wrong=0)
    one.said[:, :, 2] = 0.0
    found = figures_of(one, draws=20, seed=0)
    assert found["balanced_accuracy"] == pytest.approx(2 / 3)
    assert found["precision"] < 0.67


def test_who_is_better_by_the_paired_interval_is_named() -> None:
    rows = {"cnn_gru": result("cnn_gru", 12), "resnet18": result("resnet18", 0), "vgg16": result("vgg16", 13)}
    found = tabulate(rows, draws=300, seed=0)
    assert found["better"] == {"accuracy": ["resnet18"], "balanced_accuracy": ["resnet18"]}
    page = markdown(found)
    assert "Better than the CNN-GRU by the paired interval of the accuracy: ResNet18." in page
    assert "+20.0" in page
    assert "on Sundays" in markdown(tabulate(rows, draws=50, seed=0, note="Run on Sundays."))
    page = markdown(tabulate({"cnn_gru": result("cnn_gru", 2), "vgg16": result("vgg16", 1)}, draws=300, seed=0))
    assert "No row is better than the CNN-GRU by the paired interval of the accuracy." in page


def test_rows_are_compared_on_the_repeats_that_both_have() -> None:
    found = compare(result("vgg16", 0, repeats=2), result("cnn_gru", 3, repeats=5), draws=50, seed=0)
    assert found["repeats"] == 2
    assert found["accuracy"]["difference"] == pytest.approx(0.05)


def test_rows_of_other_cells_are_refused_by_name() -> None:
    rows = {
        "cnn_gru": result("cnn_gru", 1), "resnet18": result("resnet18", 2),
        "vgg16": result("vgg16", 1, cells="others"),
    }  # fmt: skip
    with pytest.raises(ConfigError, match="vgg16: run on other cells or other folds"):
        tabulate(rows, draws=10, seed=0)


def test_nothing_is_compared_without_the_cnn_gru() -> None:
    found = tabulate({"vgg16": result("vgg16", 1)}, draws=10, seed=0)
    assert "The CNN-GRU itself was not run: nothing is compared." in markdown(found)
    assert "No row was run yet" in markdown(tabulate({}, draws=10, seed=0))


def test_rounding_never_changes_the_label() -> None:
    said = np.array([[[0.33333, 0.333331, 0.333339], [0.5, 0.50000001, 0.0]]])
    stored = unpacked(packed(said))
    assert (stored.argmax(axis=2) == said.argmax(axis=2)).all()
    np.testing.assert_allclose(stored, said, atol=2 * 10**-DECIMALS)


def test_a_file_that_is_no_result_is_refused(tmp_path: Any) -> None:
    from training.io import write_json

    write_json(tmp_path / "vgg16.json", not_run("vgg16", "no time"))
    assert read_result(tmp_path / "vgg16.json").reason == "no time"
    write_json(tmp_path / "vgg16.json", {"row": "vgg_f", "status": "ran"})
    with pytest.raises(ConfigError, match="is not a row's result"):
        read_result(tmp_path / "vgg16.json")


def test_an_untrained_trunk_is_told_from_one_that_was_trained_from_random_weights() -> None:
    rows = {"vgg16": result("vgg16", 1), "resnet18": result("resnet18", 1), "squeezenet": result("squeezenet", 1)}
    said = {}
    for name, mode, source, digest in (
        ("vgg16", "frozen trunk, linear layer", "untrained", ""),
        ("resnet18", "all weights trained", "untrained", ""),
        ("squeezenet", "all weights trained", "w.pth", "0123456789abcdef"),
    ):
        weights = [{"network": name, "source": source, "sha256": digest}]
        rows[name] = replace(rows[name], about={**rows[name].about, "mode": mode, "weights": weights})
        page = markdown(tabulate(rows, draws=10, seed=0))
        said[name] = next(line for line in page.splitlines() if line.startswith(f"| {ROWS[name].title}")).split(" | ")
    assert [cells[14] for cells in said.values()] == ["untrained", "random start", "w.pth (01234567)"]
