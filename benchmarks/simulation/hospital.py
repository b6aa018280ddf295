"""Cells and patients as numbers, fitted to a reference: what the monitor sees of them, and no pixels.

A cell is x = class mean + patient effect + cell noise, over the embedding, the image statistics and the log-odds of the
labels together. The patient effect is common to all cells of a patient, normal, with a covariance estimated from the
reference by the method of moments. The noise is drawn from the reference's own cells of that class, less their
patient's mean: so the tails, and with them the wrong answers, are as heavy as they are. The answer is the softmax of
the log-odds.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.contract.reference import Reference
from service.contract.statistics import STATISTICS

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

CLIP = 12.0
"""Log-odds beyond it are rounding of float32."""


@dataclass(frozen=True, eq=False)
class Cells:
    """n cells: embedding [n, E], statistics [n, 5], probabilities [n, C], true label [n], patient [n], OOD [n]."""

    embedding: Floats
    statistics: Floats
    probabilities: Floats
    label: Integers
    patient: Integers
    ood: Flags

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, eq=False)
class Change:
    """What is different from the cells of the reference; 0 and empty: nothing.

    shift     [D] added to every cell
    noise     a cell's own deviation is this many times as large
    share     of patients who have a new subtype, whose cells lie `place` [D] from those of class `of`
    confuse   share of cells of class `of` whose true label is another one than it was: a changed concept
    """

    shift: Floats | float = 0.0
    noise: float = 1.0
    share: float = 0.0
    place: Floats | float = 0.0
    of: int = 2
    confuse: float = 0.0


class Population:
    """Means and covariances of classes, patients and cells."""

    def __init__(self, reference: Reference) -> None:
        self.classes, self.size = reference.classes, reference.embedding.shape[1]
        log = np.log(np.clip(reference.probabilities.astype(np.float64), 1e-12, 1.0))
        odds = np.clip(log[:, 1:] - log[:, :1], -CLIP, CLIP)
        values = np.hstack([reference.embedding, reference.statistics, odds]).astype(np.float64)
        label, patient = reference.label, reference.patient
        self.means = np.stack([values[label == k].mean(axis=0) for k in range(self.classes)])
        away = values - self.means[label]
        names, index = np.unique(patient, return_inverse=True)
        sizes = np.bincount(index).astype(np.float64)
        person = np.stack([np.bincount(index, column) for column in away.T], axis=1) / sizes[:, None]
        within = away - person[index]
        freedom = len(values) - len(names)
        cell = within.T @ within / freedom
        # Means of patients scatter by their own effect and by their cells; the class means took degrees of freedom.
        scatter = person.T @ person / (len(names) - self.classes)
        self.patient = _root(scatter - cell * float((1 / sizes).mean()))
        grown = np.sqrt(len(values) / freedom)
        self.noise = [within[label == k] * grown for k in range(self.classes)]
        """Of each class [n, D]: the cells around their patients."""
        self.scatter = scatter
        """[D, D] covariance of the means of patients: its roots are the unit of the monitor's covariate effects."""
        self.person_sd = np.sqrt(np.diag(scatter))
        """[D] how much the means of patients differ."""
        counts = np.zeros((len(names), self.classes))
        np.add.at(counts, (index, label), 1)
        kind = np.where(counts[:, 1:].any(axis=1), counts[:, 1:].argmax(axis=1) + 1, 0)
        self.kinds = np.bincount(kind, minlength=self.classes) / len(kind)
        """[C] share of patients of each kind: the label of most of their cells but the healthy ones."""
        self.blasts = float((counts[kind > 0, 1:].sum() / counts[kind > 0].sum()) if (kind > 0).any() else 1.0)
        """Share of blasts among the cells of a patient who has any."""
        embedding = slice(0, self.size)
        self._edge_root = np.linalg.pinv(_root((scatter + cell)[embedding, embedding]))
        self._edge = np.inf
        drawn = self.draw(np.random.default_rng(0), self.patients(np.random.default_rng(1), 400), 10)
        self._edge = float(np.quantile(self._distance(drawn.embedding), 0.99))

    @property
    def dimensions(self) -> int:
        """D: embedding, statistics, log-odds."""
        return int(self.means.shape[1])

    def unit(self, rng: np.random.Generator, *, statistics: tuple[str, ...] = ()) -> Floats:
        """A change [D] of the embedding in some direction, as long as the means of patients differ along it (one
        standard deviation), and of one in each of the named statistics; the log-odds go along with the embedding as
        they do in the patients.
        """
        change = np.zeros(self.dimensions)
        inside = slice(0, self.size)
        direction = self.patient[inside] @ rng.normal(size=self.dimensions)
        along = direction / np.linalg.norm(direction)
        direction = along * np.sqrt(along @ self.scatter[inside, inside] @ along)
        change[inside] = direction
        for name in statistics:
            at = self.size + STATISTICS.index(name)
            change[at] = self.person_sd[at] * rng.choice([-1.0, 1.0])
        covariance = self.patient @ self.patient.T
        odds = slice(self.size + len(STATISTICS), None)
        change[odds] = covariance[odds, inside] @ np.linalg.pinv(covariance[inside, inside]) @ direction
        return change

    def patients(self, rng: np.random.Generator, count: int, shares: Floats | None = None) -> tuple[Integers, Floats]:
        """Kinds [p] by these shares, and the patients' effects [p, D]."""
        kinds = rng.choice(self.classes, size=count, p=self.kinds if shares is None else shares)
        return kinds.astype(np.int64), rng.normal(size=(count, self.dimensions)) @ self.patient.T

    def draw(
        self,
        rng: np.random.Generator,
        patients: tuple[Integers, Floats],
        cells: int | Integers,
        change: Change | None = None,
    ) -> Cells:
        """So many cells of each patient, changed."""
        change = change or Change()
        kinds, effects = patients
        patient = np.repeat(np.arange(len(kinds)), cells)
        label = kinds[patient]
        label = np.where((label > 0) & (rng.random(len(label)) >= self.blasts), 0, label)
        noise = np.empty((len(label), self.dimensions))
        for k in range(self.classes):
            here = label == k
            noise[here] = self.noise[k][rng.integers(0, len(self.noise[k]), int(here.sum()))]
        values = self.means[label] + effects[patient] + change.noise * noise + change.shift
        if change.share:
            other = (rng.random(len(kinds)) < change.share)[patient]
            values[other] = self.means[change.of] + change.place + effects[patient[other]] + noise[other]
            label = np.where(other, change.of, label)
        if change.confuse:
            turned = (label == change.of) & (rng.random(len(label)) < change.confuse)
            label = np.where(turned, change.of % (self.classes - 1) + 1, label)
        split = self.size + len(STATISTICS)
        odds = np.hstack([np.zeros((len(values), 1)), np.clip(values[:, split:], -CLIP, CLIP)])
        shares = np.exp(odds - odds.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        embedding = values[:, : self.size]
        ood = self._distance(embedding) > self._edge
        return Cells(embedding, values[:, self.size : split], shares, label, patient, ood)

    def reference(self, rng: np.random.Generator, patients: int, cells: int) -> Reference:
        """Held-out cells of other patients: every kind has at least three of them."""
        kinds = np.repeat(np.arange(self.classes), np.maximum(3, np.round(self.kinds * patients)).astype(int))
        effects = rng.normal(size=(len(kinds), self.dimensions)) @ self.patient.T
        drawn = self.draw(rng, (kinds.astype(np.int64), effects), cells)
        confusion = np.zeros((self.classes, self.classes))
        np.add.at(confusion, (drawn.label, drawn.probabilities.argmax(axis=1)), 1)
        return Reference(
            embedding=drawn.embedding.astype(np.float32),
            statistics=drawn.statistics.astype(np.float32),
            probabilities=drawn.probabilities.astype(np.float32),
            label=drawn.label,
            site=("simulated",) * len(drawn),
            patient=drawn.patient,
            confusion=confusion,
        )

    def _distance(self, embedding: Floats) -> Floats:
        apart = (embedding[:, None] - self.means[None, :, : self.size]) @ self._edge_root.T
        nearest: Floats = np.sqrt((apart**2).sum(axis=2)).min(axis=1)
        return nearest


def _root(covariance: Floats) -> Floats:
    """A matrix R with R Rᵀ = the covariance; what an estimate has below 0 is cut off."""
    values, axes = np.linalg.eigh((covariance + covariance.T) / 2)
    root: Floats = axes * np.sqrt(np.maximum(values, 0.0))
    return root
