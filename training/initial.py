"""The weights that training starts from, as section `train` names them: a file that is what it was agreed to be."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.contract.errors import ConfigError
from service.contract.files import sha256_file
from training.arrays import read_npz
from training.models.cnn_gru import CnnGru
from training.models.initial import ARTIFACT_GRAPH, start_from
from training.recipe import TrainConfig

PRETRAINED = Path("build/pretrained.npz")


def initial_of(config: TrainConfig) -> Path | None:
    """The file or artifact folder of `train.initial`, None when it is empty.

    Raises ConfigError when there is none, and when its hash is not `train.initial_sha256`: the pipeline does not know
    the file, and reruns for a change of it because the hash among its parameters changes.
    """
    if not config.initial:
        return None
    path = Path(config.initial)
    read = path / ARTIFACT_GRAPH if path.is_dir() else path
    if not read.is_file():
        raise ConfigError(f"params.yaml: train.initial is {path}, and there is no {read}: see docs/training.md")
    found = sha256_file(read)
    if not config.initial_sha256:
        raise ConfigError(f"params.yaml: train.initial needs train.initial_sha256 beside it: {read} has {found}")
    if found != config.initial_sha256:
        raise ConfigError(
            f"{read} has the SHA-256 {found}, and train.initial_sha256 in params.yaml is {config.initial_sha256}: "
            "restore the file that was agreed on, or agree on this one"
        )
    return path


def with_pretrained(train: Mapping[str, Any], pretrained: Path = PRETRAINED) -> dict[str, Any]:
    """Section `train` with what the pretrain stage made as its start; unchanged where it made nothing.

    Raises ConfigError when the section names another start too.
    """
    if not read_npz(pretrained):
        return dict(train)
    if train.get("initial"):
        raise ConfigError("params.yaml: train.initial names a start, and pretrain.cells asks for another: drop one")
    return {**train, "initial": str(pretrained), "initial_sha256": sha256_file(pretrained)}


def begin(network: CnnGru, path: Path) -> str:
    """Take the weights of `path` where they fit; a line that says which layers have them and which stay random.

    Raises ConfigError when they do not fit.
    """
    taken = start_from(network, path)
    if not taken:
        raise ConfigError(
            f"{path} has no weight that fits the network of params.yaml: start from another, or from none"
        )
    layers = _layers(list(network.state_dict()))
    started = _layers(list(taken))
    random = [layer for layer in layers if layer not in started]
    return f"from {path}: {', '.join(started)}; random: {', '.join(random) or 'nothing'}"


def _layers(names: list[str]) -> list[str]:
    """Names without the last part, each once, in order."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))
