"""The store and the ledger, opened when they can be: a worker must start, and keep its journal, while they are away."""

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from service.contract.errors import StoreOutdated
from service.contract.ledger import Ledger
from service.contract.records import PredictionRecord, ReviewRecord
from service.contract.serving import KINDS, Serving, serving_of
from service.contract.shadows import ShadowAnswer, Shadows
from service.contract.store import Store, StoredPrediction

T = TypeVar("T")


class Late(Generic[T]):
    """Opens something at the first call that finds it, and keeps it."""

    def __init__(self, open_it: Callable[[], T]) -> None:
        self._open_it = open_it
        self._lock = threading.Lock()
        self._found: T | None = None

    def get(self) -> T:
        """What was opened. Raises what opening raises, and tries again at the next call."""
        with self._lock:
            if self._found is None:
                self._found = self._open_it()
            return self._found

    def opened(self) -> T | None:
        """What was opened, if it was."""
        return self._found


def _upgraded(url: str, open_it: Callable[[str], T]) -> T:
    """Opens it, after bringing the tables of an earlier release up to this one's."""
    try:
        return open_it(url)
    except StoreOutdated:
        # Only now: Alembic is needed once a release, not at every start.
        from service.migrate import upgrade

        upgrade(url)
        return open_it(url)


class LateStore:
    """What the service asks of a store; every method raises StoreUnavailable while there is none."""

    def __init__(self, url: str) -> None:
        self._late = Late(lambda: _upgraded(url, Store))

    def open(self) -> None:
        """Opens it now. Raises StoreUnavailable, and ConfigError for a URL that makes no sense."""
        self._late.get()

    def get(self, record_id: str) -> StoredPrediction | None:
        """See Store."""
        return self._late.get().get(record_id)

    def by_request(self, client: str, request_id: str) -> list[StoredPrediction]:
        """See Store."""
        return self._late.get().by_request(client, request_id)

    def insert_predictions(self, records: Sequence[PredictionRecord]) -> int:
        """See Store."""
        return self._late.get().insert_predictions(records)

    def insert_reviews(self, reviews: Sequence[ReviewRecord]) -> int:
        """See Store."""
        return self._late.get().insert_reviews(reviews)

    def heartbeat(self, worker: str, version: str, at: float) -> None:
        """See Store."""
        self._late.get().heartbeat(worker, version, at)

    def close(self) -> None:
        """Lets connections go."""
        store = self._late.opened()
        if store is not None:
            store.close()


class LateLedger:
    """What the service asks of the ledger; raises StoreUnavailable while there is none."""

    def __init__(self, url: str) -> None:
        self._late = Late(lambda: _upgraded(url, Ledger))

    def production(self) -> str | None:
        """See Ledger."""
        return self._late.get().production()

    def serving(self) -> Serving:
        """What is asked of workers beside the version in production; see serving_of."""
        return serving_of(self._late.get().rows(*KINDS))

    def went_back(self) -> bool:
        """See Ledger."""
        return self._late.get().went_back()

    def close(self) -> None:
        """Lets connections go."""
        ledger = self._late.opened()
        if ledger is not None:
            ledger.close()


class LateShadows:
    """Where the answers of a shadow go; raises StoreUnavailable while there is no store."""

    def __init__(self, url: str) -> None:
        self._late = Late(lambda: _upgraded(url, Shadows))

    def insert(self, answers: Sequence[ShadowAnswer]) -> list[ShadowAnswer]:
        """See Shadows."""
        return self._late.get().insert(answers)

    def close(self) -> None:
        """Lets connections go."""
        shadows = self._late.opened()
        if shadows is not None:
            shadows.close()
