"""Answers come back as columns, from what was packed beside the body or from the body itself."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from service.contract.cells import COLUMNS, Cells, cells_of_records
from service.contract.database import Database
from service.contract.records import PredictionRecord
from service.contract.statistics import STATISTICS
from service.contract.store import Store
from tests.support.records import prediction

MODEL = "a" * 32


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    store = Store(store_url)
    yield store
    store.close()


def answer(number: int, **changes: Any) -> PredictionRecord:
    rng = np.random.default_rng(number)
    share = float(rng.uniform())
    values: dict[str, Any] = {
        "statistics": dict(zip(STATISTICS, rng.normal(size=5).tolist(), strict=True)),
        "embedding": tuple(rng.normal(size=4).astype(np.float32).tolist()),
        "probabilities": {"healthy": 1 - share, "L1": share},
        "refer": number % 3 == 0,
        "refer_reasons": ("uncertain", "out_of_distribution")[: number % 3],
        "scanner": f"scanner-{number % 2}",
    }
    return prediction(number, **values | changes)


def same(one: Cells, other: Cells) -> bool:
    return all(getattr(one, name).tolist() == getattr(other, name).tolist() for name in COLUMNS)


def test_what_goes_in_comes_out_to_the_last_digit(store: Store) -> None:
    records = [answer(number) for number in range(20)]
    store.insert_predictions(records)
    cells = store.cells(MODEL)
    assert len(cells) == 20
    assert cells.seq.tolist() == list(range(1, 21))
    assert cells.time.tolist() == [datetime.fromisoformat(record.time).timestamp() for record in records]
    for name in ("patient", "site", "stain", "scanner", "client", "label", "refer"):
        assert getattr(cells, name).tolist() == [getattr(record, name) for record in records]
    assert cells.reasons.tolist()[:3] == ["", "uncertain", "uncertain,out_of_distribution"]
    assert cells.statistics.tolist() == [[record.statistics[name] for name in STATISTICS] for record in records]
    assert cells.probabilities.tolist() == [
        [record.probabilities["L1"], record.probabilities["healthy"]] for record in records
    ]
    assert cells.embedding.tolist() == [list(record.embedding) for record in records]
    assert same(cells, cells_of_records(range(1, 21), records))


def test_rows_of_an_earlier_release_are_read_from_their_body(store: Store, store_url: str) -> None:
    store.insert_predictions([answer(number) for number in range(12)])
    packed = store.cells(MODEL)
    database = Database(store_url)
    with database.write() as connection:
        connection.execute(text("UPDATE predictions SET figures = NULL, reasons = NULL WHERE seq <= 6"))
    database.close()
    assert same(store.cells(MODEL), packed)


def test_one_model_from_a_number_on_without_what_does_not_count(store: Store) -> None:
    records = [answer(1), answer(2, model_version="b" * 32), answer(3, test=True), answer(4), answer(5), answer(6)]
    store.insert_predictions([*records, answer(4, pixels_sha256="f" * 64)])
    assert store.cells(MODEL).seq.tolist() == [1, 5, 6]  # 4 and 7 dispute each other
    assert store.cells(MODEL, after_seq=1).seq.tolist() == [5, 6]
    assert store.cells(MODEL, limit=2).seq.tolist() == [1, 5]
    assert len(store.cells("c" * 32)) == 0


def test_other_statistics_are_kept_and_refused_here(store: Store) -> None:
    record = answer(1, statistics={"brightness": 0.5})
    store.insert_predictions([record])
    assert [stored.record for stored in store.predictions()] == [record]
    with pytest.raises(ValueError, match="without the statistics contrast"):
        store.cells(MODEL)


def test_answers_of_different_shapes_are_no_models(store: Store) -> None:
    store.insert_predictions([answer(1), answer(2, embedding=(1.0,))])
    with pytest.raises(ValueError, match="embedding of 2 different sizes"):
        store.cells(MODEL)
