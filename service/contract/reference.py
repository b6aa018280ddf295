"""The held-out cells that travel with a model, so that monitoring has something to hold production against."""

import io
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.contract.errors import ArtifactError
from service.contract.files import write_atomic
from service.contract.statistics import STATISTICS

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Reference:
    """n held-out cells, and the confusion matrix from patients that calibration did not see.

    embedding      float32 [n, E]
    statistics     float32 [n, 5], in the order of statistics.STATISTICS
    probabilities  float32 [n, C], calibrated
    label          int64 [n], index into the manifest's labels
    site           n names
    patient        int64 [n], a random ordinal: never a pseudonym, never anything that leads back to one
    confusion      float64 [C, C], counts: rows true, columns predicted (largest probability)
    priors         float64 [C], the shares of the labels that the probabilities are for; [0] where they are those of the
                   reference's own cells
    """

    embedding: Floats
    statistics: Floats
    probabilities: Floats
    label: Integers
    site: tuple[str, ...]
    patient: Integers
    confusion: npt.NDArray[np.float64]
    priors: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        """Bring arrays to their types and check the shapes. Raises ArtifactError."""
        for name, kind in _KINDS.items():
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=kind))
        object.__setattr__(self, "site", tuple(str(site) for site in self.site))
        rows, classes = len(self.label), self.confusion.shape[-1]
        wanted = {
            "statistics": (rows, len(STATISTICS)),
            "probabilities": (rows, classes),
            "label": (rows,),
            "patient": (rows,),
            "confusion": (classes, classes),
        }
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise ArtifactError(f"reference {name} is {getattr(self, name).shape}, not {shape}")
        if rows == 0 or self.embedding.ndim != 2 or len(self.embedding) != rows or len(self.site) != rows:
            raise ArtifactError(f"reference needs one embedding and one site for each of its {rows} cells")
        if self.priors.shape not in ((0,), (classes,)) or (self.priors < 0).any():
            raise ArtifactError(f"reference priors are {self.priors}: a share for each of {classes} classes, or none")
        if not all(np.isfinite(getattr(self, name)).all() for name in _KINDS):
            raise ArtifactError("reference has a value that is not finite")
        if self.label.min() < 0 or self.label.max() >= classes or (self.confusion < 0).any():
            raise ArtifactError("reference has a label outside its classes, or a negative count")

    @property
    def classes(self) -> int:
        """C, the number of labels."""
        return int(self.confusion.shape[0])

    @property
    def case_weight(self) -> npt.NDArray[np.float64]:
        """[n] for how many cells each counts, so that the labels have the shares `priors`; the mean is 1."""
        if not len(self.priors):
            return np.ones(len(self.label))
        seen = np.bincount(self.label, minlength=self.classes)
        weight = np.divide(self.priors, seen, out=np.zeros(self.classes), where=seen > 0)[self.label]
        return np.asarray(weight / weight.mean())

    def save(self, path: Path) -> None:
        """Write one npz, without pickle; the same reference gives the same bytes."""
        arrays = {item.name: np.asarray(getattr(self, item.name)) for item in fields(self)}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """Read it back. Raises ArtifactError for anything that is not such a file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                # Artifacts of earlier releases have no priors.
                names = [item.name for item in fields(cls) if item.name != "priors" or item.name in file]
                return cls(**{name: file[name] for name in names})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ArtifactError(f"{path} is not a reference file ({error}): fetch the artifact again") from error


_KINDS: dict[str, type[np.generic]] = {
    "embedding": np.float32,
    "statistics": np.float32,
    "probabilities": np.float32,
    "label": np.int64,
    "patient": np.int64,
    "confusion": np.float64,
    "priors": np.float64,
}
