"""The audit: slices, abstention, the suite of strange pictures and the shortcut forests, against cases with a known
answer, and the whole on a trained small model.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from service.contract.image import Pixels
from tests.support.manifests import LABELS, manifest
from tests.support.networks import smears
from training import audit_plots, bootstrap, shortcut
from training.abstention import abstention
from training.audit import AuditConfig, evidence, forests
from training.figures import Flags, Floats, Integers
from training.flagged import flagged
from training.ood_suite import KINDS, VARIANTS, suite
from training.pixels import TEST, Cells, cells
from training.shortcut_audit import WHAT, audit
from training.slices import INSUFFICIENT, slice_table

IS_MALIGNANT = np.array([False, True])


def people(cells_each: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    return np.array([f"p{k:03d}" for k in np.repeat(np.arange(count), cells_each)])


def weights(
    unit: np.ndarray[tuple[int], np.dtype[np.str_]], label: Integers
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return bootstrap.patient_weights(unit, label, int(label.max()) + 1, draws=100, seed=0)


def test_a_slice_has_its_own_figures_and_a_small_one_says_so() -> None:
    unit = people(10, 80)
    label = (np.arange(800) // 10 % 2).astype(np.int64)
    site = np.where(np.arange(800) < 600, "north", "")
    wrong = np.zeros(800, dtype=bool)
    wrong[:600:6] = True  # a sixth at one site
    called = np.where(wrong, 1 - label, label)
    probabilities = np.full((800, 2), 0.1, dtype=np.float32)
    probabilities[np.arange(800), called] = 0.9
    found = slice_table({"site": site}, label, probabilities, IS_MALIGNANT, unit, weights(unit, label))["site"]
    north = found["north"]
    assert north["state"] == "measured" and (north["cells"], north["patients"]) == (600, 60)
    assert north["accuracy"]["value"] == pytest.approx(5 / 6, abs=1e-6)
    ill = label[:600] == 1
    assert north["sensitivity"]["value"] == pytest.approx((called[:600][ill] == 1).mean(), abs=1e-6)
    assert north["specificity"]["value"] == pytest.approx((called[:600][~ill] == 0).mean(), abs=1e-6)
    assert north["ece_debiased"]["value"] == pytest.approx(0.9 - 5 / 6, abs=0.02)
    for figure in ("accuracy", "sensitivity", "specificity", "ece_debiased"):
        low, high = north[figure]["interval"]
        assert low <= north[figure]["value"] <= high
    assert found["unknown"] == {
        "cells": 200, "patients": 20, "state": INSUFFICIENT, "reason": "fewer than 500 cells"
    }  # fmt: skip


def test_a_slice_without_a_kind_of_cell_has_no_figure_of_it() -> None:
    unit, label = people(10, 10), np.ones(100, dtype=np.int64)
    probabilities = np.tile(np.array([0.2, 0.8], dtype=np.float32), (100, 1))
    names = np.full(100, "L1")
    found = slice_table({"label": names}, label, probabilities, IS_MALIGNANT, unit, weights(unit, label), 50)
    assert found["label"]["L1"]["specificity"] is None
    assert found["label"]["L1"]["sensitivity"] == {"value": 1.0, "interval": [1.0, 1.0]}


def sure() -> tuple[Floats, Flags]:
    """Ten times ten cells: of the surest half all are right, of the rest two in five wrong."""
    confidence = np.tile(np.linspace(0.99, 0.5, 10), 10)
    correct = ~((confidence < 0.72) & (np.arange(100) // 10 % 5 < 2))
    return confidence, correct


def test_abstention_shows_the_chosen_point_on_the_curve() -> None:
    confidence, correct = sure()
    unit, label = people(10, 10), np.zeros(100, dtype=np.int64)
    off = np.zeros(100, dtype=bool)
    found = abstention(confidence, correct, 0.72, weights(unit, label), flagged=off)
    assert (found["coverage"]["value"], found["risk"]["value"]) == (0.5, 0.0)
    assert found["risk_of_all"] == pytest.approx(0.2)
    at = {point["coverage"]: point["risk"] for point in found["curve"]}
    assert at[1.0] == pytest.approx(0.2) and list(at) == sorted(at, reverse=True)
    assert found["area_under_curve"] < 0.2
    everybody = abstention(confidence, correct, 0.0, weights(unit, label), flagged=confidence < 0.6)
    assert everybody["coverage"]["value"] == 1.0 and everybody["risk"]["value"] == pytest.approx(0.2)
    low, high = everybody["risk"]["interval"]
    assert low < 0.2 < high
    assert everybody["with_out_of_distribution"]["coverage"] == pytest.approx((confidence >= 0.6).mean())
    nobody = abstention(confidence, correct, 1.0, weights(unit, label), flagged=off)
    assert nobody["coverage"]["value"] == 0 and nobody["risk"] == {"value": None, "interval": None}


def test_flags_are_counted_by_kind_and_variant_and_both_bounds_decide() -> None:
    score = np.linspace(0, 1.04, 100, dtype=np.float32)
    names = np.array(["a", "b"] * 10)
    strange = {"blank": (np.full(20, 3, dtype=np.float32), names),
               "noise": (np.where(names == "a", 3.0, 0.5).astype(np.float32), names)}  # fmt: skip
    found = flagged(score, strange, 1.0)
    assert found["false_flags"] == pytest.approx((score > 1).mean())
    assert found["kinds"]["noise"]["variants"] == {"a": 1.0, "b": 0.0}
    assert found["kinds"]["noise"]["flagged"] == 0.5 and not found["kinds"]["noise"]["met"] and not found["met"]
    only = {"blank": strange["blank"]}
    assert flagged(score, only, 1.0)["met"] and not flagged(score + 0.1, only, 1.0)["met"]


def test_the_suite_has_every_kind_and_each_variant_changes_the_picture() -> None:
    known = smears(6, size=64)
    made = suite(known, 24, 3)
    assert tuple(made) == KINDS == tuple(VARIANTS)
    for kind, (pictures, variant) in made.items():
        assert pictures.shape == (24, 64, 64, 3) and pictures.dtype == np.uint8
        assert set(variant.tolist()) == set(VARIANTS[kind])
        assert len(np.unique(pictures.reshape(24, -1), axis=0)) == 24  # no two alike
    again, other = suite(known, 24, 3), suite(known, 24, 4)
    assert all(np.array_equal(again[kind][0], made[kind][0]) for kind in KINDS)
    assert not any(np.array_equal(other[kind][0], made[kind][0]) for kind in KINDS)


def test_the_suites_kinds_are_what_they_are_called() -> None:
    known = smears(4, size=64)
    made = {kind: pictures.astype(float) for kind, (pictures, _) in suite(known, 24, 0).items()}

    def detail(pictures: Floats) -> float:
        smooth = (pictures[:, 2:] + pictures[:, :-2]) / 2
        return float(np.abs(pictures[:, 1:-1] - smooth).mean())

    spread = np.median(made["blank"].std(axis=(1, 2)))
    assert spread < 10 < np.median(known.astype(float).std(axis=(1, 2)))
    assert detail(made["noise"]) > 2 * detail(known.astype(float))
    edges = [np.abs(np.diff(p[..., 0], axis=1)).max() for p in made["defocused"]]
    assert max(edges) < 0.7 * min(np.abs(np.diff(p[..., 0].astype(float), axis=1)).max() for p in known)


def test_border_pixels_hold_no_cell_and_sources_say_what_they_know() -> None:
    known = smears(2, size=64)
    changed = known.copy()
    changed[:, 8:-8, 8:-8] = 0
    assert np.array_equal(shortcut.border_features(known), shortcut.border_features(changed))
    changed[:, :2] = 0
    assert not np.array_equal(shortcut.border_features(known), shortcut.border_features(changed))
    assert shortcut.border_features(known).shape == (2, 180)
    table = pd.DataFrame({"width": [100, 50], "height": [50, 100], "file_bytes": [9, 7]})
    sizes, files = shortcut.source_size_features(table), shortcut.file_size_features(table)
    assert sizes is not None and sizes.tolist() == [[100, 50, 2], [50, 100, 0.5]]
    assert files is not None and files.tolist() == [[9], [7]]
    assert shortcut.source_size_features(table[["width"]]) is None
    assert shortcut.file_size_features(table[["width"]]) is None


def test_the_shortcut_audit_tells_a_forest_that_is_as_good_from_one_that_is_not() -> None:
    unit = people(10, 40)
    label = (np.arange(400) // 10 % 2).astype(np.int64)
    rng = np.random.default_rng(0)
    worse = np.where(rng.random(400) < 0.4, 1 - label, label)
    network = np.where(rng.random(400) < 0.05, 1 - label, label)
    found = audit({"file size": network, "colour": worse, "image size": None}, label, network, 2, weights(unit, label))
    rows = found["forests"]
    assert rows["file size"]["network_minus"] == 0 and not rows["file size"]["network_is_better"]
    assert rows["colour"]["network_is_better"] and rows["colour"]["network_minus"] == pytest.approx(0.35, abs=0.08)
    assert rows["image size"]["state"] == "not available"
    assert found["chance"] == 0.5


def cohort() -> tuple[Cells, Pixels]:
    """Cells whose source's width, and nothing else, tells the label."""
    table = manifest(patients=12, cells=2)
    number = {name: k for k, name in enumerate(LABELS)}
    table = table.assign(width=[100 + number[name] for name in table["label"]], height=100)
    table = table.drop(columns="file_bytes", errors="ignore")
    patients = sorted(set(table["patient"]))
    place = {name: k % 3 for k, name in enumerate(patients)}
    split = pd.DataFrame(
        {"path": table["path"], "split": [("train", "validation", "test")[place[name]] for name in table["patient"]]}
    )
    data = cells(table, split, LABELS)
    rng = np.random.default_rng(0)
    return data, rng.integers(0, 255, (len(table), 32, 32, 3)).astype(np.uint8)


def test_the_forests_find_a_planted_shortcut_and_only_that(tmp_path: Path) -> None:
    data, images = cohort()
    test = data.only(TEST)
    by_split = {"known": images[data.where("train", "validation")], TEST: images[data.where(TEST)]}
    config = AuditConfig(trees=20, bootstrap=50, enough=10)
    called = forests(data, by_split, config)
    assert set(called) == set(WHAT) and called["file size"] is None
    right = {name: (found == test.label).mean() for name, found in called.items() if found is not None}
    assert right["image size"] == 1.0 and max(right["colour"], right["border pixels"]) < 0.7
    n = len(test.label)
    probabilities = np.full((n, 4), 0.1, dtype=np.float32)
    probabilities[np.arange(n), test.label] = 0.7
    score = np.linspace(0.1, 0.9, n, dtype=np.float32)
    strange = {kind: (np.full(12, 2, dtype=np.float32), np.array(["x"] * 12)) for kind in KINDS}
    found = evidence(test, LABELS[1:], probabilities, score, strange, 0.6, config)
    json.dumps(found, allow_nan=False)
    assert set(found["slices"]) == {"label", "site", "stain", "scanner"}
    assert found["out_of_distribution"]["met"] and found["abstention"]["risk"]["value"] == 0
    unit = test.column("unit")
    shortcuts = audit(called, test.label, test.label, 4, weights(unit, test.label))
    assert not shortcuts["forests"]["image size"]["network_is_better"]
    for folder in ("one", "two"):
        audit_plots.draw_all(tmp_path / folder, found, shortcuts, score, strange)
    for name in audit_plots.NAMES:
        assert (tmp_path / f"one/{name}.png").read_bytes() == (tmp_path / f"two/{name}.png").read_bytes()


def test_settings_that_say_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="enough"):
        AuditConfig(enough=1)
