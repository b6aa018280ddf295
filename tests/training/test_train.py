"""Training: the same seed gives the same bytes, it learns, it stops, and augmentation leaves the cell a cell."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from service.contract.errors import ConfigError
from service.contract.files import write_atomic
from service.contract.image import encode_png, pixels_sha256
from tests.support.networks import SMALL, discs, smears
from training.arrays import read_npz, write_npz
from training.augment import AugmentConfig, augment, turn
from training.fit import Epoch, Examples, Fitted, TrainConfig, class_weights, fit, reproducible
from training.models import inference
from training.models.stain import optical_density
from training.pixels import Cells, cells
from training.train import Plan, train

CONFIG = TrainConfig(epochs=4, patience=4, batch=16, threads=1, device="cpu", learning_rate=0.01)
GENTLE = AugmentConfig(blur=0.2, noise=0.01, glare=0.02, exposure=0.02, stain=0.02)


def fitted(config: TrainConfig = CONFIG, cells: int = 96) -> Fitted:
    images, label = discs(cells)
    return fit(Examples(images, label), Examples(*discs(30, seed=1)), SMALL, config, GENTLE)


def stored(tmp_path: Path, found: Fitted) -> bytes:
    write_npz(tmp_path / "weights.npz", found.weights)
    return (tmp_path / "weights.npz").read_bytes()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    torch.rand(7)  # what was drawn before must not matter
    first = stored(tmp_path, fitted())
    torch.manual_seed(99)
    np.random.default_rng().random(3)
    assert stored(tmp_path, fitted()) == first
    assert stored(tmp_path, fitted(replace(CONFIG, seed=1))) != first


def test_another_process_at_another_path_gives_the_same_bytes(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from training.arrays import write_npz\n"
        "from tests.training.test_train import fitted; write_npz(Path(sys.argv[1]), fitted().weights)"
    )
    repository = Path(__file__).parents[2]
    far = tmp_path / "another place"
    far.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(repository), "PADDING": "x" * 1111}
    subprocess.run([sys.executable, "-c", script, str(far / "weights.npz")], cwd=far, env=environment, check=True)
    assert (far / "weights.npz").read_bytes() == stored(tmp_path, fitted())


def test_it_learns_what_can_be_seen() -> None:
    found = fitted(replace(CONFIG, epochs=12, patience=12), cells=240)
    assert found.best.validation_loss < 0.5 * found.history[0].validation_loss
    assert found.best.validation_balanced_accuracy > 0.9
    images, label = discs(60, seed=2)
    called = inference.outputs(inference.build(SMALL, found.weights), images).logits.argmax(axis=1)
    assert (called == label).mean() > 0.9


def test_it_keeps_the_best_epoch_and_stops_when_none_is_better() -> None:
    seen: list[Epoch] = []
    images, label = discs(48)
    other_images, other_label = discs(30, seed=1)
    wrong = Examples(other_images, (other_label + 1) % 3)  # the better it learns, the worse it validates
    found = fit(
        Examples(images, label), wrong, SMALL, replace(CONFIG, epochs=40, patience=3), GENTLE, on_epoch=seen.append
    )
    assert len(found.history) < 40 and tuple(seen) == found.history
    assert found.history[-1].number - found.best.number == 3
    assert found.best == min(found.history, key=lambda epoch: epoch.validation_loss)
    again = fit(Examples(images, label), wrong, SMALL, replace(CONFIG, epochs=40, patience=4), GENTLE)
    assert again.best == found.best
    assert all(np.array_equal(again.weights[name], value) for name, value in found.weights.items())


def test_a_rare_class_counts_more() -> None:
    label = np.array([0] * 80 + [1] * 16 + [2] * 4)
    assert class_weights(label, 4, 1.0).tolist() == pytest.approx([100 / 3 / 80, 100 / 3 / 16, 100 / 3 / 4, 0.0])
    assert class_weights(label, 3, 0.0).tolist() == [1.0, 1.0, 1.0]
    half = class_weights(label, 3, 0.5)
    assert half[2] / half[0] == pytest.approx(np.sqrt(20))


def test_settings_of_torch_are_as_before_afterwards() -> None:
    threads, drawn = torch.get_num_threads(), torch.get_rng_state()
    with reproducible(3, threads + 1):
        assert torch.get_num_threads() == threads + 1
        assert torch.are_deterministic_algorithms_enabled()
        torch.rand(1)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.get_rng_state(), drawn)


def test_training_without_cells_or_without_the_device_is_refused() -> None:
    images, label = discs(8)
    some, none = Examples(images, label), Examples(images[:0], label[:0])
    with pytest.raises(ConfigError, match="validation"):
        fit(some, none, SMALL, CONFIG, GENTLE)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="cuda"):
            fit(some, some, SMALL, replace(CONFIG, device="cuda"), GENTLE)


@pytest.mark.parametrize("change", [{"device": "tpu"}, {"epochs": 0}, {"average": 1.0}])
def test_impossible_settings_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        TrainConfig(**change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="blur"):
        AugmentConfig(blur=1.0)


def test_turning_lays_each_picture_in_one_of_eight_ways() -> None:
    images = torch.from_numpy(np.repeat(smears(1), 200, axis=0))
    turned = turn(images, torch.Generator().manual_seed(0)).numpy()
    ways = [np.rot90(side, k) for side in (images[0].numpy(), images[0].numpy()[:, ::-1]) for k in range(4)]
    seen = {next(k for k, way in enumerate(ways) if np.array_equal(way, picture)) for picture in turned}
    assert seen == set(range(8))


def test_augmented_pictures_differ_a_little_and_by_the_generator_alone() -> None:
    images = torch.from_numpy(smears(16))
    nothing = AugmentConfig(0, 0, 0, 0, 0)
    one, again, other = (augment(images, AugmentConfig(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert one.shape == (16, 3, 32, 32) and one.isfinite().all()
    turned = augment(images, nothing, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    assert torch.allclose(turned, optical_density(turn(images, generator)), atol=1e-5)
    assert 0.01 < (one - turned).abs().mean() < 0.2


def dataset(tmp_path: Path) -> Cells:
    images, label = discs(90)
    rows = []
    for k, picture in enumerate(images):
        name = pixels_sha256(picture)
        write_atomic(tmp_path / f"cells/{name}.png", encode_png(picture))
        split = ("train", "train", "validation")[k // 30]
        rows.append({"path": f"cells/{name}.png", "label": f"size {label[k]}", "split": split})
    table = pd.DataFrame(rows)
    return cells(table.drop(columns="split"), table, ("size 0", "size 1", "size 2"))


def test_the_stage_trains_from_files_and_leaves_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan(
        {"channels": [4, 8, 8], "gru_hidden": 8, "features": 12, "dropout": 0.1},
        {"epochs": 3, "threads": 1, "device": "cpu", "batch": 16, "augment": {"blur": 0.2}},
    )
    found, config = train(dataset(tmp_path), tmp_path, plan, report=tmp_path / "curves", quiet=True)
    assert config == SMALL.to_json()
    assert "3 epochs of 60 cells" in capsys.readouterr().out
    curve = pd.read_csv(tmp_path / "curves/plots/metrics/validation_loss.tsv", sep="\t")
    assert curve["validation_loss"].tolist() == pytest.approx([epoch.validation_loss for epoch in found.history])
    assert json.loads((tmp_path / "curves/metrics.json").read_text())["step"] == 2
    write_npz(tmp_path / "weights.npz", found.weights)
    again = read_npz(tmp_path / "weights.npz")
    assert list(again) == list(found.weights)


def test_the_stage_goes_on_from_its_own_checkpoint_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, path = dataset(tmp_path), tmp_path / "checkpoint/train.npz"
    settings = {"epochs": 2, "threads": 1, "device": "cpu", "batch": 16}

    def said(data: Cells, **change: object) -> str:
        plan = Plan({"channels": [4, 8, 8], "gru_hidden": 8, "features": 12}, {**settings, **change})
        train(data, tmp_path, plan, report=tmp_path / "curves", quiet=True, checkpoint=path)
        return capsys.readouterr().out

    assert "going on" not in said(data)
    assert "going on after epoch 2" in said(data)
    assert pd.read_csv(tmp_path / "curves/plots/metrics/train_loss.tsv", sep="\t")["step"].tolist() == [0, 1]
    assert "going on" not in said(data, seed=1)
    assert "going on after epoch 2" in said(data, seed=1)
    fewer = Cells(data.table.iloc[1:].reset_index(drop=True), data.labels, data.label[1:])
    assert "going on" not in said(fewer, seed=1)


@pytest.mark.parametrize(
    ("model", "settings", "complaint"),
    [({"layers": 3}, {}, "model has layers"), ({}, {"augment": {"warp": 1}}, r"train\.augment has warp"),
     ({}, {"epochs": -1}, "epochs"), ({"channels": [8] * 9}, {}, "fewer channels")],
)  # fmt: skip
def test_a_wrong_plan_is_one_clear_error(
    tmp_path: Path, model: dict[str, object], settings: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        train(dataset(tmp_path), tmp_path, Plan(model, settings), report=tmp_path / "curves", quiet=True)


def test_missing_and_damaged_pictures_are_named(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    first = tmp_path / data.table["path"].iloc[0]
    first.write_bytes(first.read_bytes()[:50])
    with pytest.raises(ConfigError, match=first.name):
        data.load(tmp_path)
    first.unlink()
    with pytest.raises(ConfigError, match=first.name):
        data.load(tmp_path)
