"""What the calibrate stage finds, and its two files: thresholds for people to read, arrays for the graph."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.contract.errors import ConfigError
from training.arrays import Arrays, read_npz, write_npz
from training.figures import Integers
from training.io import read_json, write_json

NUMBERS = Path("build/calibration.json")
ARRAYS = Path("build/calibration.npz")
OOD_EDGE = 1.0
"""The out-of-distribution score is a distance over the distance at which the known cells end, so its threshold is
1.
"""

Singles = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Distance:
    """Mahalanobis distance to the nearest class mean, the covariance shared by the classes, over where known cells
    end.

    Lee et al., arXiv 1807.03888, section 2.1.
    """

    means: Singles
    """[K, d] of each class that has training cells."""
    whitening: Singles
    """[d, d]: (x − mean) @ whitening has the length that the distance is."""
    edge: float = 1.0
    """The distance at which the known cells end."""

    def __call__(self, values: Singles) -> Singles:
        """[n, d] → [n]."""
        apart = (values[:, None] - self.means) @ self.whitening  # (n, K, d)
        nearest: Singles = (np.sqrt((apart**2).sum(axis=2)).min(axis=1) / self.edge).astype(np.float32)
        return nearest


@dataclass(frozen=True, eq=False)
class Calibration:
    """Temperature, thresholds, and the spaces in which a cell is like the training cells or not."""

    temperature: float
    """Logits are divided by it before the softmax."""
    abstain: float
    """An answer whose largest probability is below it is referred."""
    centre: Singles
    """[F] subtracted from the features."""
    projection: Singles
    """[F, E] features → embedding."""
    embedding: Distance
    """Of embeddings: is it like a cell of some class?"""
    picture: Distance
    """Of models.picture.describe: is it a picture like those of the training cells?"""
    scale: Singles | None = None
    """[C] where each class has a scale of its own, by which its logit is multiplied instead of the temperature."""
    shift: Singles | None = None
    """[C] added after that; there when `scale` is."""

    def __post_init__(self) -> None:
        """Refuse half of a vector scaling. Raises ValueError."""
        if (self.scale is None) != (self.shift is None):
            raise ValueError("scale and shift of the classes go together")

    def save(self, numbers: Path = NUMBERS, arrays: Path = ARRAYS, **notes: Any) -> None:
        """Write both files; `notes` are added to the one for people."""
        write_json(numbers, {"temperature": self.temperature, "abstain": self.abstain, "ood": OOD_EDGE, **notes})
        parts: Arrays = {"centre": self.centre, "projection": self.projection}
        for name in _SPACES:
            space: Distance = getattr(self, name)
            parts |= {f"{name}_{key}": np.asarray(value) for key, value in vars(space).items()}
        if self.scale is not None and self.shift is not None:
            parts |= {"scale": self.scale, "shift": self.shift}
        write_npz(arrays, parts)

    @classmethod
    def load(cls, numbers: Path = NUMBERS, arrays: Path = ARRAYS) -> "Calibration":
        """Raises ConfigError when a file is missing, damaged or incomplete."""
        values, parts = read_json(numbers), read_npz(arrays)
        try:
            spaces = [
                Distance(parts[f"{name}_means"], parts[f"{name}_whitening"], float(parts[f"{name}_edge"]))
                for name in _SPACES
            ]
            temperature, abstain = (float(values[name]) for name in ("temperature", "abstain"))
            return cls(
                temperature, abstain, parts["centre"], parts["projection"], spaces[0], spaces[1],
                parts.get("scale"), parts.get("shift"),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{numbers} or {arrays} is incomplete ({error}): run `dvc repro --force calibrate`"
            ) from None


_SPACES = ("embedding", "picture")


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[n, C] → [n, C], rows summing to 1."""
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float64] = exponent / exponent.sum(axis=1, keepdims=True)
    return shares


def negative_log_likelihood(logits: npt.NDArray[np.float64], label: Integers, temperature: float) -> float:
    """Mean over cells, in nats, of logits [n, C] divided by the temperature."""
    scaled = logits / temperature
    highest = scaled.max(axis=1)
    total = highest + np.log(np.exp(scaled - highest[:, None]).sum(axis=1))
    return float((total - scaled[np.arange(len(label)), label]).mean())
