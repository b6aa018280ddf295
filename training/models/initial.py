"""Weights to start training from: an earlier network's, an artifact's trunk, or torchvision's for a trunk of theirs."""

from pathlib import Path

import torch
from torch import Tensor

from service.contract.errors import ConfigError
from training.arrays import read_npz
from training.models.cnn_gru import CnnGru
from training.models.trunk import read_torchvision

ARTIFACT_GRAPH = Path("serve/model.onnx")
_PREFIX = "network."  # of the network inside the serving graph
_CONVOLUTIONS = ("blocks.", "trunk.", "stem.", "project.")
_COUNTER = "num_batches_tracked"


def start_from(network: CnnGru, path: Path) -> tuple[str, ...]:
    """Take weights from `path` in place; returns the names that were taken, in the network's order.

    - A .npz of a train or pretrain stage (build/weights.npz): the convolutions, all of which must fit, and of the rest
      what has the same name and shape, so that a set with other classes starts from all but the last layer.
    - An artifact's folder, or its serve/model.onnx: the convolutions. What reads the map is laid out in another way in
      ONNX, and stays random.
    - A .pth in torchvision's layout, for a network with a trunk of torchvision: the trunk.

    Raises ConfigError when there is no such file, or its convolutions are another network's.
    """
    if path.is_dir() or path.suffix == ".onnx":
        return _take(network, _of_artifact(path), path)
    if path.suffix == ".npz":
        return _take(network, {name: torch.from_numpy(value) for name, value in read_npz(path).items()}, path)
    if path.suffix not in (".pth", ".pt"):
        raise ConfigError(f"{path} is no start: give a .npz of weights, an artifact's folder, or torchvision's .pth")
    if network.config.trunk == "cnn":
        raise ConfigError(f"{path} is for a network of torchvision: name that network in model.trunk")
    network.trunk.load(read_torchvision(path), str(path))
    return tuple(name for name in network.state_dict() if name.startswith("trunk."))


def _take(network: CnnGru, found: dict[str, Tensor], source: Path) -> tuple[str, ...]:
    """Convolutions must be there and fit; the rest is taken where it does."""
    state = network.state_dict()
    taken = {}
    for name, value in state.items():
        other = found.get(name)
        fits = other is not None and other.shape == value.shape
        if other is not None and fits:
            taken[name] = other
        elif name.startswith(_CONVOLUTIONS) and not name.endswith(_COUNTER):
            there = "is missing" if other is None else f"is {list(other.shape)}, not {list(value.shape)}"
            raise ConfigError(
                f"{source} does not fit the network of params.yaml: {name} {there}; "
                "start from one with the same model.channels, stem and trunk"
            )
    network.load_state_dict({**state, **taken})
    return tuple(taken)


def _of_artifact(path: Path) -> dict[str, Tensor]:
    """Initializers that are the convolutions' weights, by the network's own names for them."""
    import onnx
    import onnx.numpy_helper
    from google.protobuf.message import DecodeError

    file = path / ARTIFACT_GRAPH if path.is_dir() else path
    try:
        graph = onnx.load(file).graph
    except FileNotFoundError:
        raise ConfigError(f"{file} is missing: give the folder of an artifact, or a .npz of weights") from None
    except (OSError, DecodeError):
        raise ConfigError(f"{file} is not an ONNX file: give the folder of an artifact, or a .npz of weights") from None
    return {
        part.name.removeprefix(_PREFIX): torch.from_numpy(onnx.numpy_helper.to_array(part).copy())
        for part in graph.initializer
        if part.name.startswith(tuple(_PREFIX + kind for kind in _CONVOLUTIONS))
    }
