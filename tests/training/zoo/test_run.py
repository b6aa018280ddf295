"""Rows run on prepared cells, kept fold by fold, and one table of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.contract.errors import ConfigError
from tests.training.zoo import worlds
from training.figures import Integers
from training.zoo import run, systems, table
from training.zoo.published import published
from training.zoo.results import read_result

ROWS = ("cnn_gru", "shortcut_size", "sdct", "squeezenet_pca_svm")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_rows_to_a_table(here: Path) -> None:
    worlds.write(here)
    for row in (*ROWS, "autoencoder", "glcm_forest", "nasnet_mobile", "golub"):
        assert run.main([row]) == 0
    assert table.main([]) == 0
    found = json.loads((here / "reports/zoo.json").read_text())
    by_row = {row["row"]: row for row in found["rows"]}
    for row in ROWS:
        assert by_row[row]["status"] == "ran"
        assert 0 <= by_row[row]["figures"]["accuracy"] <= 1
        assert by_row[row]["cost"]["ms"] > 0
    # The label is the disc's size, and two areas say it.
    assert by_row["shortcut_size"]["figures"]["accuracy"] > 0.9
    assert by_row["shortcut_size"]["figures"]["macro_f1"] > 0.9
    assert by_row["shortcut_size"]["cost"]["parameters"] is None
    assert by_row["squeezenet_pca_svm"]["weights"] == [
        {"network": "squeezenet1_0", "source": "untrained", "sha256": ""}
    ]
    assert by_row["squeezenet_pca_svm"]["cost"]["parameters"] == 735_424
    assert by_row["cnn_gru"]["against_ours"] is None
    assert by_row["sdct"]["against_ours"]["repeats"] == 1
    assert "outstanding bug" in by_row["nasnet_mobile"]["reason"]
    assert "zoo.golub names no folder" in by_row["golub"]["reason"]
    assert by_row["vgg16"]["reason"] == "no result: python -m training.zoo.run vgg16"
    page = (here / "reports/zoo.md").read_text()
    assert page.count("| **published** ") == len(published())
    assert "untrained" in page
    assert "no class of this set is malignant" in page
    assert (here / "reports/zoo.png").read_bytes().startswith(b"\x89PNG")


def test_a_row_that_was_killed_goes_on_and_ends_the_same(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worlds.write(here)
    assert run.main(["sdct", "--repeats", "2"]) == 0
    whole = read_result(here / "reports/zoo/sdct.json").said
    (here / "reports/zoo/sdct.json").unlink()
    files = sorted((here / "build/zoo/sdct").rglob("*.npz"))
    assert [file.name for file in files] == ["0-0.npz", "0-1.npz", "1-0.npz", "1-1.npz"]
    for file in files[2:]:
        file.unlink()
    tuned = []
    real = systems._fine_tuned

    def counting(recipe: systems.Recipe, cells: systems.ZooCells) -> systems.System:
        system = real(recipe, cells)

        def fit(train: Integers, test: Integers, repeat: int) -> object:
            tuned.append(repeat)
            return system.fit(train, test, repeat)

        return systems.System(fit, system.network)  # type: ignore[arg-type]

    monkeypatch.setattr(systems, "_fine_tuned", counting)
    assert run.main(["sdct", "--repeats", "2"]) == 0
    assert tuned == [1, 1]
    np.testing.assert_array_equal(read_result(here / "reports/zoo/sdct.json").said, whole)


def test_folds_are_not_taken_from_a_run_with_other_settings_or_cells(here: Path) -> None:
    worlds.write(here)
    run.main(["shortcut_size"])
    first = worlds.kept(here, "shortcut_size")
    run.main(["shortcut_size", "--repeats", "2"])
    assert len(worlds.kept(here, "shortcut_size")) == 4  # the two of before, and the second repeat's
    assert {name: worlds.kept(here, "shortcut_size")[name] for name in first} == first
    worlds.edit(here, "zoo", trees=21)
    run.main(["shortcut_size"])
    assert len(list((here / "build/zoo/shortcut_size").iterdir())) == 2


def test_the_cnn_gru_is_the_one_of_cross_validate(here: Path) -> None:
    worlds.write(here)
    run.main(["cnn_gru"])
    kept = sorted((here / "build/folds").glob("*.npz"))
    assert len(kept) == 2
    before = read_result(here / "reports/zoo/cnn_gru.json").said
    stamps = [path.stat().st_mtime_ns for path in kept]
    for path in (here / "build/zoo/cnn_gru").rglob("*.npz"):
        path.unlink()
    run.main(["cnn_gru"])
    assert [path.stat().st_mtime_ns for path in sorted((here / "build/folds").glob("*.npz"))] == stamps
    np.testing.assert_array_equal(read_result(here / "reports/zoo/cnn_gru.json").said, before)


@pytest.mark.parametrize("row", ["cnn_lstm", "cnn_bilstm", "sd_cnn", "hybrid"])
def test_the_kin_and_the_hybrid_answer_every_cell(here: Path, row: str) -> None:
    worlds.write(here)
    worlds.edit(here, "train", epochs=1)
    assert run.main([row]) == 0
    said = read_result(here / f"reports/zoo/{row}.json").said
    assert said.shape == (1, 36, 3)
    np.testing.assert_allclose(said.sum(axis=2), 1, atol=5e-4)


def test_fine_tuning_learns(here: Path) -> None:
    worlds.write(here, number=48, learning_rate=0.01, batch=8)
    worlds.edit(here, "zoo", rows=worlds.settings() | {"sdct": {"epochs": 25}})
    assert run.main(["sdct"]) == 0
    found = read_result(here / "reports/zoo/sdct.json")
    assert found.about["mode"] == "all weights trained"
    assert found.about["epochs"] == 25
    assert (found.called == found.label).mean() > 0.5


def test_weights_that_are_not_there_stop_the_row_before_any_fold(here: Path) -> None:
    worlds.write(here, weights={"squeezenet1_0": "nowhere.pth"})
    with pytest.raises(ConfigError, match=r"zoo.weights names nowhere.pth for squeezenet1_0, and it is missing"):
        run.main(["squeezenet_svm"])
    assert not (here / "build/zoo").exists()


def test_golub_by_its_own_folder(here: Path) -> None:
    folder = worlds.expression(here)
    worlds.write(here, golub=str(folder), genes=10)
    assert run.main(["golub", "--repeats", "2"]) == 0
    found = read_result(here / "reports/zoo/golub.json")
    assert found.said.shape == (2, 8, 2)
    run.main(["shortcut_size"])
    table.main([])
    page = (here / "reports/zoo.md").read_text()
    smears, genes = page.split("## Gene expression")
    assert "Expression DNN" not in smears
    assert "never compared with the rows above" in genes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weights": {"vgg_f": "x"}}, "weights are given for vgg_f"),
        ({"folds": 3}, "they are evaluate.folds and evaluate.seed"),
        ({"rows": {"vgg_f": {}}}, "zoo.rows has vgg_f"),
        ({"rows": {"resnet18": {}}}, "zoo.rows.resnet18 needs a mode"),
        ({"rows": {"resnet18": {"mode": "guess"}}}, "mode is 'guess'"),
        ({"batch": 0}, "batch is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(here: Path, change: dict[str, Any], says: str) -> None:
    worlds.write(here, **change)
    with pytest.raises(ConfigError, match=says):
        run.main(["resnet18"])


def test_an_unknown_row_is_refused_with_those_there_are(here: Path) -> None:
    with pytest.raises(ConfigError, match="no row 'vgg_f': it has cnn_gru, "):
        run.main(["vgg_f"])


def test_an_untrained_trunk_is_the_same_in_every_row(here: Path) -> None:
    worlds.write(here)
    torch.manual_seed(5)
    run.main(["squeezenet_svm"])
    first = read_result(here / "reports/zoo/squeezenet_svm.json").said
    for path in (here / "build/zoo").rglob("*.npz"):
        path.unlink()
    torch.manual_seed(6)
    run.main(["squeezenet_svm"])
    np.testing.assert_array_equal(read_result(here / "reports/zoo/squeezenet_svm.json").said, first)
