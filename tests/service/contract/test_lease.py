"""One holder at a time, on each kind of database, whoever dies, sleeps or comes back late."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from service.contract.errors import ConfigError, Conflict
from service.contract.lease import Lease, Leases, place, renewed, seconds_of
from service.contract.ledger import Ledger, fence_of
from service.contract.schema import RETRAINING

LONG, SHORT = 600.0, 0.2


@pytest.fixture
def ledger(store_url: str) -> Iterator[Ledger]:
    ledger = Ledger(store_url)
    yield ledger
    ledger.close()


@pytest.fixture
def leases(store_url: str, ledger: Ledger) -> Iterator[Leases]:
    leases = Leases(store_url)
    yield leases
    leases.close()


def take(leases: Leases, owner: str, seconds: float = LONG) -> Lease | None:
    return leases.take(RETRAINING, owner, f"a run of {owner}", seconds)


def taken(leases: Leases, owner: str, seconds: float = LONG) -> Lease:
    lease = take(leases, owner, seconds)
    assert lease is not None
    return lease


def taken_over(leases: Leases, owner: str) -> Lease:
    """Take it as soon as whoever has it is overdue."""
    deadline = time.monotonic() + 30
    while (lease := take(leases, owner)) is None:
        assert time.monotonic() < deadline, "it never ends"
        time.sleep(0.02)
    return lease


class TestHolder:
    def test_one_at_a_time(self, leases: Leases) -> None:
        assert leases.held(RETRAINING) is None
        first = taken(leases, "a")
        assert take(leases, "b") is None
        held = leases.held(RETRAINING)
        assert held is not None
        assert held.lease == first
        assert 0 < held.left_s <= LONG
        leases.release(first)
        assert leases.held(RETRAINING) is None
        assert taken(leases, "b").fence == first.fence + 1

    def test_of_many_that_ask_at_once_one_gets_it(self, leases: Leases) -> None:
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda number: take(leases, f"host-{number}"), range(8)))
        assert sum(lease is not None for lease in got) == 1

    def test_one_that_is_silent_is_replaced_and_cannot_come_back(self, leases: Leases) -> None:
        silent = taken(leases, "a", SHORT)
        heir = taken_over(leases, "b")
        assert heir.fence > silent.fence
        with pytest.raises(Conflict, match="taken over"):
            leases.renew(silent, LONG)
        leases.release(silent)
        held = leases.held(RETRAINING)
        assert held is not None
        assert held.lease == heir

    def test_one_that_is_late_and_was_not_replaced_goes_on(self, leases: Leases) -> None:
        late = taken(leases, "a", SHORT)
        while leases.held(RETRAINING) is not None:
            time.sleep(0.02)
        leases.renew(late, LONG)
        assert take(leases, "b") is None

    def test_the_same_place_inherits_at_once_with_a_new_number(self, leases: Leases) -> None:
        dead = taken(leases, "a")
        heir = taken(leases, "a")
        assert heir.fence == dead.fence + 1
        with pytest.raises(Conflict):
            leases.renew(dead, LONG)

    def test_other_names_are_other_leases(self, leases: Leases) -> None:
        taken(leases, "a")
        assert leases.take("other", "b", "b", LONG) is not None


class TestRenewed:
    def test_it_is_held_for_as_long_as_the_work_takes_and_then_free(self, leases: Leases) -> None:
        def left() -> float:
            held = leases.held(RETRAINING)
            assert held is not None
            return held.left_s

        lease = taken(leases, "a")
        with renewed(leases, lease, 4.0, lost=pytest.fail):
            before, now = 4.0, left()
            while now <= before:  # until it was renewed
                time.sleep(0.05)
                before, now = now, left()
            assert take(leases, "b") is None
        assert leases.held(RETRAINING) is None

    def test_losing_it_is_said_once(self, leases: Leases) -> None:
        lost = threading.Event()
        lease = taken(leases, "a")
        with renewed(leases, lease, 0.4, lost=lost.set):
            heir = taken(leases, "a")  # as if another had taken it over
            assert lost.wait(30)
        held = leases.held(RETRAINING)
        assert held is not None
        assert held.lease == heir

    def test_who_has_lost_it_does_not_start(self, leases: Leases) -> None:
        lease = taken(leases, "a")
        taken(leases, "a")
        with pytest.raises(Conflict), renewed(leases, lease, LONG, lost=pytest.fail):
            pytest.fail("it started")

    def test_a_database_that_is_away_for_longer_than_the_lease_ends_nothing(
        self, leases: Leases, outage: Callable[[], AbstractContextManager[None]]
    ) -> None:
        lease = taken(leases, "a", SHORT)
        with renewed(leases, lease, SHORT, lost=pytest.fail):
            with outage():
                time.sleep(3 * SHORT)
            deadline = time.monotonic() + 30
            while leases.held(RETRAINING) is None:
                assert time.monotonic() < deadline
                time.sleep(0.02)


class TestFence:
    def test_who_was_replaced_can_write_nothing(self, leases: Leases, ledger: Ledger) -> None:
        for version in ("a", "b"):
            ledger.append("registered", version=version)
        slow = ledger.fenced(taken(leases, "a").fence)
        slow.append("retraining_started", run="slow")
        heir = ledger.fenced(taken(leases, "a").fence)
        rows = ledger.rows()
        writes: list[Callable[[], object]] = [
            lambda: slow.append("retraining_finished", run="slow"),
            lambda: slow.promote("a", None),
            lambda: slow.approve("a", by="plan"),
            lambda: slow.rollback(by="plan"),
        ]
        for write in writes:
            with pytest.raises(Conflict, match="lost its lease"):
                write()
        assert ledger.rows() == rows
        heir.promote("b", None)
        assert slow.production() == ledger.production() == "b"
        ledger.verify()

    def test_nor_can_who_let_go_of_it(self, leases: Leases, ledger: Ledger) -> None:
        lease = taken(leases, "a")
        leases.release(lease)
        with pytest.raises(Conflict, match="lost its lease"):
            ledger.fenced(lease.fence).append("retraining_finished", run="r")

    def test_no_number_is_no_fence(self, ledger: Ledger) -> None:
        assert ledger.fenced(fence_of({})).append("frozen", by="sre").seq == 1
        assert fence_of({"BLASTWATCH_RETRAINING_FENCE": "7"}) == 7
        with pytest.raises(ConfigError, match="no number"):
            fence_of({"BLASTWATCH_RETRAINING_FENCE": "x"})


def test_a_place_is_the_same_for_everybody_in_it_and_no_other(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    assert place(one) == place(one) != place(two)
    assert place(one).startswith(os.uname().nodename)


def test_how_long_a_lease_lasts() -> None:
    assert seconds_of({}) == 120.0
    assert seconds_of({"BLASTWATCH_RETRAINING_LEASE_S": "9.5"}) == 9.5
    for wrong in ("0", "x", "-1", "inf", "nan"):
        with pytest.raises(ConfigError, match="BLASTWATCH_RETRAINING_LEASE_S"):
            seconds_of({"BLASTWATCH_RETRAINING_LEASE_S": wrong})
