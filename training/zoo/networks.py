"""Networks of torchvision and timm as trunks: stain densities in, the features before their last layer out.

The same name with the same weights file is the same trunk in every row. Nothing is downloaded: a trunk's weights are
those of a file, or random, and the table says which.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from service.contract.errors import ConfigError
from training.models.torchvision_import import torchvision_models
from training.models.trunk import IMAGENET, INCEPTION, read_torchvision
from training.zoo.rows import NETWORKS, TIMM, TORCHVISION

_HALVES = ("googlenet", "legacy_xception")
"""Networks that were trained on −1…1."""


class Backbone(nn.Module):
    """A network without its last layer, behind the normalisation that its weights were trained with."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, name: str, network: nn.Module) -> None:
        super().__init__()
        self.name, self.network = name, network
        mean, deviation = INCEPTION if name in _HALVES else IMAGENET
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(1, 3, 1, 1), persistent=False)

    def forward(self, density: Tensor) -> Tensor:
        """float32 [n, 3, H, W] (stain.optical_density) → [n, F]."""
        pixels = (torch.exp(-density) * 256.0 - 1.0) / 255.0
        features: Tensor = self.network((pixels - self.mean) / self.deviation)
        return features.flatten(1)

    def width(self, height: int, width: int) -> int:
        """F of pictures of such a size."""
        was = self.training
        with torch.no_grad():
            found = self.eval()(torch.zeros(1, 3, height, width)).shape[1]
        self.train(was)
        return int(found)


class Classifier(nn.Module):
    """A trunk, dropout and one dense layer: what transfer learning trains."""

    def __init__(self, backbone: Backbone, classes: int, height: int, width: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(backbone.width(height, width), classes)

    def forward(self, density: Tensor) -> Tensor:
        """float32 [n, 3, H, W] → log-probabilities [n, C]."""
        logits: Tensor = self.classify(self.dropout(self.backbone(density)))
        return torch.log_softmax(logits, dim=1)


def build_backbone(name: str, weights: Path | None = None) -> Backbone:
    """The network `name` with weights of a file in its library's layout, or random ones.

    Raises ConfigError for a name that the zoo does not use, and for weights that are missing or another network's.
    """
    if name in TIMM:
        torchvision_models()  # timm imports torchvision, which may need help with that (docs/adr/0005)
        import timm

        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    elif name in TORCHVISION:
        options = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
        network = _without_head(torchvision_models().get_model(name, weights=None, **options))
    else:
        raise ConfigError(f"the zoo has no network {name!r}: it has {', '.join(NETWORKS)}")
    if weights is not None:
        _load(network, name, weights)
    return Backbone(name, network)


def _without_head(network: nn.Module) -> nn.Module:
    """Up to what the last layer sees: torchvision names it `fc`, or it ends `classifier`."""
    if isinstance(getattr(network, "fc", None), nn.Linear):
        network.fc = nn.Identity()
    else:
        classifier = cast("nn.Sequential", network.classifier)
        # SqueezeNet ends in a convolution, ReLU and pooling; what comes before it is pooled alike.
        if any(isinstance(part, nn.Conv2d) for part in classifier):
            network.classifier = nn.AdaptiveAvgPool2d(1)
        else:
            classifier[-1] = nn.Identity()
    return network


def _load(network: nn.Module, name: str, path: Path) -> None:
    if not path.is_file():
        raise ConfigError(
            f"zoo.weights names {path} for {name}, and it is missing: correct the path in params.yaml, or leave {name} "
            "out for an untrained trunk"
        )
    found: Mapping[str, Tensor] = read_torchvision(path)
    wanted = network.state_dict()
    for key, value in wanted.items():
        if key not in found and not key.endswith("num_batches_tracked"):
            raise ConfigError(f"{path} has no {key}: it does not hold weights of {name}")
        if key in found and found[key].shape != value.shape:
            raise ConfigError(
                f"{path}: {key} is {list(found[key].shape)}, {name} needs {list(value.shape)}: that is another network"
            )
    network.load_state_dict({key: found.get(key, value) for key, value in wanted.items()})
