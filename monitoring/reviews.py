"""Reviewed cells that a retraining could learn from."""

from monitoring.policy import Reviewed
from monitoring.window import seconds
from service.contract.pixels import PixelStore
from service.contract.records import ReviewRecord
from service.contract.store import Store, StoredPrediction

Pair = tuple[StoredPrediction, ReviewRecord]


def unused(store: Store, pixels: PixelStore, used_until: float) -> Reviewed:
    """Reviewed cells whose pixels are still kept and whose review no candidate has used yet, and their patients.

    `used_until` in seconds since the epoch. Raises StoreUnavailable.
    """
    cells, patients = 0, set()
    for stored, review in store.reviewed(with_pixels=True):
        if seconds(review.time) > used_until and pixels.has(stored.record.pixels_sha256):
            cells += 1
            patients.add(stored.record.patient)
    return Reviewed(cells, len(patients - {""}))


def of_model(store: Store, version: str) -> list[Pair]:
    """Every reviewed answer of that model, in order of the answers. Raises StoreUnavailable."""
    return [pair for pair in store.reviewed() if pair[0].record.model_version == version]
