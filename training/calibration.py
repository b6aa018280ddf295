"""What the calibrate stage finds, and its two files: thresholds for people to read, arrays for the graph."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.contract.errors import ConfigError
from training.arrays import read_npz, write_npz
from training.figures import Integers
from training.io import read_json, write_json

NUMBERS = Path("build/calibration.json")
ARRAYS = Path("build/calibration.npz")

Singles = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Temperature, thresholds, and the space in which a cell is like the training cells or not."""

    temperature: float
    """Logits are divided by it before the softmax."""
    abstain: float
    """An answer whose largest probability is below it is referred."""
    ood: float
    """An answer whose distance is above it is referred."""
    centre: Singles
    """[F] subtracted from the features."""
    projection: Singles
    """[F, E] features → embedding."""
    whitening: Singles
    """[E, E]: (embedding − mean) @ whitening has the length that the distance is."""
    means: Singles
    """[K, E] mean embedding of each class that has training cells."""

    def probabilities(self, logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """[n, C] → [n, C]."""
        return softmax(np.asarray(logits, dtype=np.float64) / self.temperature)

    def embed(self, features: Singles) -> Singles:
        """[n, F] → [n, E]."""
        embedding: Singles = ((features - self.centre) @ self.projection).astype(np.float32)
        return embedding

    def distance(self, embedding: Singles) -> Singles:
        """[n, E] → [n]: Mahalanobis distance to the nearest class mean, the covariance shared by the classes.

        Lee et al., arXiv 1807.03888, section 2.1.
        """
        apart = (embedding[:, None] - self.means) @ self.whitening  # (n, K, E)
        nearest: Singles = np.sqrt((apart**2).sum(axis=2)).min(axis=1)
        return nearest

    def save(self, numbers: Path = NUMBERS, arrays: Path = ARRAYS, **notes: Any) -> None:
        """Write both files; `notes` are added to the one for people."""
        found = {"temperature": self.temperature, "abstain": self.abstain, "ood": self.ood}
        write_json(numbers, {**found, **notes})
        write_npz(arrays, {name: getattr(self, name) for name in _SHAPES})

    @classmethod
    def load(cls, numbers: Path = NUMBERS, arrays: Path = ARRAYS) -> "Calibration":
        """Raises ConfigError when a file is missing, damaged or incomplete."""
        values, parts = read_json(numbers), read_npz(arrays)
        try:
            temperature, abstain, ood = (float(values[name]) for name in ("temperature", "abstain", "ood"))
            held = {name: parts[name].astype(np.float32) for name in _SHAPES}
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{numbers} or {arrays} is incomplete ({error}): run `dvc repro --force calibrate`"
            ) from None
        if any(held[name].ndim != dimensions for name, dimensions in _SHAPES.items()):
            raise ConfigError(f"{arrays} has an array of a wrong shape: run `dvc repro --force calibrate`")
        return cls(temperature, abstain, ood, **held)


_SHAPES = {"centre": 1, "projection": 2, "whitening": 2, "means": 2}


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
