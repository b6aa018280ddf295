"""Synthetic cells in a mapped file, a network that learns them, and a training that starts from it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.contract.errors import ConfigError
from service.contract.files import sha256_file
from service.contract.image import Field
from tests.support.networks import SMALL, discs
from training.arrays import read_npz, write_npz
from training.augment import AugmentConfig
from training.datasets.synthetic import LABELS
from training.drawn import CELLS_PER_PATIENT, Drawn, draw, specs
from training.fit import Examples, TrainConfig, fit
from training.initial import begin, initial_of, with_pretrained
from training.models import inference
from training.models.cnn_gru import CnnGru
from training.pretrain import PRETRAINED, PretrainConfig, main, pretrain, transferable

FIELD = Field(32, 32, 20.0)
MODEL = {"channels": [4, 8, 8], "gru_hidden": 8, "features": 12, "dropout": 0.1}
TRAIN = {"threads": 1, "device": "cpu", "batch": 16, "learning_rate": 0.01, "augment": {"rotate": 10.0}}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(160, 3, ["site-a", "site-b"], FIELD, tmp_path_factory.mktemp("drawn"))


def test_cells_are_drawn_once_and_the_same_however_many_workers(drawn: Drawn, tmp_path: Path) -> None:
    assert drawn.images.shape == (160, 32, 32, 3) and drawn.images.dtype == np.uint8
    assert drawn.images.reshape(160, -1).std(axis=1).min() > 1, "no picture is blank"
    again = draw(160, 3, ["site-a", "site-b"], FIELD, tmp_path, workers=2)
    assert np.array_equal(again.images, drawn.images) and np.array_equal(again.label, drawn.label)
    (file,) = tmp_path.iterdir()
    stamp = file.stat().st_mtime_ns
    draw(160, 3, ["site-a", "site-b"], FIELD, tmp_path)
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == [stamp]


def test_the_last_cells_are_of_patients_who_have_no_others(drawn: Drawn) -> None:
    divide = len(drawn.label) - drawn.validation
    assert drawn.validation == 2 * len(LABELS) * CELLS_PER_PATIENT
    assert not set(drawn.patient[:divide]) & set(drawn.patient[divide:])
    assert set(drawn.label[:divide]) == set(drawn.label[divide:]) == set(range(len(LABELS)))
    for part in (drawn.images[:divide], drawn.images[divide:]):
        assert part.base is not None, "a part of the file, not a copy"


@pytest.mark.parametrize(("cells", "sites", "said"), [(159, ["site-a", "site-b"], "160"), (900, ["site-c"], "site-c")])
def test_what_cannot_be_drawn_is_refused(cells: int, sites: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        specs(cells, 0, sites)


def test_a_network_learns_them_and_a_training_starts_from_all_but_its_last_layer(
    drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = PretrainConfig(cells=160, seed=1, epochs=3)
    found = pretrain(drawn, config, MODEL, TRAIN, quiet=True)
    assert len(found.history) == 3 and found.history[2].train_loss < found.history[0].train_loss
    assert pretrain(drawn, config, MODEL, {**TRAIN, "initial": "not here"}, quiet=True).history == found.history
    weights = transferable(found.weights)
    assert set(found.weights) - set(weights) == {"classify.weight", "classify.bias"}
    path = tmp_path / "pretrained.npz"
    write_npz(path, weights)
    recipe = TrainConfig(
        epochs=1, threads=1, device="cpu", batch=16, initial=str(path), initial_sha256=sha256_file(path)
    )
    start = initial_of(recipe)
    assert start == path
    network = CnnGru(SMALL)
    line = begin(network, start)
    assert line.endswith("random: classify") and "blocks.0.0" in line and "gru" in line
    state = inference.to_arrays(network.state_dict())
    assert all(np.array_equal(state[name], value) for name, value in weights.items())

    cells, others = Examples(*discs(48)), Examples(*discs(30, seed=1))
    started = fit(cells, others, SMALL, recipe, AugmentConfig(), start=lambda one: begin(one, path))
    scratch = fit(cells, others, SMALL, recipe, AugmentConfig())
    far = [np.abs(one.weights["blocks.0.0.weight"] - weights["blocks.0.0.weight"]).max() for one in (started, scratch)]
    assert far[0] < 0.5 * far[1]


def test_a_start_that_is_not_what_was_agreed_on_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    write_npz(path, {"blocks.0.0.weight": np.zeros((2, 2), dtype=np.float32)})
    assert initial_of(TrainConfig()) is None
    with pytest.raises(ConfigError, match=sha256_file(path)):
        initial_of(TrainConfig(initial=str(path)))
    with pytest.raises(ConfigError, match="agreed"):
        initial_of(TrainConfig(initial=str(path), initial_sha256="0" * 64))
    with pytest.raises(ConfigError, match="nowhere"):
        initial_of(TrainConfig(initial=str(tmp_path / "nowhere.npz")))
    with pytest.raises(ConfigError, match="blocks"):
        begin(CnnGru(SMALL), path)
    with pytest.raises(ConfigError, match="channels"):
        begin(CnnGru(replace(SMALL, channels=(8, 8, 8))), write(tmp_path, CnnGru(SMALL)))


def write(folder: Path, network: CnnGru) -> Path:
    write_npz(folder / "other.npz", inference.to_arrays(network.state_dict()))
    return folder / "other.npz"


def test_without_cells_an_empty_file_says_that_nothing_was_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("pretrain: {cells: 0}\n")
    assert main([]) == 0
    assert read_npz(PRETRAINED) == {}
    assert with_pretrained({"initial": "", "epochs": 3}) == {"initial": "", "epochs": 3}


def test_what_was_learned_is_where_training_starts_unless_another_start_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pretrained.npz"
    write_npz(path, {"fold": np.zeros(3)})
    started = with_pretrained({"initial": "", "initial_sha256": ""}, path)
    assert started == {"initial": str(path), "initial_sha256": sha256_file(path)}
    with pytest.raises(ConfigError, match="drop one"):
        with_pretrained({"initial": "other.npz"}, path)
