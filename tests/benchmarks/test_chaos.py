"""The drills' judge finds what it is there to find, and one short drill of the real site."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.chaos import report
from benchmarks.chaos.database import database
from benchmarks.chaos.drill import Outcome, run
from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.load import Said
from benchmarks.chaos.pictures import Pictures, Truth
from benchmarks.chaos.soak import Sample, trend
from benchmarks.chaos.verdict import IN_A_ROW, judge, recovered
from service.contract.artifact import Artifact
from service.contract.store import StoredPrediction
from tests.support.artifacts import tiny_artifact
from tests.support.records import prediction

COUNT = 8


@pytest.fixture
def model(tmp_path: Path) -> Artifact:
    return tiny_artifact(tmp_path / "model")


@pytest.fixture
def truths(model: Artifact) -> dict[int, Truth]:
    return Pictures(1).truths(range(COUNT), [model])


def right(truths: dict[int, Truth], model: Artifact) -> tuple[list[Said], list[StoredPrediction]]:
    """Answers as they should be, and their records."""
    said, stored = [], []
    for number, truth in truths.items():
        label, malignant = truth.labels[model.version], truth.malignant[model.version]
        name, record = f"call-{number}", f"{number:032x}"
        said.append(
            Said(
                number,
                name,
                record,
                truth.image_sha256,
                truth.pixels_sha256,
                label,
                malignant,
                model.version,
                float(number),
                0.01,
            )
        )
        kept = replace(
            prediction(),
            record_id=record,
            request_id=name,
            model_version=model.version,
            image_sha256=truth.image_sha256,
            pixels_sha256=truth.pixels_sha256,
            label=label,
            malignant_probability=malignant,
        )
        stored.append(StoredPrediction(number, kept, False))
    return said, stored


def test_right_answers_that_are_on_record_are_no_finding(truths: dict[int, Truth], model: Artifact) -> None:
    said, stored = right(truths, model)
    verdict = judge(said, stored, truths)
    assert verdict.broken == []
    assert len({truth.labels[model.version] for truth in truths.values()}) > 1, "every picture has the same label"
    assert judge(said[:-1], stored, truths).unacknowledged == 1


def test_a_lost_answer_is_found(truths: dict[int, Truth], model: Artifact) -> None:
    said, stored = right(truths, model)
    verdict = judge(said, stored[1:], truths)
    assert (verdict.lost, verdict.doubled, verdict.mixed) == (("call-0",), (), ())


def test_a_doubled_answer_is_found_and_one_of_another_model_is_none(truths: dict[int, Truth], model: Artifact) -> None:
    said, stored = right(truths, model)
    again = replace(stored[2].record, record_id="f" * 32)
    assert judge(said, [*stored, StoredPrediction(99, again, False)], truths).doubled == ("call-2",)
    of_other = replace(again, model_version="b" * 32)
    assert judge(said, [*stored, StoredPrediction(99, of_other, False)], truths).broken == []


def test_two_answers_that_were_swapped_are_found(truths: dict[int, Truth], model: Artifact) -> None:
    said, stored = right(truths, model)
    said[0], said[1] = (
        replace(said[1], request_id=said[0].request_id, record_id=said[0].record_id, number=0),
        replace(said[0], request_id=said[1].request_id, record_id=said[1].record_id, number=1),
    )
    assert set(judge(said, stored, truths).mixed) == {"call-0", "call-1"}


def test_a_wrong_label_is_found_in_the_answer_and_in_the_record(truths: dict[int, Truth], model: Artifact) -> None:
    said, stored = right(truths, model)
    assert judge([replace(said[0], label="another"), *said[1:]], stored, truths).mixed == ("call-0",)
    wrong = StoredPrediction(0, replace(stored[0].record, label="another"), False)
    assert judge(said, [wrong, *stored[1:]], truths).mixed == ("call-0",)


def test_an_answer_of_a_model_that_nobody_promoted_is_found(truths: dict[int, Truth], model: Artifact) -> None:
    said, stored = right(truths, model)
    foreign = StoredPrediction(0, replace(stored[0].record, model_version="b" * 32), False)
    verdict = judge([replace(said[0], version="b" * 32), *said[1:]], [foreign, *stored[1:]], truths)
    assert verdict.mixed == ("call-0",)


def test_a_disputed_record_is_found(truths: dict[int, Truth], model: Artifact) -> None:
    said, stored = right(truths, model)
    assert judge(said, [replace(stored[0], disputed=True), *stored[1:]], truths).disputed == ("call-0",)


def test_recovery_is_the_first_of_enough_answers_in_a_row_at_normal_latency() -> None:
    bad = [(10.0 + k / 10, 0.05, False) for k in range(3)]
    short = [(11.0 + k / 10, 0.05, True) for k in range(IN_A_ROW - 1)]
    slow = [(12.0, 0.9, True)]
    good = [(13.0 + k / 10, 0.05, True) for k in range(IN_A_ROW)]
    assert recovered([*bad, *short, *slow, *good], 10.0, 0.25) == pytest.approx(3.0)
    assert recovered([*bad, *short], 10.0, 0.25) is None
    assert recovered(good, 13.5, 0.25) is None, "answers to what was asked before the end do not count"


def test_a_leak_is_no_noise_and_noise_is_no_leak() -> None:
    noise = [3 * ((7 * k) % 11) / 11 for k in range(360)]
    still = [Sample(10.0 * k, 200 + noise[k], {"socket": 40, "journal": 20}, {"python": 20}) for k in range(360)]
    assert trend("worker", still).steady
    leaks = [replace(item, mib=item.mib + item.at / 3600 * 20) for item in still]
    assert not trend("worker", leaks).steady
    assert trend("worker", leaks).slope == pytest.approx(20, abs=2)


def test_a_file_that_stays_open_is_growth_and_one_open_for_a_moment_is_not() -> None:
    still = [Sample(10.0 * k, 200, {"socket": 40, "journal": 20}, {"python": 20}) for k in range(360)]
    moment = [
        replace(item, files={**item.files, "pixels": 1} if k == 300 else item.files) for k, item in enumerate(still)
    ]
    assert trend("worker", moment).steady
    assert trend("worker", moment).files.most == (60, 61)
    leak = [replace(item, files={"socket": 40 + k // 300, "journal": 20}) for k, item in enumerate(still)]
    found = trend("worker", leak)
    assert (found.steady, found.files.usual, found.more) == (False, (60, 61), ("socket",))
    swapped = [replace(item, files={"socket": 40 + k // 300, "journal": 20 - k // 300}) for k, item in enumerate(still)]
    assert not trend("worker", swapped).steady, "what leaks may hide behind what was closed"


def test_a_thread_that_stays_is_growth_and_one_that_lives_for_a_moment_is_not() -> None:
    still = [Sample(10.0 * k, 200, {"socket": 40}, {"python": 20, "event_engine": 4}) for k in range(360)]
    moment = [
        replace(item, threads={**item.threads, "event_engine": 5} if k % 50 == 0 else item.threads)
        for k, item in enumerate(still)
    ]
    assert trend("worker", moment).steady
    more = [replace(item, threads={"python": 20 + k // 100, "event_engine": 4}) for k, item in enumerate(still)]
    assert not trend("worker", more).steady
    assert trend("worker", more).more == ("threads named python",)


def test_the_page_names_what_broke_and_what_was_skipped_and_keeps_the_soak() -> None:
    broke = Outcome("a", "first fault", requests=5, problems=("1 lost, e.g. call-1",))
    skipped = Outcome("b", "second fault", skipped="no loop device here")
    text = report.page([broke, skipped], seed=1, seconds=6.0, took_s=3.0)
    assert "1 of 2 broke a promise" in text
    assert "| first fault | 5 |" in text
    assert "BROKEN" in text
    assert "skipped: no loop device here" in text
    soaked = report.with_soak(text, "\nsteady\n")
    assert report.with_soak_of(report.page([skipped], seed=1, seconds=6.0, took_s=3.0), soaked).endswith(
        "## Soak\n\nsteady\n"
    )


def test_the_page_of_no_broken_promise_says_so() -> None:
    assert "No promise broke in 1 faults." in report.page([Outcome("a", "first")], seed=1, seconds=6.0, took_s=1.0)


@pytest.mark.servers
@pytest.mark.e2e
@pytest.mark.xdist_group("bento")
def test_a_drill_of_the_real_site_in_which_a_worker_is_killed() -> None:
    with database() as server:
        found = run(FAULTS["kill-worker"], server, seed=3, seconds=4.0)
    assert found.problems == ()
    assert found.requests > 50
    assert (found.failed, found.verdict.broken) == (0, [])
    assert found.notes[0].startswith("second worker back after")
