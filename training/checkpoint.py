"""What a training that was killed goes on from: its whole state after an epoch, in one file without pickle.

Written aside and renamed, so that a kill at any moment leaves the last whole one. The key says which training it is of:
its parameters, its cells and the code that computes; a file with another key is never used.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from service.contract.errors import ConfigError
from training import augment, feeding, learner, losses
from training.arrays import Arrays, read_npz, write_npz
from training.models import cnn_gru, inference, initial, sequence, stain, trunk, views

FOLDER = Path("build/checkpoint")
_KEY = "key"


@dataclass(frozen=True)
class Checkpoint:
    """One file, and whose it is."""

    path: Path
    key: str

    def save(self, state: Arrays) -> None:
        """In place of the one before."""
        write_npz(self.path, {_KEY: np.array(self.key), **state})

    def load(self) -> Arrays | None:
        """The state; None when there is none, it is of another training, or it cannot be read."""
        try:
            state = read_npz(self.path)
        except ConfigError:
            return None
        key = state.pop(_KEY, None)
        return state if key is not None and str(key) == self.key else None

    def delete(self) -> None:
        """The training has come to its end."""
        self.path.unlink(missing_ok=True)


def key_of(settings: object, cells: Iterable[str]) -> str:
    """SHA-256 over settings (as JSON), names that say what the cells are, this version of torch and our own code."""
    digest = hashlib.sha256(json.dumps([settings, torch.__version__], sort_keys=True).encode())
    for name in cells:
        digest.update(f"{name}\n".encode())
    for path in _code():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _code() -> list[Path]:
    """The files that decide what weights come out of the same cells."""
    ours = (augment, feeding, learner, losses, cnn_gru, inference, initial, sequence, stain, trunk, views)
    return [Path(str(module.__file__)) for module in ours]
