"""Reviewed cells that a retraining could learn from."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from monitoring.policy import Reviewed
from monitoring.window import seconds
from service.contract.pixels import PixelStore
from service.contract.reading import Asked, Read, readings
from service.contract.records import ReviewRecord
from service.contract.store import Store, StoredPrediction

Pair = tuple[StoredPrediction, ReviewRecord]
NOBODY: Mapping[str, Asked] = {}


def unused(store: Store, pixels: PixelStore, used_until: float, asked: Mapping[str, Asked] = NOBODY) -> Reviewed:
    """Reviewed cells whose pixels are still kept and whose review no candidate has used yet, and their patients.

    Cells whose readers disagree, or are not all heard, do not count. `used_until` in seconds since the epoch; `asked`
    says who was to read what (reading.asked_for). Raises StoreUnavailable.
    """
    cells, patients = 0, set()
    for stored, reading in readings(store, asked, with_pixels=True):
        if not reading.settled:
            continue
        if seconds(reading.decisive.time) > used_until and pixels.has(stored.record.pixels_sha256):
            cells += 1
            patients.add(stored.record.patient)
    return Reviewed(cells, len(patients - {""}))


def of_model(store: Store, version: str) -> list[Read]:
    """Every answer of that model that a reader labelled, in order of the answers. Raises StoreUnavailable."""
    return [read for read in readings(store, NOBODY) if read[0].record.model_version == version]


def agreed(read: Sequence[Read]) -> list[Pair]:
    """The answers that their readers agree on, in the same order.

    One reading is enough here, and it is drawn at random if any of the cell's was: a cell that a second reader or an
    adjudicator looked at must not leave the sample that speaks for all cells.
    """
    return [(stored, replace(reading.decisive, sampled=reading.sampled)) for stored, reading in read if reading.settled]
