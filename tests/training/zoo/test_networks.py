"""Trunks of torchvision and timm: shapes, weights, and what is said when weights are missing."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from service.contract.errors import ConfigError
from tests.support.realdata import data_folder
from training.models.stain import optical_density
from training.zoo.composed import Hybrid, SdctNet
from training.zoo.networks import Classifier, build_backbone
from training.zoo.rows import NETWORKS, ROWS

REPO = Path(__file__).parents[3]
WIDTHS = {
    "alexnet": 4096, "vgg16": 4096, "vgg19": 4096, "googlenet": 1024, "resnet18": 512, "resnet50": 2048,
    "mobilenet_v2": 1280, "shufflenet_v2_x1_0": 1024, "squeezenet1_0": 512, "mobilenetv1_100": 1024,
    "legacy_xception": 2048,
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gives_its_features_and_a_log_probability_a_class(name: str) -> None:
    # On the meta device nothing is computed, so that even VGG19 takes no time; shapes are those of real pictures.
    with torch.device("meta"):
        backbone = build_backbone(name)
        pictures = torch.rand(2, 3, 64, 64)
        assert backbone.eval()(pictures).shape == (2, WIDTHS[name])
        assert Classifier(backbone, 5, 64, 64).eval()(pictures).shape == (2, 5)


def test_timm_is_imported_where_torchvision_was_not_yet() -> None:
    # Its own process: here other tests have imported torchvision, and timm finds it.
    code = (
        "import torch; from training.zoo.networks import build_backbone\n"
        "with torch.device('meta'): print(build_backbone('mobilenetv1_100').eval()(torch.rand(1, 3, 64, 64)).shape[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.stdout == "1024\n", done.stderr[-2000:]


def test_every_network_of_a_row_is_known() -> None:
    used = {name for row in ROWS.values() for name in row.networks} - {"sdct"}
    assert used == set(NETWORKS)


def test_answers_are_log_probabilities_and_gradients_reach_the_first_layer() -> None:
    torch.manual_seed(0)
    density = optical_density(torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8))
    networks = {
        "one": Classifier(build_backbone("shufflenet_v2_x1_0"), 3, 64, 64),
        "hybrid": Hybrid(build_backbone("resnet18"), build_backbone("mobilenet_v2"), 3, 64, 64),
        "sdct": SdctNet(3, 64, 64),
    }
    for name, network in networks.items():
        said = network.eval()(density)
        torch.testing.assert_close(said.exp().sum(dim=1), torch.ones(4), msg=name)
        network.train()(density)[:, 0].sum().backward()
        assert all(weight.grad is not None for weight in network.parameters()), name


def test_the_hybrid_listens_to_the_surer_network() -> None:
    torch.manual_seed(0)
    network = Hybrid(build_backbone("squeezenet1_0"), build_backbone("squeezenet1_0"), 2, 64, 64).eval()
    with torch.no_grad():
        for part, bias in ((network.one, [0.0, 6.0]), (network.other, [0.2, 0.0])):
            part.classify.weight.zero_()
            part.classify.bias.copy_(torch.tensor(bias))
        said = network(torch.rand(1, 3, 64, 64)).exp()[0]
    plain = (torch.tensor([0.0, 6.0]).softmax(0) + torch.tensor([0.2, 0.0]).softmax(0)) / 2
    assert said[1] > plain[1] > 0.5


def test_the_auxiliary_classifier_answers_where_it_is_surer() -> None:
    torch.manual_seed(0)
    network = SdctNet(2, 32, 32).eval()
    with torch.no_grad():
        network.classify.weight.zero_()
        network.auxiliary.weight.zero_()
        network.classify.bias.copy_(torch.tensor([0.3, 0.0]))
        network.auxiliary.bias.copy_(torch.tensor([0.0, 2.0]))
        assert network(torch.rand(1, 3, 32, 32)).argmax() == 1
        network.classify.bias.copy_(torch.tensor([5.0, 0.0]))
        assert network(torch.rand(1, 3, 32, 32)).argmax() == 0


def test_weights_of_a_file_are_taken_and_the_head_is_left(tmp_path: Path) -> None:
    torch.manual_seed(1)
    from training.models.torchvision_import import torchvision_models

    whole = torchvision_models().squeezenet1_0(weights=None)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    backbone = build_backbone("squeezenet1_0", tmp_path / "w.pth").eval()
    pixels = torch.rand(1, 3, 64, 64)
    density = -torch.log((pixels * 255 + 1) / 256)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    wanted = whole.eval().features((pixels - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)).mean(dim=(2, 3))
    torch.testing.assert_close(backbone(density), wanted, rtol=1e-3, atol=1e-5)


def test_weights_that_are_missing_or_another_networks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"zoo.weights names .*nowhere.pth for squeezenet1_0, and it is missing"):
        build_backbone("squeezenet1_0", tmp_path / "nowhere.pth")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"features.0.weight is \[1\], squeezenet1_0 needs \[96, 3, 7, 7\]"):
        build_backbone("squeezenet1_0", tmp_path / "w.pth")
    torch.save({}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"has no features.0.weight: it does not hold weights of squeezenet1_0"):
        build_backbone("squeezenet1_0", tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="the zoo has no network 'vgg_f'"):
        build_backbone("vgg_f")


@pytest.mark.realdata
def test_imagenet_weights_of_squeezenet_fit() -> None:
    found = build_backbone("squeezenet1_0", data_folder("squeezenet") / "squeezenet1_0_imagenet.pth")
    assert sum(weight.numel() for weight in found.parameters()) == 735_424
