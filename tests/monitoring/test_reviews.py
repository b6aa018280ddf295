"""Whose cells speak for a model: nobody's whom it may have learned from."""

from pathlib import Path

import pytest

from monitoring.reviews import agreed, of_model
from monitoring.runs import learned_until, retrainings
from service.contract.ledger import Ledger
from service.contract.store import Store
from tests.support.records import prediction, review

OLD, NEW = "a" * 32, "b" * 32
BEFORE, AFTER = "2026-02-01T00:00:00.000000+00:00", "2026-04-01T00:00:00.000000+00:00"
TRAINED = 1_772_323_200.0
"""2026-03-01, seconds since the epoch."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path / 'store.db'}")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")


def test_a_patient_whom_the_model_learned_from_does_not_speak_for_it(store: Store) -> None:
    learned = prediction(1, patient="met", model_version=OLD)
    again = prediction(2, patient="met", model_version=NEW)
    stranger = prediction(3, patient="stranger", model_version=NEW)
    store.insert_predictions([learned, again, stranger])
    store.insert_reviews([review(learned, time=BEFORE), review(again, time=AFTER), review(stranger, time=AFTER)])

    read, met = of_model(store, NEW, TRAINED)

    assert [stored.record for stored, _ in read] == [again, stranger]
    assert met == {"met"}
    assert [stored.record for stored, _ in agreed(read, met)] == [stranger]
    assert len(agreed(read)) == 2


def test_a_second_reading_after_the_training_does_not_make_a_patient_new(store: Store) -> None:
    learned = prediction(1, patient="met", model_version=OLD)
    again = prediction(2, patient="met", model_version=NEW)
    store.insert_predictions([learned, again])
    store.insert_reviews([review(learned, time=BEFORE), review(learned, time=AFTER), review(again, time=AFTER)])
    assert of_model(store, NEW, TRAINED)[1] == {"met"}


def test_cells_without_a_patient_are_strangers_to_each_other(store: Store) -> None:
    learned, again = prediction(1, patient="", model_version=OLD), prediction(2, patient="", model_version=NEW)
    store.insert_predictions([learned, again])
    store.insert_reviews([review(learned, time=BEFORE), review(again, time=AFTER)])
    read, met = of_model(store, NEW, TRAINED)
    assert met == frozenset() and len(agreed(read, met)) == 1


def test_what_a_model_can_have_learned_ends_with_the_last_training_before_it(ledger: Ledger) -> None:
    def ran(run: str, **body: object) -> None:
        ledger.append("retraining_started", run=run, **body)
        ledger.append("retraining_finished", run=run, gate="refused")

    ledger.append("registered", version=OLD)
    ran("one")
    ran("two")
    ran("priors", priors={"L1": 1.0})
    ledger.append("retraining_started", run="three", priors={"L1": 1.0})
    ledger.append("registered", version=NEW)
    ran("four")
    started = {item.run: item.started for item in retrainings(ledger.rows())}
    assert learned_until(ledger.rows(), OLD) == 0.0
    assert learned_until(ledger.rows(), NEW) == started["two"]
    assert learned_until(ledger.rows(), "c" * 32) == started["four"], "of a model that nobody registered: of all"
