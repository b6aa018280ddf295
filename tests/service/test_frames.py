"""A torn or damaged entry is never taken for a whole one, and never hides one."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.frames import MAX_PAYLOAD, Entry, decode, encode, split
from tests.support.entries import entries, prediction, review

THREE = [encode(entry) for entry in entries(1, 2, 3)]
DATA = b"".join(THREE)


def test_what_is_encoded_is_read_back() -> None:
    for entry in (Entry.prediction(prediction(1)), Entry.review(review(1))):
        found = split(encode(entry))
        assert [decode(payload) for payload in found.payloads] == [entry]
        assert (found.damaged, found.torn) == (0, 0)


def test_wherever_a_file_is_cut_the_whole_entries_are_found() -> None:
    ends = [len(THREE[0]), len(THREE[0] + THREE[1]), len(DATA)]
    for length in range(len(DATA) + 1):
        found = split(DATA[:length])
        whole = sum(end <= length for end in ends)
        assert len(found.payloads) == whole
        assert found.damaged == 0
        assert found.torn == length - ([0, *ends][whole])


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"bwJ1", b"bwJ1" + b"\0" * 12, b"\xff" * 100, THREE[1][5:]])
def test_what_follows_the_last_whole_entry_is_a_torn_end(tail: bytes) -> None:
    found = split(THREE[0] + tail)
    assert [decode(payload) for payload in found.payloads] == entries(1)
    assert (found.damaged, found.torn) == (0, len(tail))


def test_any_flipped_bit_loses_that_entry_alone() -> None:
    start, end = len(THREE[0]), len(THREE[0] + THREE[1])
    for position in range(start, end):
        for bit in (0, 7):
            data = bytearray(DATA)
            data[position] ^= 1 << bit
            found = split(bytes(data))
            assert [decode(payload) for payload in found.payloads] == entries(1, 3), (position, bit)
            assert (found.damaged, found.torn) == (end - start, 0)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_entries_are_found_among_anything(before: bytes, after: bytes) -> None:
    found = split(before + THREE[1] + after)
    assert [decode(payload) for payload in found.payloads] == entries(2)
    assert (found.damaged, found.torn) == (len(before), len(after))


@given(st.text(max_size=60))
def test_no_text_in_a_record_can_pass_for_an_entry(text: str) -> None:
    record = replace(prediction(1), site=text, specimen_id=THREE[1].decode("latin-1"))
    try:
        frame = encode(Entry.prediction(record))
    except ValueError:  # half a surrogate pair is no text
        return
    found = split(b"damage" + frame[1:])
    assert found.payloads == ()
    assert [decode(payload).record for payload in split(frame).payloads] == [record]


@pytest.mark.parametrize(
    "record",
    [
        replace(prediction(1), ood_score=math.nan),
        replace(prediction(1), site="\ud800"),
        replace(prediction(1), site="x" * MAX_PAYLOAD),
    ],
    ids=["not a number", "no text", "too long"],
)
def test_what_cannot_be_read_back_is_not_written(record: object) -> None:
    with pytest.raises(ValueError):
        encode(Entry(record))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"[]",
        b'["prediction",{}]',
        b'["prediction",3]',
        b'["review",{"a":1}]',
        b'["later",{}]',
        b"[1,2,3]",
        b"\xff",
    ],
)
def test_another_form_is_an_error(payload: bytes) -> None:
    with pytest.raises(ValueError):
        decode(payload)
