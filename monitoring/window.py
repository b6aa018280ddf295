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

from service.contract.decision import KILL_SWITCH, OUT_OF_DISTRIBUTION
from service.contract.statistics import STATISTICS
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
    cells           in order of seq, without test traffic and without disputed answers
    """

    model_version: str
    first_seq: int
    last_seq: int
    opened: float
    closed: float
    complete: bool
    cells: tuple[StoredPrediction, ...]


@dataclass(frozen=True, eq=False)
class WindowArrays:
    """A window's cells as arrays; C labels, E embedding dimensions.

    embedding [n, E], statistics [n, 5] in the order of STATISTICS, probabilities [n, C] in the order of the model's
    labels, predicted [n] (index of the answered label), ood [n], refer [n], patient [n] (ordinal in order of
    appearance, −1 without)
    """

    embedding: Floats
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
        """The chosen cells [n]; patients keep their ordinals."""
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


def tumble(
    predictions: Sequence[StoredPrediction], *, min_cells: int, min_patients: int, max_age_s: float, now: float
) -> tuple[list[Window], list[StoredPrediction]]:
    """Cut answers in order of seq → the windows that closed, and the cells of the one still open.

    A window closes with the cell that makes it at least `min_cells` cells of at least `min_patients` patients; only
    cells with a patient count, because only they enter the tests. It expires when a cell comes, or `now` is, more
    than `max_age_s` after its first cell; that cell opens the next one. Test traffic and disputed answers are left
    out. Raises ValueError for more than one model version, or an order that is not that of seq.
    """
    closed: list[Window] = []
    cells: list[StoredPrediction] = []
    patients: set[str] = set()
    counted, last_seq, opened = 0, 0, 0.0

    def close(at: float, complete: bool) -> None:
        nonlocal counted
        version = cells[0].record.model_version
        closed.append(Window(version, cells[0].seq, cells[-1].seq, opened, at, complete, tuple(cells)))
        cells.clear()
        patients.clear()
        counted = 0

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
        if cells and at > opened + max_age_s:
            close(opened + max_age_s, complete=False)
        if not cells:
            opened = at
        cells.append(item)
        if item.record.patient:
            patients.add(item.record.patient)
            counted += 1
        if counted >= min_cells and len(patients) >= min_patients:
            close(at, complete=True)
    if cells and now > opened + max_age_s:
        close(opened + max_age_s, complete=False)
    return closed, cells


def arrays(window: Window, labels: Sequence[str]) -> WindowArrays:
    """The window's cells as arrays; `labels` in the order of the model's manifest.

    Raises ValueError for an answer that does not fit those labels, or embeddings of different sizes.
    """
    records = [item.record for item in window.cells]
    index = {label: number for number, label in enumerate(labels)}
    ordinal: dict[str, int] = {}
    for record in records:
        if record.label not in index or record.probabilities.keys() != index.keys():
            raise ValueError(f"record {record.record_id} does not answer with the labels {', '.join(labels)}")
        if record.patient:
            ordinal.setdefault(record.patient, len(ordinal))
    return WindowArrays(
        embedding=np.array([record.embedding for record in records], dtype=np.float64),
        statistics=np.array([[record.statistics[name] for name in STATISTICS] for record in records], dtype=np.float64),
        probabilities=np.array(
            [[record.probabilities[label] for label in labels] for record in records], dtype=np.float64
        ),
        predicted=np.array([index[record.label] for record in records], dtype=np.int64),
        ood=np.array([OUT_OF_DISTRIBUTION in record.refer_reasons for record in records], dtype=np.bool_),
        # What the model says: that an operator has everything referred is no drift.
        refer=np.array(
            [record.refer and list(record.refer_reasons) != [KILL_SWITCH] for record in records], dtype=np.bool_
        ),
        patient=np.array([ordinal.get(record.patient, NO_PATIENT) for record in records], dtype=np.int64),
    )
