"""Reviewed cells that a retraining could learn from."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

from monitoring.policy import Reviewed
from monitoring.window import seconds
from service.contract.pixels import PixelStore
from service.contract.reading import Asked, Read, is_reader, read, readings
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


def of_model(store: Store, version: str, learned_until: float) -> tuple[list[Read], frozenset[str]]:
    """Every answer of that model that a reader labelled, in order of the answers; and the patients it may have met.

    Those are the patients of whom a reader labelled a cell, whichever model answered it, up to `learned_until` (seconds
    since the epoch, as runs.learned_until has it): their cells may have trained it. Raises StoreUnavailable.
    """
    found, met = [], set()
    for stored, reviews in store.readings():
        reading = read(reviews)
        if reading is not None and stored.record.model_version == version:
            found.append((stored, reading))
        if any(is_reader(item.role) and seconds(item.time) <= learned_until for item in reviews):
            met.add(stored.record.patient)
    return found, frozenset(met - {""})


def agreed(readings: Sequence[Read], met: Set[str] = frozenset()) -> list[Pair]:
    """The answers that their readers agree on, in the same order, without those of patients whom the model has met.

    A model knows again whom it learned from: their cells would flatter it. One reading is enough here, and it is drawn
    at random if any of the cell's was: a cell that a second reader or an adjudicator looked at must not leave the
    sample that speaks for all cells.
    """
    return [
        (stored, replace(reading.decisive, sampled=reading.sampled))
        for stored, reading in readings
        if reading.settled and stored.record.patient not in met
    ]
