"""Trunks of torchvision, and starts from earlier weights: what fits is taken whole, what does not is said."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from service.contract.errors import ConfigError
from service.contract.image import Pixels
from tests.support.networks import SMALL, network, smears
from tests.support.realdata import data_folder
from training.arrays import write_npz
from training.models import inference
from training.models.cnn_gru import CnnGru, CnnGruConfig, parameter_count
from training.models.initial import start_from
from training.models.stain import optical_density
from training.models.torchvision_import import torchvision_models
from training.models.trunk import IMAGENET, build_trunk

SQUEEZED = replace(SMALL, trunk="squeezenet1_0", trunk_layers=4)


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    """A whole network of torchvision with random weights, and its file."""
    torch.manual_seed(1)
    whole = torchvision_models().squeezenet1_0(weights=None, num_classes=5).eval()
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(whole.state_dict(), path)
    return whole, path


def by_torchvision(features: Callable[[torch.Tensor], torch.Tensor], images: Pixels) -> torch.Tensor:
    """What torchvision's own recipe makes of uint8 [n, H, W, 3]."""
    mean, deviation = (torch.tensor(value).view(1, 3, 1, 1) for value in IMAGENET)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        return features((pixels - mean) / deviation)


def test_torchvision_imports_beside_any_torch() -> None:
    """In a process of its own, where nothing is defined yet; asked twice: a second definition would be refused."""
    script = (
        "from training.models.torchvision_import import torchvision_models as models\n"
        "assert models() is models()\nprint(sum(p.numel() for p in models().squeezenet1_0(weights=None).parameters()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1248424"


def test_another_failure_of_torchvision_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('another build')\n")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from training.models.torchvision_import import torchvision_models\ntorchvision_models()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "ImportError: torchvision cannot be imported (another build)" in done.stderr


def test_a_trunk_sees_what_torchvisions_network_would(squeezenet: tuple[torch.nn.Module, Path]) -> None:
    whole, path = squeezenet
    images = smears(2, size=64)
    trunk = build_trunk("squeezenet1_0", path, 0).eval()
    wanted = by_torchvision(whole.features, images)  # type: ignore[arg-type]
    with torch.inference_mode():
        found = trunk(optical_density(torch.from_numpy(images)))
    assert wanted.std() > 0.01
    assert found == pytest.approx(wanted, abs=1e-4 * float(wanted.abs().max()))


def test_the_first_layers_alone(squeezenet: tuple[torch.nn.Module, Path]) -> None:
    whole, path = squeezenet
    assert isinstance(whole.features, torch.nn.Sequential)
    trunk = build_trunk("squeezenet1_0", path, 4)
    assert list(trunk.body) and len(trunk.body) == 4
    for one, other in zip(trunk.body.parameters(), whole.features[:4].parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", "mobilenet_v2"])
def test_networks_without_features_end_before_their_head(name: str) -> None:
    found = CnnGru(replace(SMALL, trunk=name, height=64, width=64)).eval()
    with torch.inference_mode():
        assert found.maps(torch.rand(1, 3, 64, 64)).shape == (1, 8, 2, 2)
        assert found(torch.rand(2, 3, 64, 64))[0].shape == (2, 3)


def test_a_trunk_of_few_layers_is_within_the_default_budget() -> None:
    assert parameter_count(CnnGru(CnnGruConfig(classes=4, trunk="squeezenet1_0"))) <= 1_000_000


@pytest.mark.parametrize(
    ("name", "layers", "complaint"),
    [("squeezenet1_00", 0, "squeezenet1_0"), ("squeezenet1_0", 14, "has 13 feature blocks")],
)
def test_a_trunk_that_torchvision_does_not_have(name: str, layers: int, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        build_trunk(name, None, layers)


@pytest.mark.parametrize("trunk", ["vit_b_16", "swin_t", "alexnet"])
def test_a_trunk_that_makes_no_map_of_the_picture(trunk: str) -> None:
    """Transformers make none; AlexNet is too coarse for 32 pixels."""
    with pytest.raises(ConfigError, match="makes no map of 32×32"):
        CnnGru(replace(SMALL, trunk=trunk))


def test_weights_that_are_not_the_trunks(squeezenet: tuple[torch.nn.Module, Path], tmp_path: Path) -> None:
    whole, path = squeezenet
    with pytest.raises(ConfigError, match=r"no features\.0\.0\.weight.*mobilenet_v2"):
        build_trunk("mobilenet_v2", path, 0)
    with pytest.raises(ConfigError, match=r"features\.0\.weight is \[96, 3, 7, 7\].*\[64, 3, 3, 3\]"):
        build_trunk("squeezenet1_1", path, 0)
    with pytest.raises(ConfigError, match="is missing"):
        build_trunk("squeezenet1_0", tmp_path / "none.pth", 0)
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(ConfigError, match="not a file of weights"):
        build_trunk("squeezenet1_0", tmp_path / "text.pth", 0)
    torch.save(whole, tmp_path / "whole.pth")  # a pickled network could run anything
    with pytest.raises(ConfigError, match="not a file of weights"):
        build_trunk("squeezenet1_0", tmp_path / "whole.pth", 0)
    torch.save({"epoch": 3}, tmp_path / "run.pth")
    with pytest.raises(ConfigError, match="more than weights"):
        build_trunk("squeezenet1_0", tmp_path / "run.pth", 0)


def test_a_start_from_torchvisions_weights(squeezenet: tuple[torch.nn.Module, Path]) -> None:
    whole, path = squeezenet
    found = CnnGru(SQUEEZED)
    before = found.dense.weight.clone()
    taken = start_from(found, path)
    assert taken and all(name.startswith("trunk.") for name in taken)
    assert torch.equal(found.trunk.body.state_dict()["0.weight"], whole.state_dict()["features.0.weight"])
    assert torch.equal(found.dense.weight, before)
    with pytest.raises(ConfigError, match=r"model\.trunk"):
        start_from(CnnGru(SMALL), path)


def test_a_start_from_an_earlier_network_takes_what_fits(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    write_npz(path, inference.to_arrays(network(seed=3).state_dict()))
    again = network(seed=4)
    assert start_from(again, path) == tuple(again.state_dict())
    assert np.array_equal(
        inference.outputs(again, smears(2)).logits, inference.outputs(network(seed=3), smears(2)).logits
    )
    other = network(replace(SMALL, classes=5), seed=4)
    taken = start_from(other, path)
    assert set(other.state_dict()) - set(taken) == {"classify.weight", "classify.bias"}
    reader = "gru.weight_hh_l0"
    assert torch.equal(other.state_dict()[reader], network(seed=3).state_dict()[reader])
    with pytest.raises(ConfigError, match=r"blocks\.1\.0\.weight is \[8, 4, 3, 3\], not \[6, 4, 3, 3\]"):
        start_from(network(replace(SMALL, channels=(4, 6, 8))), path)
    with pytest.raises(ConfigError, match=r"blocks\.3\.0\.weight is missing"):
        start_from(network(replace(SMALL, channels=(4, 8, 8, 8))), path)


def test_a_start_from_nothing(tmp_path: Path) -> None:
    for name, complaint in (("gone.npz", "missing"), ("w.txt", "no start"), ("", r"model\.onnx is missing")):
        with pytest.raises(ConfigError, match=complaint):
            start_from(network(), tmp_path / name)
    (tmp_path / "model.onnx").write_bytes(b"\xff nothing")
    with pytest.raises(ConfigError, match="not an ONNX file"):
        start_from(network(), tmp_path / "model.onnx")


@pytest.mark.realdata
def test_imagenets_squeezenet_fits() -> None:
    trunk = build_trunk("squeezenet1_0", data_folder("squeezenet") / "squeezenet1_0_imagenet.pth", 0).eval()
    with torch.inference_mode():
        maps = trunk(optical_density(torch.from_numpy(smears(2, size=128))))
    # Learned filters, not random ones: some are silent on a picture and some are loud.
    assert maps.shape == (2, 512, 7, 7) and maps.max() > 10 and (maps.amax(dim=(0, 2, 3)) == 0).float().mean() > 0.05
