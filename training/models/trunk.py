"""A torchvision network's first layers as the convolutional trunk: densities of stain in, a map out.

Its weights are its own or those of a file in torchvision's layout; nothing is downloaded.
"""

import difflib
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from service.contract.errors import ConfigError
from training.models.torchvision_import import torchvision_models

# What torchvision's weights were trained with; the two networks of the Inception family take another scale.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_INCEPTION_FAMILY = ("googlenet", "inception_v3")
_HEADS = ("classifier", "fc", "head", "heads")


class Trunk(nn.Module):
    """Feature blocks behind torchvision's normalisation of the light that a density lets through."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, name: str, prefix: str, blocks: "OrderedDict[str, nn.Module]") -> None:
        super().__init__()
        self.name, self.prefix = name, prefix
        self.body = nn.Sequential(blocks)
        mean, deviation = INCEPTION if name in _INCEPTION_FAMILY else IMAGENET
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(1, 3, 1, 1), persistent=False)

    def forward(self, density: Tensor) -> Tensor:
        """float32 [n, 3, H, W] (stain.optical_density) → maps [n, c, h, w]."""
        # stain.transmitted in reverse: torchvision's scale is 0 to 255, not 1 to 256.
        pixels = (torch.exp(-density) * 256.0 - 1.0) / 255.0
        maps: Tensor = self.body((pixels - self.mean) / self.deviation)
        return maps

    def load(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Take the trunk's entries of a whole network's weights in torchvision's layout; its head is left.

        Raises ConfigError naming the first entry that is missing or has another shape.
        """
        wanted = self.body.state_dict()
        found: dict[str, Tensor] = {}
        for key, value in wanted.items():
            full = self.prefix + key
            if full not in weights:
                if key.endswith("num_batches_tracked"):
                    found[key] = value
                    continue
                raise ConfigError(f"{source} has no {full}: it does not hold weights of torchvision's {self.name}")
            if weights[full].shape != value.shape:
                one, other = list(weights[full].shape), list(value.shape)
                raise ConfigError(f"{source}: {full} is {one}, {self.name} needs {other}: these are another network's")
            found[key] = weights[full]
        self.body.load_state_dict(found)


def build_trunk(name: str, weights: Path | None, layers: int) -> Trunk:
    """The first `layers` feature blocks of torchvision's network `name`, 0 for all of them.

    `weights`: a file in torchvision's layout (.pth), or None for random ones. Raises ConfigError for a name that
    torchvision does not have, more layers than there are, and weights that do not fit.
    """
    models = torchvision_models()
    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known) or ["squeezenet1_0", "mobilenet_v2", "resnet18"]
        raise ConfigError(f"torchvision has no network {name!r}: model.trunk is cnn, or for instance {', '.join(near)}")
    options = {"aux_logits": False, "init_weights": False} if name in _INCEPTION_FAMILY else {}
    prefix, blocks = _feature_blocks(models.get_model(name, weights=None, **options))
    if layers > len(blocks):
        raise ConfigError(f"model.trunk_layers is {layers}, and {name} has {len(blocks)} feature blocks")
    trunk = Trunk(name, prefix, OrderedDict(list(blocks.items())[: layers or len(blocks)]))
    if weights is not None:
        trunk.load(read_torchvision(weights), str(weights))
    return trunk


def read_torchvision(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth file, read without running any code that it may hold. Raises ConfigError."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: give the path of a weights file, or leave train.initial empty") from None
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile):
        raise ConfigError(
            f"{path} is not a file of weights that torch.save wrote: nothing else in it is read"
        ) from None
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ConfigError(f"{path} holds more than weights: save the network's state_dict() alone")
    return found


def _feature_blocks(network: nn.Module) -> tuple[str, "OrderedDict[str, nn.Module]"]:
    """Prefix of their names, and the blocks in the order in which they run, up to where the map is pooled."""
    for name in ("features", "layers"):
        inner = getattr(network, name, None)
        if isinstance(inner, nn.Sequential):
            return f"{name}.", OrderedDict(inner.named_children())
    found: OrderedDict[str, nn.Module] = OrderedDict()
    for name, child in network.named_children():
        if name in _HEADS or isinstance(child, nn.AdaptiveAvgPool2d | nn.Dropout | nn.Linear):
            break
        found[name] = child
    return "", found
