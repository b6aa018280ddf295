"""The table of shadows' answers, on each kind of database."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from service.contract.erasure import Erasure
from service.contract.errors import StoreUnavailable
from service.contract.pixels import PixelStore
from service.contract.shadows import ShadowAnswer, Shadows
from service.contract.store import Store
from tests.support.records import prediction

VERSION = "b" * 32


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    store = Store(store_url, timeout_s=5.0)
    yield store
    store.close()


@pytest.fixture
def shadows(store: Store, store_url: str) -> Iterator[Shadows]:
    shadows = Shadows(store_url)
    yield shadows
    shadows.close()


def answer(number: int, version: str = VERSION) -> ShadowAnswer:
    return ShadowAnswer(
        record_id=prediction(number).record_id,
        version=version,
        time=f"2026-01-{number + 1:02d}T00:00:00.000000+00:00",
        label="L2",
        probabilities={"healthy": 0.25, "L2": 0.75},
        malignant_probability=0.75,
        refer=bool(number % 2),
        refer_reasons=("uncertain",) if number % 2 else (),
        ood_score=1.5,
        compute_ms=2.5,
    )


def test_what_goes_in_comes_out_beside_its_record(store: Store, shadows: Shadows) -> None:
    store.insert_predictions([prediction(number) for number in range(3)])
    assert shadows.insert([answer(number) for number in range(3)]) == []
    pairs = shadows.pairs(VERSION)
    assert [pair.shadow for pair in pairs] == [answer(number) for number in range(3)]
    assert [pair.live.record_id for pair in pairs] == [prediction(number).record_id for number in range(3)]
    assert shadows.pairs("c" * 32) == []


def test_each_once_a_version_and_none_without_a_record(store: Store, shadows: Shadows) -> None:
    store.insert_predictions([prediction(0), prediction(1)])
    assert shadows.insert([]) == []
    assert shadows.insert([answer(0), answer(5)]) == [answer(5)]
    assert shadows.insert([answer(0), answer(1), answer(0, "c" * 32)]) == []
    assert [pair.shadow for pair in shadows.pairs(VERSION)] == [answer(0), answer(1)]
    assert [pair.shadow for pair in shadows.pairs("c" * 32)] == [answer(0, "c" * 32)]


def test_since_a_moment(store: Store, shadows: Shadows) -> None:
    store.insert_predictions([prediction(number) for number in range(5)])
    shadows.insert([answer(number) for number in range(5)])
    assert [pair.shadow for pair in shadows.pairs(VERSION, since="2026-01-04")] == [answer(3), answer(4)]


def test_it_goes_with_its_patient(store: Store, shadows: Shadows, store_url: str, tmp_path: Path) -> None:
    mine, other = "1" * 32, "2" * 32
    store.insert_predictions([prediction(0, patient=mine), prediction(1, patient=other)])
    shadows.insert([answer(0), answer(1)])
    erasure = Erasure(store_url)
    erasure.purge(mine, PixelStore(tmp_path / "pixels"))
    erasure.close()
    assert [pair.shadow for pair in shadows.pairs(VERSION)] == [answer(1)]
    assert shadows.insert([answer(0)]) == [answer(0)]


def test_while_the_store_is_away(
    store: Store, shadows: Shadows, outage: Callable[[], AbstractContextManager[None]]
) -> None:
    store.insert_predictions([prediction(0)])
    with outage():
        with pytest.raises(StoreUnavailable):
            shadows.insert([answer(0)])
        with pytest.raises(StoreUnavailable):
            shadows.pairs(VERSION)
    assert shadows.insert([answer(0)]) == []
