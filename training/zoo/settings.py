"""Section `zoo` of params.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.contract.errors import ConfigError
from training.config import configured
from training.zoo.rows import NETWORKS, ROWS

MODES = ("finetune", "features")


@dataclass(frozen=True)
class RowSettings:
    """What a row costs; each row has its own entry under zoo.rows."""

    mode: str = ""
    """For networks: finetune trains all of it, features trains a linear layer on what the trunk sees as it is."""
    epochs: int = 1
    """Of fine-tuning, and of the autoencoder."""
    repeats: int = 1
    """Of the k folds."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run. Raises ValueError."""
        if self.mode not in ("", *MODES):
            raise ValueError(f"mode is {self.mode!r}: it is {' or '.join(MODES)}")
        if self.epochs < 1 or self.repeats < 1:
            raise ValueError(f"epochs is {self.epochs} and repeats {self.repeats}: at least 1 each")


@dataclass(frozen=True)
class ZooConfig:
    """What all rows have in common. `folds` and `seed` are those of section `evaluate`: cross_validate's folds."""

    folds: int = 5
    seed: int = 0
    threads: int = 1
    """Of the processor while training; ms an image are always of one."""
    batch: int = 16
    learning_rate: float = 0.0005
    """The highest of fine-tuning's one-cycle schedule."""
    weight_decay: float = 0.01
    class_weight: float = 0.5
    """As in section train, for fine-tuning."""
    components: int = 64
    """Of the PCA rows, at most."""
    trees: int = 300
    genes: int = 500
    """Of the expression DNN: those that vary most over its training patients."""
    bootstrap: int = 2000
    """Resamplings of the units for intervals."""
    golub: str = ""
    """The folder of the three files of Golub et al.; empty: that row is not run."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Network → file of its weights; a network without one is an untrained trunk."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run. Raises ValueError."""
        for name in ("folds", "bootstrap"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 2")
        for name in ("threads", "batch", "components", "trees", "genes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if unknown := sorted(set(self.weights) - set(NETWORKS)):
            raise ValueError(f"weights are given for {', '.join(unknown)}, known are {', '.join(NETWORKS)}")

    def weights_of(self, network: str) -> Path | None:
        """The file for a network, None for an untrained one."""
        return Path(self.weights[network]) if self.weights.get(network) else None


def parse(section: Mapping[str, Any], evaluate: Mapping[str, Any], row: str) -> tuple[ZooConfig, RowSettings]:
    """Sections `zoo` and `evaluate`, and one row's own entry. Raises ConfigError for what is unknown or impossible."""
    if "folds" in section or "seed" in section:
        raise ConfigError("params.yaml: zoo has folds or seed of its own: they are evaluate.folds and evaluate.seed")
    common = {**section, "folds": evaluate["folds"], "seed": evaluate["seed"]}
    rows = common.pop("rows", {})
    if unknown := sorted(set(rows) - set(ROWS)):
        raise ConfigError(f"params.yaml: zoo.rows has {', '.join(unknown)}, known are {', '.join(ROWS)}")
    own = configured(RowSettings, f"zoo.rows.{row}", rows.get(row) or {})
    if ROWS[row].kind == "network" and not own.mode and not ROWS[row].missing:
        raise ConfigError(f"params.yaml: zoo.rows.{row} needs a mode, finetune or features")
    return configured(ZooConfig, "zoo", common), own
