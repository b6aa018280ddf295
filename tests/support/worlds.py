"""A world of patients whose truth is known: cells as arrays, without pictures, for the statistics of monitoring.

Each patient has an effect on the embedding and on the image statistics that all of its cells share. The model is
the best one for this world with a little noise of its own, calibrated to its shares. Leukemic patients have some
healthy cells too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from monitoring.window import WindowArrays
from service.contract.reference import Reference
from service.contract.statistics import STATISTICS

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LABELS = ("healthy", "L1", "L2", "L3")
CHILDHOOD = (0.45, 0.35, 0.17, 0.03)


@dataclass(frozen=True)
class Change:
    """What a window has that the reference has not: added to embedding and statistics, and noise of the embedding."""

    embedding: Floats | float = 0.0
    statistics: Sequence[float] = (0.0,) * len(STATISTICS)
    noise: float = 0.0


@dataclass(frozen=True)
class World:
    """Embedding dimensions; separation of the classes, spread between patients and within them, in one unit."""

    size: int = 8
    separation: float = 6.0
    between: float = 1.0
    within: float = 1.0
    healthy_share: float = 0.2
    shares: tuple[float, ...] = CHILDHOOD
    _classes: Floats = field(init=False, repr=False, compare=False)
    _tints: Floats = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Place the classes, always in the same places."""
        rng = np.random.default_rng(11)
        turn, _ = np.linalg.qr(rng.normal(size=(self.size, self.size)))
        corners = np.eye(len(LABELS), self.size) * self.separation / np.sqrt(2)
        object.__setattr__(self, "_classes", corners @ turn)
        object.__setattr__(self, "_tints", 0.7 * rng.normal(size=(len(LABELS), len(STATISTICS))))

    def reference(self, rng: np.random.Generator, *, patients: int = 40, cells: int = 20) -> Reference:
        """About patients × cells held-out cells, as the frozen test set has them.

        At least four patients a class, and the shares hold for cells: patients of a rare class have few.
        """
        shares = np.array(self.shares)
        people = np.maximum(4, np.round(shares * patients)).astype(int)
        each = np.maximum(2, np.round(shares * patients * cells / people)).astype(int)
        kinds = np.repeat(np.arange(len(LABELS)), people)
        embedding, statistics, probabilities, label, patient = self._draw(rng, kinds, each[kinds], Change())
        confusion = np.zeros((len(LABELS), len(LABELS)))
        np.add.at(confusion, (label, probabilities.argmax(axis=1)), 1.0)
        return Reference(
            embedding=embedding.astype(np.float32),
            statistics=statistics.astype(np.float32),
            probabilities=probabilities.astype(np.float32),
            label=label,
            site=("site-a",) * len(label),
            patient=patient,
            confusion=confusion,
        )

    def window(
        self,
        rng: np.random.Generator,
        *,
        patients: int = 20,
        cells: int = 10,
        shares: Sequence[float] | None = None,
        change: Change | None = None,
    ) -> WindowArrays:
        """patients × cells of production; the patients' kinds are drawn by `shares`."""
        kinds = rng.choice(len(LABELS), size=patients, p=np.asarray(self.shares if shares is None else shares))
        embedding, statistics, probabilities, _, patient = self._draw(
            rng, kinds, np.full(patients, cells), change or Change()
        )
        nothing = np.zeros(len(patient), dtype=np.bool_)
        return WindowArrays(
            embedding, statistics, probabilities, probabilities.argmax(axis=1), nothing, nothing.copy(), patient
        )

    def _draw(
        self, rng: np.random.Generator, kinds: Integers, cells: Integers, change: Change
    ) -> tuple[Floats, Floats, Floats, Integers, Integers]:
        patient = np.repeat(np.arange(len(kinds)), cells)
        label = kinds[patient].astype(np.int64)
        label[(rng.random(len(label)) < self.healthy_share) & (label > 0)] = 0
        effect = self.between * rng.normal(size=(len(kinds), self.size))
        embedding = self._classes[label] + effect[patient] + self.within * rng.normal(size=(len(label), self.size))
        embedding += change.embedding + change.noise * rng.normal(size=embedding.shape)
        tint = self.between * rng.normal(size=(len(kinds), len(STATISTICS)))
        statistics = self._tints[label] + tint[patient] + self.within * rng.normal(size=(len(label), len(STATISTICS)))
        statistics += np.asarray(change.statistics)
        seen = embedding + 0.5 * rng.normal(size=embedding.shape)
        distance = ((seen[:, None, :] - self._classes) ** 2).sum(axis=2)
        log = np.log(self.shares) - distance / (2 * (self.between**2 + self.within**2 + 0.25))
        odds = np.exp(log - log.max(axis=1, keepdims=True))
        return embedding, statistics, odds / odds.sum(axis=1, keepdims=True), label, patient
