"""The trained network on many cells: weights from their file; logits, features and picture numbers in batches."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from service.contract.errors import ConfigError
from service.contract.image import Pixels
from training.arrays import Arrays, read_npz
from training.io import read_json
from training.models.cnn_gru import CnnGru, CnnGruConfig
from training.models.picture import describe
from training.models.stain import optical_density

WEIGHTS = Path("build/weights.npz")
CONFIG = Path("build/model_config.json")
BATCH = 64


class Outputs(NamedTuple):
    """Of n cells, float32: logits [n, C], features [n, F], picture [n, P] (picture.describe)."""

    logits: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]
    picture: npt.NDArray[np.float32]


def to_arrays(weights: Mapping[str, torch.Tensor]) -> Arrays:
    """A network's state as named arrays."""
    return {name: value.detach().cpu().numpy().copy() for name, value in weights.items()}


def build(config: CnnGruConfig, weights: Arrays) -> CnnGru:
    """The network with its weights, in evaluation mode. Raises ConfigError when they do not fit each other."""
    network = CnnGru(config)
    try:
        network.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in weights.items()})
    except RuntimeError:
        raise ConfigError("the weights are not of the configured network: run `dvc repro --force train`") from None
    return network.eval()


def load(weights: Path = WEIGHTS, config: Path = CONFIG) -> CnnGru:
    """The network of the train stage. Raises ConfigError when a file is missing or damaged."""
    value: dict[str, Any] = read_json(config)
    try:
        parsed = CnnGruConfig.from_json(value)
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"{config} is not a model's config ({error}): run `dvc repro --force train`") from None
    return build(parsed, read_npz(weights))


def outputs(network: CnnGru, images: Pixels, *, batch: int = BATCH, threads: int | None = None) -> Outputs:
    """Of uint8 [n, H, W, 3], n ≥ 1, on the CPU and in evaluation mode, with `threads` or as many as there are."""
    network.eval()
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    parts: list[tuple[torch.Tensor, ...]] = []
    try:
        with torch.inference_mode():
            for start in range(0, len(images), batch):
                density = optical_density(torch.from_numpy(images[start : start + batch]))
                parts.append((*network(density.contiguous(memory_format=torch.channels_last)), describe(density)))
    finally:
        torch.set_num_threads(before)
    return Outputs(*(torch.cat(column).numpy() for column in zip(*parts, strict=True)))
