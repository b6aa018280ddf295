"""The network's shapes and limits, its stain handling, and that the serving graph is what its parts are."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from service.contract.errors import ConfigError
from service.contract.image import row_check
from tests.support.networks import SMALL, calibration, network, smears
from training.arrays import write_npz
from training.calibration import Calibration, softmax
from training.models import inference
from training.models.cnn_gru import CnnGru, CnnGruConfig, parameter_count
from training.models.picture import NUMBERS, describe
from training.models.serving import Serving, answers
from training.models.stain import optical_density, plane_mean, standardise


def test_the_default_network_is_small_enough_for_the_edge() -> None:
    found = CnnGru(CnnGruConfig(classes=4))
    assert parameter_count(found) == sum(weight.numel() for weight in found.parameters())
    assert parameter_count(found) <= 300_000
    logits, features = found(torch.rand(2, 3, 128, 128))
    assert logits.shape == (2, 4) and features.shape == (2, 64)


def test_a_config_survives_its_file() -> None:
    assert CnnGruConfig.from_json(json.loads(json.dumps(SMALL.to_json()))) == SMALL
    with pytest.raises(TypeError):
        CnnGruConfig.from_json({**SMALL.to_json(), "surprise": 1})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"classes": 1}, "classes"), ({"height": 100}, "100×32"), ({"channels": ()}, "channels"),
     ({"dropout": 1.0}, "dropout")],
)  # fmt: skip
def test_a_network_that_cannot_be_built_is_refused(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        CnnGruConfig.from_json({**SMALL.to_json(), **change})


def test_the_gru_reads_the_map_in_order() -> None:
    """A sequence, not a bag: another order of the same places is another answer."""
    states = network().gru
    sequence = torch.rand(1, 4, 8)
    with torch.inference_mode():
        one, other = states(sequence)[0].mean(dim=1), states(sequence.flip(1))[0].mean(dim=1)
    assert not torch.allclose(one, other, atol=1e-3)


def test_density_is_the_logarithm_of_the_light_that_passed() -> None:
    image = torch.tensor([0, 127, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    assert torch.allclose(optical_density(image).flatten(), torch.log(torch.tensor([256.0, 2.0, 1.0])))


def test_a_stronger_stain_and_another_exposure_look_the_same_to_the_network() -> None:
    density = optical_density(torch.from_numpy(smears(3)))
    changed = density * torch.tensor([1.4, 0.8, 1.1]).view(1, 3, 1, 1) + torch.tensor([0.3, 0.1, 0.0]).view(1, 3, 1, 1)
    assert torch.allclose(standardise(changed), standardise(density), atol=0.05)
    one, other = (network()(value)[0] for value in (density, changed))
    assert torch.allclose(one, other, atol=0.02)


def test_a_blank_field_is_not_blown_up() -> None:
    noise = torch.full((1, 3, 32, 32), 0.1) + 0.01 * torch.randn(1, 3, 32, 32)
    assert standardise(noise).abs().max() < 1.0


def test_mean_of_a_plane() -> None:
    maps = torch.rand(2, 3, 8, 16)
    assert torch.allclose(plane_mean(maps), maps.mean(dim=(2, 3), keepdim=True))


def test_picture_numbers_tell_focus_stain_and_an_empty_middle() -> None:
    images = smears(1, size=64)
    density = optical_density(torch.from_numpy(images))
    plain = describe(density)
    assert plain.shape == (1, NUMBERS) and plain.isfinite().all()
    soft = torch.nn.functional.avg_pool2d(density, 5, 1, 2, count_include_pad=False)
    assert describe(soft)[0, 9] < plain[0, 9] - 1  # finest scale
    assert describe(density[:, [2, 1, 0]])[0, 6] != plain[0, 6]
    moved = torch.roll(density, 32, dims=3)
    assert (describe(moved)[0, 12:15] < plain[0, 12:15]).all()
    assert describe(torch.zeros(1, 3, 64, 64)).isfinite().all()


def test_picture_numbers_tell_which_dyes_whatever_the_white_balance() -> None:
    density = optical_density(torch.from_numpy(smears(1, size=64)))
    plain = describe(density)[0, 15:24]
    balanced = describe(density + torch.tensor([0.05, 0.0, 0.2])[:, None, None])[0, 15:24]
    assert torch.allclose(plain, balanced, atol=0.01)
    assert (describe(density[:, [1, 0, 2]])[0, 15:24] - plain).abs().max() > 0.5  # another dye


@pytest.mark.parametrize("direction", [2, 3])
def test_picture_numbers_tell_in_how_many_directions_detail_is_lost(direction: int) -> None:
    torch.manual_seed(0)
    density = torch.rand(1, 3, 64, 64)
    moved = torch.stack([torch.roll(density, k, direction) for k in range(7)]).mean(dim=0)
    defocused = torch.nn.functional.avg_pool2d(density, 7, 1, 3, count_include_pad=False)
    least = [describe(one)[0, 24].item() for one in (density, moved, defocused)]
    assert least[1] < least[0] - 1 and least[1] < least[2] - 1
    # Turned by a quarter it is as much moved as before.
    assert describe(moved.transpose(2, 3))[0, 24] == pytest.approx(least[1], abs=1e-4)


def test_the_serving_graph_is_network_temperature_projection_and_distances() -> None:
    found, about, images = network(), calibration(), smears(5)
    said = answers(Serving(found, about), images)
    seen = inference.outputs(found, images)
    assert said.probabilities == pytest.approx(softmax(seen.logits.astype(np.float64) / 1.5), abs=1e-6)
    embedding = ((seen.features - about.centre) @ about.projection).astype(np.float32)
    assert said.embedding == pytest.approx(embedding, abs=1e-5)
    cell, picture = about.embedding(embedding), about.picture(seen.picture)
    assert said.ood_score == pytest.approx(np.maximum(cell, picture), rel=1e-4)
    assert len({cell.argmax(), picture.argmax(), *np.flatnonzero(cell > picture)}) > 1  # both have their say
    assert said.row_check.dtype == np.int64
    assert np.array_equal(said.row_check, row_check(images))


def test_answers_do_not_depend_on_the_batch() -> None:
    graph, images = Serving(network(), calibration()), smears(7)
    together, alone = answers(graph, images), answers(graph, images, batch=1)
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5, rel=1e-4)


def test_distance_is_to_the_nearest_mean_over_the_edge() -> None:
    space = calibration().embedding
    at_means = space(space.means)
    assert at_means == pytest.approx(0, abs=1e-6)
    one = space.means[:1] + 0.1
    by_hand = min(np.linalg.norm((one - mean) @ space.whitening) for mean in space.means) / 2.5
    assert space(one)[0] == pytest.approx(by_hand, rel=1e-5)


def test_a_scale_of_each_class_takes_the_temperatures_place_and_survives_its_files(tmp_path: Path) -> None:
    found, images = network(), smears(5)
    scale, shift = np.array([0.5, 1, 2], dtype=np.float32), np.array([0, 0.3, -0.3], dtype=np.float32)
    replace(calibration(), scale=scale, shift=shift).save(tmp_path / "c.json", tmp_path / "c.npz")
    said = answers(Serving(found, Calibration.load(tmp_path / "c.json", tmp_path / "c.npz")), images)
    logits = inference.outputs(found, images).logits.astype(np.float64)
    assert said.probabilities == pytest.approx(softmax(logits * scale + shift), abs=1e-6)
    with pytest.raises(ValueError, match="together"):
        replace(calibration(), scale=scale)


def test_calibration_survives_its_files(tmp_path: Path) -> None:
    about = calibration()
    numbers, arrays = tmp_path / "c.json", tmp_path / "c.npz"
    about.save(numbers, arrays, note="for people")
    again = Calibration.load(numbers, arrays)
    assert (again.temperature, again.abstain) == (1.5, 0.6)
    assert np.array_equal(again.picture.whitening, about.picture.whitening)
    assert again.embedding.edge == 2.5
    assert json.loads(numbers.read_text())["ood"] == 1.0
    write_npz(arrays, {"centre": about.centre})
    with pytest.raises(ConfigError, match="calibrate"):
        Calibration.load(numbers, arrays)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    weights, config = tmp_path / "w.npz", tmp_path / "c.json"
    write_npz(weights, inference.to_arrays(network().state_dict()))
    config.write_text(json.dumps(SMALL.to_json()))
    assert np.array_equal(
        inference.outputs(inference.load(weights, config), smears(2)).logits,
        inference.outputs(network(), smears(2)).logits,
    )
    config.write_text(json.dumps({**SMALL.to_json(), "gru_hidden": 9}))
    with pytest.raises(ConfigError, match="not of the configured network"):
        inference.load(weights, config)
    config.write_text(json.dumps({"classes": 3}))
    with pytest.raises(ConfigError, match="not a model's config"):
        inference.load(weights, config)
