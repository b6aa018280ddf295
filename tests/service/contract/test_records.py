import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.records import PredictionRecord, ReviewRecord, record_id, review_id, utc_now
from tests.support.records import prediction, review


def test_a_prediction_survives_json() -> None:
    record = prediction(3, refer=True, refer_reasons=("uncertain", "unknown_scale"), embedding=(0.1, 1e-30))
    assert PredictionRecord.from_json(record.to_json()) == record
    assert PredictionRecord.from_json(record.to_json().encode()) == record
    assert "\n" not in record.to_json()


def test_a_review_survives_json() -> None:
    written = review(prediction(), sampled=True)
    assert ReviewRecord.from_json(written.to_json()) == written


@given(st.text(), st.text(), st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_any_text_and_any_float32_survive(site: str, request_id: str, value: float) -> None:
    record = prediction(site=site, request_id=request_id, embedding=(value,))
    read = PredictionRecord.from_json(record.to_json())
    assert read == record
    assert np.float32(read.embedding[0]) == np.float32(value)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"record_id": "x"}', "\x00"])
def test_anything_else_is_refused(text: str) -> None:
    for kind in (PredictionRecord, ReviewRecord):
        with pytest.raises(ValueError, match=r".+"):
            kind.from_json(text)


def test_unknown_and_missing_fields_are_named() -> None:
    values = asdict(prediction()) | {"surprise": 1}
    del values["site"]
    with pytest.raises(ValueError, match=r"\['site', 'surprise'\]"):
        PredictionRecord.from_json(json.dumps(values))


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        replace(prediction(), ood_score=float("nan")).to_json()


def test_the_id_follows_the_request_and_the_model() -> None:
    same = record_id("ward", "7", "p" * 64, "m" * 32)
    assert same == record_id("ward", "7", "p" * 64, "m" * 32)
    others = {
        record_id("ward2", "7", "p" * 64, "m" * 32),
        record_id("ward", "8", "p" * 64, "m" * 32),
        record_id("ward", "7", "q" * 64, "m" * 32),
        record_id("ward", "7", "p" * 64, "n" * 32),
        record_id("war", "d7", "p" * 64, "m" * 32),
    }
    assert len(others) == 5
    assert same not in others
    assert len(same) == 32


@given(st.lists(st.text(), min_size=4, max_size=4), st.lists(st.text(), min_size=4, max_size=4))
def test_different_parts_never_share_an_id(one: list[str], other: list[str]) -> None:
    assert (record_id(*one) == record_id(*other)) == (one == other)
    assert record_id(*one) != review_id(*one)


def test_times_sort_like_the_moments_they_name() -> None:
    times = [utc_now() for _ in range(50)]
    assert times == sorted(times)
    assert all(time.endswith("+00:00") and len(time) == 32 for time in times)


def test_the_key_is_what_a_client_means_by_the_same_request() -> None:
    assert prediction(5).key == ("ward-1", "request-5")
