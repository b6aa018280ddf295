"""Tumbling windows over the answers of one model version, and a window as arrays.

A window closes as soon as it has enough cells of enough patients, or expires when it is too old for that; what
expired is `insufficient`, whatever it holds. Everything follows from the order of `seq` and the times on the records,
so that the same store gives the same windows again, however often and whenever somebody asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from service.contract.cells import Cells, cells_of_records
from service.contract.decision import KILL_SWITCH, OUT_OF_DISTRIBUTION
from service.contract.store import StoredPrediction

NO_PATIENT = -1

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Window:
    """Consecutive answers of one model version.

    opened, closed  seconds since the epoch: of its first cell; of its last cell, or when it expired
    complete        False when it expired
    cells           in order of seq, without test traffic and without disputed answers: columns as the store reads them
                    (tumbling.py), or records at hand (tumble)
    """

    model_version: str
    first_seq: int
    last_seq: int
    opened: float
    closed: float
    complete: bool
    cells: tuple[StoredPrediction, ...] | Cells

    @property
    def columns(self) -> Cells:
        """The cells as columns. Raises ValueError for records that do not fit each other."""
        if isinstance(self.cells, Cells):
            return self.cells
        return cells_of_records([item.seq for item in self.cells], [item.record for item in self.cells])

    @property
    def patients(self) -> int:
        """How many different patients."""
        if isinstance(self.cells, Cells):
            return len(set(self.cells.patient) - {""})
        return len({item.record.patient for item in self.cells} - {""})


@dataclass(frozen=True, eq=False)
class WindowArrays:
    """A window's cells as arrays; C labels, E embedding dimensions.

    embedding [n, E] (float32 from a store), statistics [n, 5] in the order of STATISTICS, probabilities [n, C] in the
    order of the model's labels, predicted [n] (index of the answered label), ood [n], refer [n], patient [n] (ordinal
    in order of appearance, −1 without)
    """

    embedding: npt.NDArray[np.floating]
    statistics: Floats
    probabilities: Floats
    predicted: Integers
    ood: Flags
    refer: Flags
    patient: Integers

    def __len__(self) -> int:
        return len(self.predicted)

    @property
    def patients(self) -> int:
        """How many different patients."""
        return len(np.unique(self.patient[self.patient != NO_PATIENT]))

    def take(self, chosen: Flags) -> "WindowArrays":
        """The chosen cells [n]; patients keep their ordinals. All of them are not copied."""
        if chosen.all():
            return self
        return WindowArrays(
            self.embedding[chosen],
            self.statistics[chosen],
            self.probabilities[chosen],
            self.predicted[chosen],
            self.ood[chosen],
            self.refer[chosen],
            self.patient[chosen],
        )

    def with_patient(self) -> "WindowArrays":
        """The cells that a test may use: without a patient nobody knows which cells belong together."""
        return self.take(self.patient != NO_PATIENT)


def seconds(time: str) -> float:
    """A record's time → seconds since the epoch. Raises ValueError."""
    return datetime.fromisoformat(time).timestamp()


class Rule:
    """When a window closes: counts what it has, cell by cell.

    It is complete with the cell that makes it at least `min_cells` cells of at least `min_patients` patients; only
    cells with a patient count, because only they enter the tests. It expires when a cell comes, or now is, more than
    `max_age_s` after its first cell; that cell opens the next one.
    """

    def __init__(self, min_cells: int, min_patients: int, max_age_s: float) -> None:
        self._min_cells = min_cells
        self._min_patients = min_patients
        self._max_age_s = max_age_s
        self._counted = 0
        self._open = False
        self.patients: set[str] = set()
        self.opened = 0.0

    @property
    def ends(self) -> float:
        """When it expires."""
        return self.opened + self._max_age_s

    def expired(self, at: float) -> bool:
        """Whether there is an open window that is too old at `at`."""
        return self._open and at > self.ends

    def add(self, at: float, patient: str) -> bool:
        """Count a cell; whether the window is complete with it."""
        if not self._open:
            self._open, self.opened = True, at
        if patient:
            self.patients.add(patient)
            self._counted += 1
        return self._counted >= self._min_cells and len(self.patients) >= self._min_patients

    def close(self) -> None:
        """The next cell opens a window."""
        self._open, self._counted = False, 0
        self.patients.clear()


def tumble(
    predictions: Sequence[StoredPrediction], *, min_cells: int, min_patients: int, max_age_s: float, now: float
) -> tuple[list[Window], list[StoredPrediction]]:
    """Cut answers in order of seq → the windows that closed by the Rule, and the cells of the one still open.

    Test traffic and disputed answers are left out. Raises ValueError for more than one model version, or an order that
    is not that of seq.
    """
    closed: list[Window] = []
    cells: list[StoredPrediction] = []
    rule, last_seq = Rule(min_cells, min_patients, max_age_s), 0

    def close(at: float, complete: bool) -> None:
        version = cells[0].record.model_version
        closed.append(Window(version, cells[0].seq, cells[-1].seq, rule.opened, at, complete, tuple(cells)))
        cells.clear()
        rule.close()

    versions = {item.record.model_version for item in predictions}
    if len(versions) > 1:
        raise ValueError(f"windows are per model version, not over {len(versions)} of them")
    for item in predictions:
        if item.seq <= last_seq:
            raise ValueError(f"answers must come in order of seq: {item.seq} after {last_seq}")
        last_seq = item.seq
        if item.record.test or item.disputed:
            continue
        at = seconds(item.record.time)
        if rule.expired(at):
            close(rule.ends, complete=False)
        cells.append(item)
        if rule.add(at, item.record.patient):
            close(at, complete=True)
    if rule.expired(now):
        close(rule.ends, complete=False)
    return closed, cells


def arrays(window: Window, labels: Sequence[str]) -> WindowArrays:
    """The window's cells as arrays; `labels` in the order of the model's manifest.

    Raises ValueError for an answer that does not fit those labels, or embeddings of different sizes.
    """
    cells = window.columns
    index = {label: number for number, label in enumerate(labels)}
    if not index.keys() >= set(cells.label) or cells.probabilities.shape[1] != len(labels):
        numbers = f"{window.first_seq} … {window.last_seq}"
        raise ValueError(f"the answers {numbers} are not all of a model with the labels {', '.join(labels)}")
    ordinal = {"": NO_PATIENT}
    for patient in cells.patient:
        ordinal.setdefault(patient, len(ordinal) - 1)
    reasons = {text: frozenset(text.split(",")) for text in set(cells.reasons)}
    ood = {text: OUT_OF_DISTRIBUTION in every for text, every in reasons.items()}
    # What the model says: that an operator has everything referred is no drift.
    killed = {text: every == {KILL_SWITCH} for text, every in reasons.items()}
    alphabetical = sorted(labels)
    return WindowArrays(
        embedding=cells.embedding,
        statistics=cells.statistics,
        probabilities=cells.probabilities[:, [alphabetical.index(label) for label in labels]],
        predicted=np.array([index[label] for label in cells.label], dtype=np.int64),
        ood=np.array([ood[text] for text in cells.reasons], dtype=np.bool_),
        refer=cells.refer & ~np.array([killed[text] for text in cells.reasons], dtype=np.bool_),
        patient=np.array([ordinal[patient] for patient in cells.patient], dtype=np.int64),
    )
