"""The review's claims: what is compared is comparable, and the numbers decide the verdict."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.contract.errors import ConfigError
from tests.training.test_cross_validate import TRAIN, material
from training.claims import ClaimsConfig, claims, jobs_of, training_sets
from training.claims_report import FAILS, HOLDS, OPEN, better_on_subsets, cheaper_at_the_same, markdown
from training.equal_networks import CNN, GRU, LSTM, Cost, costs, equal_networks
from training.fold_runs import Recipe
from training.folds import Paired, folds
from training.models.cnn_gru import CnnGru, CnnGruConfig, parameter_count

MODEL = {"channels": [8, 16], "gru_hidden": 16, "features": 8}
CONFIG = ClaimsConfig("dark", folds=2, shares=(0.5,), rare_share=0.5, bootstrap=50)


@pytest.mark.parametrize(
    "base",
    [
        CnnGruConfig(classes=4),
        CnnGruConfig(classes=2, height=64, width=64, channels=(16, 32, 64), gru_hidden=64, directions=2),
        CnnGruConfig(classes=3, order="snake", pooling="attention", channels=(8, 16, 24)),
    ],
)
def test_the_three_have_as_many_parameters_within_5_percent_and_differ_in_the_reader(base: CnnGruConfig) -> None:
    found = equal_networks(base)
    assert {name: config.rnn for name, config in found.items()} == {CNN: "none", LSTM: "lstm", GRU: "gru"}
    counts = {name: parameter_count(CnnGru(config)) for name, config in found.items()}
    assert counts[CNN] == pytest.approx(counts[GRU], rel=0.05)
    assert counts[LSTM] == pytest.approx(counts[GRU], rel=0.05)
    assert found[GRU] == base
    assert found[LSTM].gru_hidden < base.gru_hidden


def test_networks_that_cannot_be_made_as_large_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no CNN has about the \d+ weights"):
        equal_networks(CnnGruConfig(classes=2, height=32, width=32, channels=(1,), gru_hidden=256, features=8))


def test_costs_are_counted_of_each_network() -> None:
    base = CnnGruConfig(classes=2, height=32, width=32, channels=(8, 16), gru_hidden=16, features=8)
    found = costs({"one": base, "wide": CnnGruConfig(classes=2, height=32, width=32, channels=(32, 64))})
    assert found["one"].parameters == parameter_count(CnnGru(base))
    assert found["wide"].multiply_adds > 4 * found["one"].multiply_adds
    assert found["one"].ms > 0


def test_training_sets_are_parts_of_the_folds_training_units_and_one_has_a_rare_class() -> None:
    cells = material(units=40, each=2)
    part = next(folds(cells.unit, cells.label, folds=2, repeats=1, seed=0))
    config = ClaimsConfig("dark", shares=(0.5, 0.25), rare_share=0.2)
    found = training_sets(cells, part, 1, config)
    assert list(found) == ["all", "0.5 of the units", "0.25 of the units", "imbalanced"]
    for rows in found.values():
        assert set(rows) <= set(part.train)
    assert set(found["0.25 of the units"]) < set(found["0.5 of the units"]) < set(found["all"])
    everything, rare = (np.bincount(cells.label[found[name]]) for name in ("all", "imbalanced"))
    assert rare[0] == everything[0]
    assert rare[1] == pytest.approx(0.2 * everything[1])


def test_small_sets_are_passed_as_often_as_it_takes_for_as_many_steps_up_to_a_factor() -> None:
    cells = material(units=40, each=2)
    recipes = {name: Recipe(MODEL, TRAIN) for name in (CNN, GRU)}
    told = jobs_of(cells, recipes, 1, ClaimsConfig("dark", folds=2, shares=(0.5, 0.1), longest=3))
    epochs = {(one.training_set, one.system): one.job.recipe.train["epochs"] for one in told}
    assert epochs["all", CNN] == epochs["all", GRU] == TRAIN["epochs"]
    assert epochs["0.5 of the units", GRU] == 2 * TRAIN["epochs"]
    assert epochs["0.1 of the units", GRU] == 3 * TRAIN["epochs"]
    # Both are trained and tested on the same rows.
    first, second = told[0].job, told[1].job
    assert (first.train == second.train).all()
    assert (first.test == second.test).all()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    recipe = Recipe(MODEL, {**TRAIN, "epochs": 1})
    return claims(
        material(), ["light", "dark"], recipe, CONFIG, tmp_path_factory.mktemp("claims"), workers=1, quiet=True
    )


def test_every_system_is_measured_on_every_set_and_compared_on_the_same_cells(found: dict[str, Any]) -> None:
    sets = ["all", "0.5 of the units", "imbalanced"]
    assert list(found["figures"]) == list(found["training_cells"]) == sets
    for name in sets:
        figure = "balanced_accuracy" if name == "imbalanced" else "accuracy"
        rates = {system: one[figure] for system, one in found["figures"][name].items()}
        assert found["gru_minus_cnn"][name]["difference"] == pytest.approx(rates[GRU] - rates[CNN], abs=1e-5)
        assert found["gru_minus_lstm"][name]["difference"] == pytest.approx(rates[GRU] - rates[LSTM], abs=1e-5)
    assert found["training_cells"]["all"] > found["training_cells"]["imbalanced"]
    json.dumps(found, allow_nan=False)


def test_the_table_says_what_was_found(found: dict[str, Any]) -> None:
    text = markdown({**found, "notes": ["WARNING: nobody is named"]})
    for one in found["claims"]:
        assert f"{one['claim']}: {one['verdict']}" in text
    for system in (CNN, LSTM, GRU):
        assert f"{found['figures']['all'][system]['accuracy']:.3f} (" in text
        assert f"| {found['cost'][system]['parameters']} |" in text
    assert "WARNING: nobody is named" in text


def test_a_rare_class_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"claims\.rare is grey, the labels are light, dark"):
        claims(material(), ["light", "dark"], Recipe(MODEL, TRAIN), ClaimsConfig("grey"), tmp_path, quiet=True)


SAME = Paired(0.0, -0.01, 0.01)


@pytest.mark.parametrize(
    ("difference", "gru", "lstm", "expected"),
    [
        (SAME, Cost(100, 1000, 0.8), Cost(100, 1000, 1.0), HOLDS),
        (SAME, Cost(100, 1000, 1.0), Cost(100, 1000, 1.0), FAILS),  # costs the same
        (SAME, Cost(100, 800, 1.2), Cost(100, 1000, 1.0), FAILS),  # fewer products, more time
        (Paired(-0.05, -0.08, -0.01), Cost(100, 800, 0.8), Cost(100, 1000, 1.0), FAILS),
        (Paired(-0.01, -0.05, 0.03), Cost(100, 800, 0.8), Cost(100, 1000, 1.0), OPEN),
        (Paired(0.05, 0.01, 0.09), Cost(100, 800, 0.8), Cost(100, 1000, 1.0), HOLDS),
    ],
)
def test_cheaper_at_the_same_accuracy(difference: Paired, gru: Cost, lstm: Cost, expected: str) -> None:
    assert cheaper_at_the_same(difference, gru, lstm, 0.02)[0] == expected


BETTER, WORSE, UNCLEAR = Paired(0.03, 0.01, 0.05), Paired(-0.03, -0.05, -0.01), Paired(0.0, -0.06, 0.06)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ((BETTER, BETTER), HOLDS),
        ((BETTER, UNCLEAR), OPEN),
        ((BETTER, WORSE), OPEN),
        ((UNCLEAR, UNCLEAR), OPEN),
        ((SAME, WORSE), FAILS),
        ((WORSE, UNCLEAR), FAILS),
    ],
)
def test_the_hybrid_must_be_better_on_each_set(differences: tuple[Paired, ...], expected: str) -> None:
    assert better_on_subsets({str(k): one for k, one in enumerate(differences)}, 0.02)[0] == expected
