"""How far readers agree."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from monitoring.readers import agreements, kappa
from service.contract.reading import Read, read
from service.contract.store import StoredPrediction
from tests.support.records import prediction, review

LABELS = ("healthy", "L1", "L2")


def _read(rows: list[tuple[str, dict[str, str]]]) -> list[Read]:
    found = []
    for number, (patient, said) in enumerate(rows):
        record = prediction(number, patient=patient)
        reading = read([review(record, label, role=role) for role, label in said.items()])
        assert reading is not None
        found.append((StoredPrediction(number, record, disputed=False), reading))
    return found


def _drawn(patients: int, cells: int, error: float, *, by_patient: bool) -> list[tuple[str, dict[str, str]]]:
    """Two readers who differ in that share of the cells, or of the patients."""
    rng = np.random.default_rng(4)
    rows = []
    for patient in range(patients):
        differs = rng.random() < error
        for _ in range(cells):
            label = LABELS[int(rng.integers(3))]
            other = LABELS[(LABELS.index(label) + 1) % 3]
            wrong = differs if by_patient else rng.random() < error
            rows.append((f"p{patient}", {"one": label, "two": other if wrong else label}))
    return rows


def test_kappa_is_that_of_scikit_learn() -> None:
    rows = _drawn(20, 10, 0.2, by_patient=False)
    (found,) = agreements(_read(rows), 0)
    one, two = ([said[role] for _, said in rows] for role in ("one", "two"))
    assert found.kappa == pytest.approx(cohen_kappa_score(one, two))
    assert found.share == pytest.approx(np.mean([a == b for a, b in zip(one, two, strict=True)]))
    assert (found.cells, found.patients, found.confusion.sum()) == (200, 20, 200)
    assert found.interval is not None
    assert found.kappa is not None
    assert found.interval[0] < found.kappa < found.interval[1]


def test_patients_are_resampled_and_not_cells() -> None:
    """With the same share of differences, those that go by patient leave far more open."""
    widths = []
    for by_patient in (False, True):
        (found,) = agreements(_read(_drawn(30, 20, 0.2, by_patient=by_patient)), 0)
        assert found.interval is not None
        widths.append(found.interval[1] - found.interval[0])
    assert widths[1] > 2 * widths[0]


def test_each_pair_for_itself_adjudicators_and_cells_of_nobody_left_out() -> None:
    rows = [("p0", {"a": "L1", "b": "L1", "c": "L2", "adjudicator": "L1"}), ("", {"a": "L1", "b": "L1"})]
    found = {item.readers: item for item in agreements(_read(rows), 0)}
    assert found.keys() == {("a", "b"), ("a", "c"), ("b", "c")}
    assert (found["a", "b"].cells, found["a", "b"].left_out, found["a", "c"].left_out) == (1, 1, 0)
    assert found["a", "b"].kappa is None  # one label only: chance alone would agree on everything
    assert (found["a", "c"].share, found["a", "c"].interval) == (0.0, None)


def test_cells_of_one_reader_say_nothing() -> None:
    assert agreements(_read([("p0", {"a": "L1"}), ("p1", {"b": "L1"})]), 0) == []


def test_kappa_without_anything_beyond_chance_is_not_a_number() -> None:
    assert np.isnan(kappa(np.array([[[5.0, 0.0], [0.0, 0.0]]]))).tolist() == [True]
