"""Messages and domain values: each pair is its own inverse, and no field is forgotten."""

from dataclasses import fields

import pytest
from google.protobuf.message import Message

from service import converters
from service.contract.errors import InvalidRequest
from service.domain import Answer, Cell, ModelInfo, Review, ReviewAnswer
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb

CELL = Cell(b"bytes", "request", "patient", "specimen", "site", "stain", "scanner", 0.25, True)
ANSWER = Answer(
    "record", "request", "i" * 64, "p" * 64, "L1", {"L1": 0.75, "healthy": 0.25}, 0.75, True, ("uncertain",), 1.5, "v"
)
REVIEW = Review("record", "L2", "haematologist", True)
REVIEWED = ReviewAnswer("record", "review", True, "note")
MODEL = ModelInfo("v", ("healthy", "L1"), ("L1",), 128, 96, 20.0, True, 0.6, 9.0, "2020", {"accuracy": 0.5, "n": None})


def test_a_cell_goes_there_and_back() -> None:
    assert converters.cell_from_message(converters.cell_to_message(CELL)) == CELL


def test_an_answer_goes_there_and_back() -> None:
    assert converters.answer_from_message(converters.answer_to_message(ANSWER)) == ANSWER


def test_a_review_goes_there_and_back() -> None:
    assert converters.review_from_message(converters.review_to_message(REVIEW)) == REVIEW
    assert converters.review_answer_from_message(converters.review_answer_to_message(REVIEWED)) == REVIEWED


def test_a_model_goes_there_and_back() -> None:
    assert converters.model_from_message(converters.model_to_message(MODEL)) == MODEL


@pytest.mark.parametrize(
    ("value", "message"),
    [(CELL, pb.Cell), (ANSWER, pb.Prediction), (REVIEW, pb.ReviewRequest), (REVIEWED, pb.ReviewReply)],
)
def test_a_message_has_the_fields_of_its_value(value: object, message: type[Message]) -> None:
    assert [field.name for field in fields(value)] == [field.name for field in message.DESCRIPTOR.fields]  # type: ignore[arg-type]


def test_the_examples_leave_no_field_at_its_default() -> None:
    for message in (converters.cell_to_message(CELL), converters.answer_to_message(ANSWER)):
        assert len(message.ListFields()) == len(message.DESCRIPTOR.fields)


def test_json_is_protobufs_mapping_and_says_what_is_false() -> None:
    found = converters.to_json(converters.answer_to_message(Answer("r", "", "", "", "", {}, 0.0, False, (), 0.0, "")))
    assert found["refer"] is False
    assert found["referReasons"] == []
    assert found["malignantProbability"] == 0.0


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b'{"recordId": 5}', b'{"patient": "canary"}', b"[" * 5000])
def test_text_that_is_no_message_is_refused_without_repeating_it(text: bytes) -> None:
    with pytest.raises(InvalidRequest, match="recordId, label, role, sampled") as caught:
        converters.from_json(text, pb.ReviewRequest())
    assert "canary" not in str(caught.value)


def test_both_spellings_of_a_field_are_read() -> None:
    expected = pb.ReviewRequest(record_id="x")
    assert converters.from_json('{"recordId": "x"}', pb.ReviewRequest()) == expected
    assert converters.from_json('{"record_id": "x"}', pb.ReviewRequest()) == expected
