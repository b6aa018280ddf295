"""The cells of the long view: the last windows and the one that just closed, read as one."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from monitoring.judge_settings import JudgeSettings
from monitoring.runs import retrainings
from monitoring.verdict import JudgedWindow
from monitoring.window import Window
from service.contract.cells import Cells, joined
from service.contract.ledger import Row
from service.contract.store import Store


def long_window(
    store: Store, past: Sequence[JudgedWindow], window: Window, rows: Sequence[Row], settings: JudgeSettings
) -> Window | None:
    """The window with as many before it as the long view needs; None where the window itself has enough, or expired.

    `past` are windows of the same model, oldest first. Those that closed before the last retraining started, by the
    ledger's `rows`, are left out: what led to that run is no reason for another. Fewer than enough are returned as they
    are. What the store has purged or disputed since is not among them. Raises StoreUnavailable.
    """
    if not window.complete or _enough([window.columns], settings):
        return None
    since = max((run.started for run in retrainings(rows)), default=float("-inf"))
    fresh = [item for item in past if item.complete and item.closed > since]
    parts = [window.columns]
    for item in reversed(fresh[-settings.long_windows + 1 :] if settings.long_windows > 1 else []):
        cells = store.cells(item.model_version, after_seq=item.first_seq - 1, limit=item.cells)
        parts.insert(0, cells.part(0, int(np.searchsorted(cells.seq, item.last_seq, side="right"))))
        if _enough(parts, settings):
            break
    cells = joined(parts)
    return replace(window, first_seq=int(cells.seq[0]), opened=float(cells.time[0]), cells=cells)


def _enough(parts: Sequence[Cells], settings: JudgeSettings) -> bool:
    known = sum(int((part.patient != "").sum()) for part in parts)
    patients = set[str]().union(*(part.patient.tolist() for part in parts)) - {""}
    return known >= settings.long_cells and len(patients) >= settings.long_patients
