"""The CNN-GRU of the review (section 6, figure 7): convolutions find what is where, a GRU reads the map as a
sequence.

conv + ReLU + max-pool blocks → flatten into a sequence → GRU → dense with dropout → one logit a class. The softmax
is in serving.py, behind the temperature. By config: another trunk, another reader or none, another pooling, a stem that
unmixes stains, and several views of the picture.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from service.contract.errors import ConfigError
from training.models.sequence import AttentionPooling, reading_order
from training.models.stain import Deconvolution, standardise
from training.models.trunk import Trunk, build_trunk
from training.models.views import mean_of_views, stack_views

CHOICES: dict[str, tuple[object, ...]] = {
    "rnn": ("gru", "lstm", "none"),
    "directions": (1, 2),
    "order": ("rows", "columns", "snake"),
    "pooling": ("mean", "attention"),
    "stem": ("standardise", "deconvolution"),
    "views": (1, 2, 4, 8),
}


@dataclass(frozen=True)
class CnnGruConfig:
    """What the network's shape depends on; written beside its weights."""

    classes: int
    height: int = 128
    width: int = 128
    channels: tuple[int, ...] = (16, 32, 64, 96)
    """Filters of each convolution block; each block halves the map, the first one quarters it."""
    gru_hidden: int = 96
    features: int = 64
    """Width of the dense layer, whose output is what the embedding is a projection of."""
    dropout: float = 0.3
    rnn: str = "gru"
    """gru, lstm, or none: the map's places are pooled as they are, a plain CNN with the same dense head."""
    directions: int = 1
    """1, or 2 for a network that reads the sequence from both ends."""
    order: str = "rows"
    """How the map is read: rows, columns, or snake (every second row backwards, so that neighbours stay neighbours)."""
    pooling: str = "mean"
    """How the states become one: mean, or attention (a weighted mean whose weights are learned)."""
    stem: str = "standardise"
    """What the densities go through first: standardise, or deconvolution (a learned unmixing of stains before it)."""
    trunk: str = "cnn"
    """What makes the map: cnn, or a torchvision network by its name there."""
    trunk_layers: int = 0
    """How many of the torchvision network's feature blocks are used, from the first; 0 is all."""
    views: int = 1
    """1, 2, 4 or 8 turned and mirrored views whose features are averaged when the network is not being trained."""

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built. Raises ValueError."""
        if self.classes < 2:
            raise ValueError(f"classes is {self.classes}: a classifier needs at least 2")
        if not self.channels:
            raise ValueError("channels is empty: name the filters of at least one block")
        shrink = 2 ** (len(self.channels) + 1)
        if self.trunk == "cnn" and (self.height % shrink or self.width % shrink):
            raise ValueError(f"{self.height}×{self.width} pixels cannot be shrunk {shrink} times: use fewer channels")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it is one of {', '.join(map(str, known))}")
        if self.rnn == "none" and self.directions != 1:
            raise ValueError("directions is 2 and rnn is none: nothing reads in a direction")
        if self.trunk != "cnn" and self.stem != "standardise":
            raise ValueError(f"stem is {self.stem} and trunk {self.trunk}: that network takes plain colours")
        if self.trunk_layers < 0 or (self.trunk == "cnn" and self.trunk_layers):
            raise ValueError(f"trunk_layers is {self.trunk_layers}: it counts a torchvision network's blocks, 0 is all")
        if self.views == 8 and self.height != self.width:
            raise ValueError(f"views is 8: {self.height}×{self.width} pixels cannot be turned by 90°, use 4")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: it is a share below 1")

    def to_json(self) -> dict[str, Any]:
        """For build/model_config.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "CnnGruConfig":
        """The reverse of `to_json`. Raises TypeError for unknown names, ValueError for impossible shapes."""
        return cls(**{**value, "channels": tuple(value["channels"])})


class CnnGru(nn.Module):
    """Density of stain in, logits and features out.

    Raises ConfigError for a trunk that torchvision does not have or that makes no map of such pictures.
    """

    path: Tensor | None
    gru: nn.GRU
    stem: Deconvolution
    trunk: Trunk

    def __init__(self, config: CnnGruConfig) -> None:
        super().__init__()
        self.config = config
        if config.trunk == "cnn":
            # Folding 2×2 pixels into channels quarters the costliest map, at no loss: the texture stays, in 12
            # channels.
            self.fold = nn.PixelUnshuffle(2)
            widths = (12, *config.channels)
            self.blocks = nn.Sequential(*(_block(before, after) for before, after in pairwise(widths)))
            high, wide = (side // 2 ** (len(config.channels) + 1) for side in (config.height, config.width))
            if config.stem == "deconvolution":
                self.stem = Deconvolution()
        else:
            self.trunk = build_trunk(config.trunk, None, config.trunk_layers)
            filters, high, wide = _map_shape(self.trunk, config)
            self.project = _projection(filters, config.channels[-1])
        self.register_buffer("path", reading_order(config.order, high, wide), persistent=False)
        width = config.channels[-1]
        if config.rnn != "none":
            kind = {"gru": nn.GRU, "lstm": nn.LSTM}[config.rnn]
            reader = kind(width, config.gru_hidden, batch_first=True, bidirectional=config.directions == 2)
            self.add_module(config.rnn, reader)
            width = config.gru_hidden * config.directions
        if config.pooling == "attention":
            self.attention = AttentionPooling(width)
        self.dense = nn.Linear(width, config.features)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(config.features, config.classes)

    def forward(self, density: Tensor) -> tuple[Tensor, Tensor]:
        """float32 [n, 3, H, W] (stain.optical_density) → logits [n, C], features [n, F].

        Trained on one view, which augmentation has turned already; asked, on all that the config names.
        """
        views = 1 if self.training else self.config.views
        states = self.states(stack_views(density, views) if views > 1 else density)
        pooled = self.attention(states) if self.config.pooling == "attention" else states.mean(dim=1)
        features = torch.relu(self.dense(self.dropout(pooled)))  # (n, F)
        if views > 1:
            features = mean_of_views(features, views)
        return self.classify(self.dropout(features)), features

    def states(self, density: Tensor) -> Tensor:
        """float32 [n, 3, H, W] → the sequence as it was read, [n, h·w, hidden]."""
        maps = self.maps(density)
        sequence = maps.flatten(2).transpose(1, 2)  # (n, h·w, c): the map read row by row
        if self.path is not None:
            sequence = sequence[:, self.path]
        if self.config.rnn == "none":
            return sequence
        states: Tensor = self.get_submodule(self.config.rnn)(sequence)[0]  # (n, h·w, hidden)
        return states

    def maps(self, density: Tensor) -> Tensor:
        """float32 [n, 3, H, W] → what the convolutions found, [n, c, h, w]; for `cnn`, h = H / 2^(blocks+1)."""
        if self.config.trunk != "cnn":
            found: Tensor = self.project(self.trunk(density))
        elif self.config.stem == "deconvolution":
            found = self.blocks(self.fold(standardise(self.stem(density))))
        else:
            found = self.blocks(self.fold(standardise(density)))
        return found


def _map_shape(trunk: nn.Module, config: CnnGruConfig) -> tuple[int, int, int]:
    """Filters, rows and columns of the trunk's map. Raises ConfigError when it makes none of such pictures."""
    try:
        with torch.no_grad():
            shape = trunk.eval()(torch.zeros(1, 3, config.height, config.width)).shape
    except (RuntimeError, AssertionError):  # as torchvision's networks say that a picture is too small
        shape = torch.Size()
    trunk.train()
    if len(shape) != 4 or shape[2] > config.height or shape[3] > config.width:
        raise ConfigError(
            f"model.trunk {config.trunk} makes no map of {config.height}×{config.width} pixels: "
            "take fewer trunk_layers, or a convolutional network"
        )
    return shape[1], shape[2], shape[3]


def _projection(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel_size=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        # Pooled before it is normalised: a maximum passes ReLU unchanged either way, and a quarter is left to work
        # on.
        nn.MaxPool2d(2),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def parameter_count(network: nn.Module) -> int:
    """Number of trained weights."""
    return sum(weight.numel() for weight in network.parameters())
