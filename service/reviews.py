"""What readers say about answered cells, on record like the answers themselves."""

import asyncio

from service.contract.errors import InvalidRequest, NotFound, StoreUnavailable
from service.contract.records import PredictionRecord, ReviewRecord, review_id, utc_now
from service.domain import Review, ReviewAnswer
from service.door import about
from service.journal import Entry, Journal
from service.lookup import Lookup, Records
from service.metrics import Metrics
from service.recent import Recent
from service.retention import Retention

WAITS_S = (0.0, 0.2, 0.4, 0.8)
"""Another worker's answer reaches the store within its shipping period: a review that follows at once waits for it."""


class Reviews:
    """Takes reviews of recent and of stored records."""

    def __init__(
        self,
        recent: Recent,
        lookup: Lookup,
        store: Records,
        journal: Journal,
        retention: Retention,
        metrics: Metrics,
    ) -> None:
        self._recent = recent
        self._lookup = lookup
        self._store = store
        self._journal = journal
        self._retention = retention
        self._metrics = metrics

    async def take(self, review: Review, *, client: str) -> ReviewAnswer:
        """Puts one review on record.

        Raises InvalidRequest (a field is empty, or the label is none of the model's that answered), NotFound,
        StoreUnavailable (the record is not a recent one and the store is away), Overloaded.
        """
        review.check()
        record, disputed = await self._find(review.record_id)
        about(record.request_id)
        if review.label not in record.probabilities:
            raise InvalidRequest(f"label must be one of {', '.join(record.probabilities)}")
        now = utc_now()
        entry = ReviewRecord(
            review_id=review_id(record.record_id, review.role, review.label, now),
            record_id=record.record_id,
            label=review.label,
            role=review.role,
            time=now,
            client=client,
            sampled=review.sampled,
        )
        kept = await self._retention.has(record.pixels_sha256)
        await self._journal.append([Entry.review(entry)])
        if not record.test:
            agrees, sampled = str(review.label == record.label).lower(), str(review.sampled).lower()
            self._metrics.reviews.labels(review.label, agrees, sampled).inc()
        note = why_not(record, disputed=disputed, kept=kept)
        return ReviewAnswer(record.record_id, entry.review_id, counts_for_training=not note, note=note)

    async def _find(self, record_id: str) -> tuple[PredictionRecord, bool]:
        """The record and whether it is disputed, which only the store knows."""
        remembered = self._recent.by_record(record_id)
        for wait in WAITS_S:
            await asyncio.sleep(wait)
            try:
                # Insisted on: a reader can wait, and only the store knows whether the record is disputed.
                stored = await self._lookup.ask(lambda: self._store.get(record_id), insist=True)
            except StoreUnavailable:
                if remembered is None:
                    raise
                stored = None
            if stored is not None:
                return stored.record, stored.disputed
            if remembered is not None:
                return remembered, False
        raise NotFound("no such record: use the record_id of a prediction")


def why_not(record: PredictionRecord, *, disputed: bool, kept: bool) -> str:
    """Why a review does not make training data of its cell; "" when it does."""
    if record.test:
        return "test traffic never becomes training data"
    if disputed:
        return "the request_id was used for more than one image: the record is disputed and counts for nothing"
    if not kept:
        return "the cell's pixels were not kept: the review counts for performance, not for training"
    return ""
