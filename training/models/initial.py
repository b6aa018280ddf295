"""Weights to start training from: an earlier network's, an artifact's trunk, or torchvision's for a trunk of theirs."""

from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from service.contract.errors import ConfigError
from training.arrays import read_npz
from training.models.cnn_gru import CnnGru
from training.models.trunk import read_torchvision

ARTIFACT_GRAPH = Path("serve/model.onnx")
_CONVOLUTIONS = ("blocks.", "trunk.", "stem.")
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
        return _take(network, _of_artifact(path, network), path)
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


def _of_artifact(path: Path, network: CnnGru) -> dict[str, Tensor]:
    """The convolutions' weights in an exported graph, under the network's names.

    By position, not by the initializers' names: equal tensors are merged in the file under the name of the first, and a
    trunk's convolutions run in the order in which they are declared.
    """
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
    tensors = {part.name: onnx.numpy_helper.to_array(part) for part in graph.initializer}
    found: dict[str, Tensor] = {}
    for kind, modules in _convolutions(network).items():
        nodes = [node for node in graph.node if node.op_type == kind]
        # The projection behind a trunk of torchvision has its normalisation folded in: it is one more convolution.
        extra = len(nodes) - len(modules)
        if extra != (kind == "Conv" and network.config.trunk != "cnn") or any(
            name not in tensors for node in nodes[: len(modules)] for name in node.input[1:]
        ):
            raise ConfigError(
                f"{file}: its convolutions are not those of params.yaml's model, or are folded or in 8 bits: "
                "start from the .npz of its train stage"
            )
        for node, (prefix, names) in zip(nodes, modules, strict=False):
            for name, source in zip_longest(names, node.input[1:]):
                # The exporter leaves out a bias that is all zeros.
                value = tensors[source].copy() if source else np.zeros(len(tensors[node.input[1]]), np.float32)
                found[f"{prefix}.{name}"] = torch.from_numpy(value)
    return found


def _convolutions(network: CnnGru) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    """Of each ONNX operator, the modules in the order in which they run, with their tensors in the operator's order."""
    found: dict[str, list[tuple[str, tuple[str, ...]]]] = {"Conv": [], "BatchNormalization": []}
    if network.config.stem == "deconvolution":
        found["Conv"].append(("stem", ("weight",)))
    for name, module in network.named_modules():
        if name.startswith(("blocks.", "trunk.")):
            if isinstance(module, nn.Conv2d):
                found["Conv"].append((name, ("weight", "bias")[: 1 + (module.bias is not None)]))
            elif isinstance(module, nn.BatchNorm2d):
                found["BatchNormalization"].append((name, ("weight", "bias", "running_mean", "running_var")))
    return found
