"""The report has every figure of the issue, right; what does not apply is null with a reason; the pictures are
drawn.
"""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.support.manifests import LABELS, manifest
from training import figures, plots
from training.evaluate import MALIGNANT_FIGURES, EvaluateConfig, Judged, candidate_outputs, report
from training.pixels import cells

CONFIG = EvaluateConfig(bootstrap=200)
KEYS = {
    "accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "f1", "roc_auc", "ece", "per_class",
    "per_site", "shortcut_balanced_accuracy", "confusion_matrix", "intervals",
}  # fmt: skip


def judged(right: float = 0.9, shortcut_right: float = 0.4, patients: int = 10, seed: int = 0) -> Judged:
    """Ten patients a label with twelve cells each, at two sites; calls are right with a given chance."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(4), patients * 12)
    unit = np.array([f"p{k:03d}" for k in np.repeat(np.arange(4 * patients), 12)])

    def calls(chance: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        wrong = (label + rng.integers(1, 4, len(label))) % 4
        return np.where(rng.random(len(label)) < chance, label, wrong).astype(np.int64)

    called = calls(right)
    confidence = rng.uniform(0.6, 0.99, len(label))
    probabilities = np.repeat((1 - confidence)[:, None] / 3, 4, axis=1)
    probabilities[np.arange(len(label)), called] = confidence
    site = np.where(np.arange(len(label)) // 12 % 2, "site-a", "site-b")
    return Judged(
        LABELS, LABELS[1:], label.astype(np.int64), unit, site, probabilities.astype(np.float32),
        calls(shortcut_right), calls(0.5),
    )  # fmt: skip


def test_the_report_has_every_figure_and_each_is_right() -> None:
    data = judged()
    found = report(data, CONFIG)
    assert set(found) >= KEYS
    json.dumps(found, allow_nan=False)
    confusion = figures.confusion_matrix(data.label, data.called, 4)
    assert found["confusion_matrix"] == confusion.tolist()
    assert found["accuracy"] == pytest.approx((data.called == data.label).mean(), abs=1e-6)
    ill, said_ill = data.label > 0, data.called > 0
    assert found["sensitivity"] == pytest.approx((ill & said_ill).sum() / ill.sum(), abs=1e-6)
    assert found["specificity"] == pytest.approx((~ill & ~said_ill).sum() / (~ill).sum(), abs=1e-6)
    assert found["precision"] == pytest.approx((ill & said_ill).sum() / said_ill.sum(), abs=1e-6)
    assert found["roc_auc"] == pytest.approx(figures.roc_auc(1 - data.probabilities[:, 0], ill), abs=1e-6)
    recalls = [(data.called == k)[data.label == k].mean() for k in range(4)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls), abs=1e-6)
    assert [found["per_class"][name]["sensitivity"] for name in LABELS] == pytest.approx(recalls, abs=1e-6)
    assert found["per_class"]["L1"]["patients"] == 10 and found["per_class"]["L1"]["cells"] == 120
    here = data.site == "site-b"
    assert found["per_site"]["site-b"]["accuracy"] == pytest.approx((data.called == data.label)[here].mean(), abs=1e-6)
    assert found["per_site"]["site-b"]["patients"] == 20
    assert found["not_applicable"] == {}
    assert found["ece_debiased"] <= found["ece"]


def test_every_figure_lies_in_its_interval_and_the_same_seed_gives_the_same() -> None:
    data = judged()
    found = report(data, CONFIG)
    for name in ("accuracy", "balanced_accuracy", "ece_debiased", "shortcut_balanced_accuracy", *MALIGNANT_FIGURES):
        low, high = found["intervals"][name]
        assert low <= found[name] <= high and low < high
    assert report(data, CONFIG) == found
    assert report(data, replace(CONFIG, seed=1))["intervals"] != found["intervals"]


def test_the_gap_to_the_shortcut_is_of_the_same_patients() -> None:
    low, high = report(judged(0.9, 0.4), CONFIG)["intervals"]["network_minus_shortcut"]
    assert 0.35 < low < 0.5 < high < 0.6
    # A forest that calls what the network calls is behind by nothing at all, in every resampling.
    data = judged()
    same = report(replace(data, shortcut=data.called), CONFIG)
    assert same["intervals"]["network_minus_shortcut"] == [0.0, 0.0]


def test_without_a_malignant_class_its_figures_are_null_with_a_reason() -> None:
    found = report(replace(judged(), malignant=()), CONFIG)
    assert all(found[name] is None for name in MALIGNANT_FIGURES)
    assert found["not_applicable"] == dict.fromkeys(MALIGNANT_FIGURES, "no label of this data set is malignant")
    assert found["balanced_accuracy"] > 0.8 and "sensitivity" not in found["intervals"]
    assert found["per_site"]["site-a"]["sensitivity"] is None
    json.dumps(found, allow_nan=False)


def test_test_cells_of_one_kind_only_are_said_to_be_so() -> None:
    data = judged()
    ill = data.label > 0
    only = Judged(
        data.labels, data.malignant, data.label[ill], data.unit[ill], data.site[ill], data.probabilities[ill],
        data.shortcut[ill], data.size_shortcut[ill],
    )  # fmt: skip
    found = report(only, CONFIG)
    assert found["not_applicable"]["specificity"] == "every test cell is malignant"
    assert found["per_class"]["healthy"]["sensitivity"] is None
    json.dumps(found, allow_nan=False)


def test_what_gate_and_package_read_is_row_aligned() -> None:
    table = manifest(patients=2, cells=2)
    split = pd.DataFrame({"path": table["path"], "split": ["test", "train"] * (len(table) // 2)})
    test = cells(table, split, LABELS).only("test")
    n = len(test.label)
    data = judged()
    some = replace(
        data, label=test.label, unit=test.column("unit"), site=test.column("site"),
        probabilities=data.probabilities[:n], shortcut=data.shortcut[:n], size_shortcut=data.size_shortcut[:n],
    )  # fmt: skip
    found = candidate_outputs(some, test, np.zeros((n, 5), dtype=np.float32), np.ones(n))
    assert {name: value.shape[1:] for name, value in found.items()} == {
        "path": (), "unit": (), "patient": (), "site": (), "stain": (), "scanner": (), "label": (), "shortcut": (),
        "probabilities": (4,), "embedding": (5,), "ood_score": (), "statistics": (5,),
    }  # fmt: skip
    assert {len(value) for value in found.values()} == {n}
    assert found["path"].tolist() == table["path"][::2].tolist()
    assert found["statistics"][0] == pytest.approx([0.7, 0.2, 0.03, -0.1, 0.4])
    assert found["embedding"].dtype == found["ood_score"].dtype == np.float32


@pytest.mark.parametrize("malignant", [LABELS[1:], ()])
def test_the_pictures_are_drawn_and_drawn_alike(tmp_path: Path, malignant: tuple[str, ...]) -> None:
    data = replace(judged(), malignant=malignant)
    embedding = np.random.default_rng(0).normal(size=(len(data.label), 4)).astype(np.float32)
    for folder in ("one", "two"):
        plots.draw_all(tmp_path / folder, data, embedding, 0.7)
    assert {path.stem for path in (tmp_path / "one").iterdir()} == set(plots.NAMES)
    for name in plots.NAMES:
        picture = (tmp_path / f"one/{name}.png").read_bytes()
        assert picture == (tmp_path / f"two/{name}.png").read_bytes()
        pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("L"))
        assert pixels.shape[0] > 400 and (pixels < 128).any() and pixels[0, 0] == 255


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="bootstrap"):
        EvaluateConfig(bootstrap=1)
