"""Tumbling windows cut from a store's columns as they are read: linear in the cells, whatever a window holds."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from monitoring.window import Rule, Window
from service.contract.cells import COLUMNS, Cells


class Tumbling:
    """Cuts a model's answers by window.Rule, page by page; each cell is looked at once."""

    def __init__(self, model_version: str, *, min_cells: int, min_patients: int, max_age_s: float) -> None:
        self._version = model_version
        self._rule = Rule(min_cells, min_patients, max_age_s)
        self._expected = min_cells
        self._kept = _Kept(min_cells)

    @property
    def cells(self) -> int:
        """How many cells the open window has."""
        return len(self._kept)

    @property
    def patients(self) -> int:
        """How many patients the open window has."""
        return len(self._rule.patients)

    def add(self, page: Cells) -> Iterator[Window]:
        """Cells that follow those before → each window, as soon as it closes. To be read to its end."""
        rule, start = self._rule, 0
        for row, (at, patient) in enumerate(zip(page.time.tolist(), page.patient, strict=True)):
            if rule.expired(at):
                yield self._close(page.part(start, row), rule.ends, complete=False)
                start = row
            if rule.add(at, patient):
                yield self._close(page.part(start, row + 1), at, complete=True)
                start = row + 1
        self._kept.append(page.part(start, len(page)))

    def expire(self, now: float) -> Iterator[Window]:
        """The open window, if it is too old."""
        if self._rule.expired(now):
            yield self._close(None, self._rule.ends, complete=False)

    def _close(self, last: Cells | None, at: float, *, complete: bool) -> Window:
        kept, self._kept = self._kept, _Kept(self._expected)
        if last is not None:
            kept.append(last)
        cells = kept.cells()
        window = Window(self._version, int(cells.seq[0]), int(cells.seq[-1]), self._rule.opened, at, complete, cells)
        self._rule.close()
        return window


class _Kept:
    """Cells of the open window.

    Their embeddings, which are most of it, go at once where they stay: joined pages would be there twice for a moment.
    """

    def __init__(self, expected: int) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in COLUMNS if name != "embedding"}
        self._size = 0
        # Memory that nobody writes to costs nothing: there is room for the cells that do not count.
        self._room = 2 * expected
        self._embedding = np.empty((0, 0), dtype=np.float32)

    def __len__(self) -> int:
        return self._size

    def append(self, part: Cells) -> None:
        """Raises ValueError for embeddings of another size."""
        if not len(part):
            return
        width, needed = part.embedding.shape[1], self._size + len(part)
        if self._size and width != self._embedding.shape[1]:
            raise ValueError("the answers of one model have embeddings of different sizes")
        if needed > len(self._embedding):
            self._room = max(self._room, 2 * needed)
            larger = np.empty((self._room, width), dtype=np.float32)
            if self._size:
                larger[: self._size] = self._embedding[: self._size]
            self._embedding = larger
        self._embedding[self._size : needed] = part.embedding
        for name, parts in self._columns.items():
            parts.append(getattr(part, name))
        self._size = needed

    def cells(self) -> Cells:
        """All of them; none is kept here, so that of each column alone there are two copies for a moment."""
        columns = {name: np.concatenate(self._columns.pop(name)) for name in list(self._columns)}
        return Cells(**columns, embedding=self._embedding[: self._size])
