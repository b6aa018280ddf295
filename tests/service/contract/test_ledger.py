import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import create_engine, text

from service.contract.errors import Conflict, LedgerError, NotFound, StoreUnavailable
from service.contract.ledger import GENESIS, KINDS, Ledger
from service.contract.store import Store

A, B, C = "a" * 32, "b" * 32, "c" * 32


@pytest.fixture
def ledger(store_url: str) -> Iterator[Ledger]:
    ledger = Ledger(store_url)
    yield ledger
    ledger.close()


class TestChain:
    def test_a_row_covers_its_content_and_the_row_before(self, ledger: Ledger) -> None:
        assert ledger.head() == GENESIS
        first = ledger.append("registered", version=A, metrics={"ece": 0.02})
        second = ledger.append("trigger_fired", reasons=["drift"], run="r1")
        assert (first.seq, first.prev_hash, second.prev_hash) == (1, GENESIS, first.hash)
        body = '{"reasons":["drift"],"run":"r1"}'
        content = json.dumps([2, second.time, "trigger_fired", body, first.hash])
        assert second.hash == hashlib.sha256(content.encode()).hexdigest()
        assert ledger.head() == second.hash
        assert ledger.rows() == [first, second]
        assert ledger.rows("registered") == [first]
        ledger.verify()

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_kind(self, ledger: Ledger, kind: str) -> None:
        assert ledger.append(kind, version=A).kind == kind
        ledger.verify()

    def test_refuses_other_kinds_and_what_is_no_plain_json(self, ledger: Ledger) -> None:
        with pytest.raises(ValueError, match="no rows of kind 'deleted'"):
            ledger.append("deleted")
        with pytest.raises(ValueError, match="JSON"):
            ledger.append("registered", metrics={"ece": float("nan")})
        with pytest.raises(TypeError):
            ledger.append("registered", path=Path())
        assert ledger.rows() == []

    def test_lives_beside_the_records(self, store_url: str, ledger: Ledger) -> None:
        store = Store(store_url)
        ledger.append("frozen", by="sre")
        assert store.count() == 0
        assert len(Ledger(store_url).rows()) == 1


def _tamper(url: str, *statements: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def _rehash(url: str, number: int) -> None:
    """Make one row's own hash right again, as someone who read the source would."""
    engine = create_engine(url)
    with engine.begin() as connection:
        query = text("SELECT seq, time, kind, body, prev_hash FROM ledger WHERE seq = :number")
        row = connection.execute(query, {"number": number}).one()
        digest = hashlib.sha256(json.dumps(list(row)).encode()).hexdigest()
        change = text("UPDATE ledger SET hash = :digest WHERE seq = :number")
        connection.execute(change, {"digest": digest, "number": number})
    engine.dispose()


class TestVerify:
    @pytest.fixture
    def filled(self, ledger: Ledger) -> Ledger:
        for number in range(5):
            ledger.append("registered", version=f"{number}" * 32)
        ledger.append("gate_passed", version=A)
        ledger.verify()
        return ledger

    @pytest.mark.parametrize(
        ("statement", "message"),
        [
            ('UPDATE ledger SET body = \'{"version":"x"}\' WHERE seq = 3', "row 3 was changed"),
            ("UPDATE ledger SET kind = 'approved' WHERE seq = 3", "row 3 was changed"),
            ("UPDATE ledger SET time = '2020' WHERE seq = 1", "row 1 was changed"),
            ("UPDATE ledger SET hash = '0' WHERE seq = 6", "row 6 was changed"),
            ("UPDATE ledger SET prev_hash = 'x' WHERE seq = 4", "row 4 does not follow"),
            ("DELETE FROM ledger WHERE seq = 3", "row 3 is missing"),
            ("DELETE FROM ledger WHERE seq = 1", "row 1 is missing"),
            ("UPDATE ledger SET seq = seq + 1 WHERE seq = 6", "row 6 is missing"),
        ],
    )
    def test_sees_it(self, filled: Ledger, store_url: str, statement: str, message: str) -> None:
        _tamper(store_url, statement)
        with pytest.raises(LedgerError, match=message):
            filled.verify()

    def test_sees_rows_in_another_order(self, filled: Ledger, store_url: str) -> None:
        _tamper(
            store_url,
            "UPDATE ledger SET seq = 99 WHERE seq = 2",
            "UPDATE ledger SET seq = 2 WHERE seq = 3",
            "UPDATE ledger SET seq = 3 WHERE seq = 99",
        )
        with pytest.raises(LedgerError, match="row 2 does not follow"):
            filled.verify()

    def test_sees_a_changed_row_whose_hash_was_made_right(self, filled: Ledger, store_url: str) -> None:
        _tamper(store_url, 'UPDATE ledger SET body = \'{"version":"x"}\' WHERE seq = 3')
        _rehash(store_url, 3)
        with pytest.raises(LedgerError, match="row 4 does not follow"):
            filled.verify()

    def test_a_cut_tail_is_seen_by_a_head_noted_earlier(self, filled: Ledger, store_url: str) -> None:
        head = filled.head()
        _tamper(store_url, "DELETE FROM ledger WHERE seq > 4")
        filled.verify()
        with pytest.raises(LedgerError, match=f"cut or replaced: it has no row with the hash {head}"):
            filled.verify(head)

    def test_a_cut_tail_is_seen_also_after_new_rows(self, filled: Ledger, store_url: str) -> None:
        head = filled.head()
        _tamper(store_url, "DELETE FROM ledger WHERE seq = 6")
        filled.append("gate_refused", version=A, reasons=["worse"])
        filled.verify()
        with pytest.raises(LedgerError, match="cut or replaced"):
            filled.verify(head)

    def test_an_earlier_head_is_still_there(self, filled: Ledger) -> None:
        head = filled.head()
        filled.append("approved", version=A, by="qa")
        filled.verify(head)
        filled.verify(GENESIS)

    def test_an_unreadable_body_is_no_traceback(self, filled: Ledger, store_url: str) -> None:
        _tamper(store_url, "UPDATE ledger SET body = '{' WHERE seq = 1")
        with pytest.raises(LedgerError, match="verify"):
            filled.rows()


def _append(arguments: tuple[str, int]) -> None:
    url, worker = arguments
    ledger = Ledger(url)
    for number in range(25):
        ledger.append("registered", version=f"{worker}-{number}")


def _promote(arguments: tuple[str, str]) -> str:
    url, version = arguments
    try:
        return "promoted" if Ledger(url).promote(version, None) else "no-op"
    except Conflict:
        return "conflict"


class TestAtOnce:
    def test_four_processes_append_one_chain(self, store_url: str) -> None:
        with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
            list(pool.map(_append, [(store_url, worker) for worker in range(4)]))
        ledger = Ledger(store_url)
        ledger.verify()
        rows = ledger.rows()
        assert [row.seq for row in rows] == list(range(1, 101))
        for worker in range(4):
            own = [row.version for row in rows if row.version.startswith(f"{worker}-")]
            assert own == [f"{worker}-{number}" for number in range(25)]

    def test_of_candidates_promoted_at_once_one_wins(self, store_url: str, ledger: Ledger) -> None:
        with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
            results = sorted(pool.map(_promote, [(store_url, letter * 32) for letter in "abcdefgh"]))
        assert results == ["conflict"] * 7 + ["promoted"]
        assert len(ledger.rows("promoted")) == 1

    def test_threads_share_one_ledger(self, ledger: Ledger) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: ledger.append("registered", version=str(number)), range(40)))
        ledger.verify()
        assert len(ledger.rows()) == 40


class TestProduction:
    def test_nothing_at_first(self, ledger: Ledger) -> None:
        assert ledger.production() is None
        assert not ledger.needs_approval(A)
        assert not ledger.is_approved(A)

    def test_promote_compares_and_appends(self, ledger: Ledger) -> None:
        row = ledger.promote(A, None, run="r1")
        assert row is not None
        assert row.body == {"version": A, "replaced": None, "run": "r1"}
        with pytest.raises(Conflict, match=f"production is {A}, not empty"):
            ledger.promote(B, None)
        with pytest.raises(Conflict, match="dvc repro"):
            ledger.promote(B, C)
        assert ledger.promote(B, A) is not None
        assert ledger.production() == B

    @pytest.mark.parametrize("expected", [None, A, B])
    def test_promoting_what_is_in_production_is_no_row(self, ledger: Ledger, expected: str | None) -> None:
        ledger.promote(A, None)
        assert ledger.promote(A, expected) is None
        assert len(ledger.rows()) == 1

    def test_approval_needs_a_registered_version(self, ledger: Ledger) -> None:
        with pytest.raises(NotFound, match=f"no model {A} is registered"):
            ledger.approve(A, by="qa")
        ledger.append("registered", version=A)
        assert ledger.is_registered(A)
        assert not ledger.is_approved(A)
        assert ledger.approve(A, by=" qa ").body == {"version": A, "by": "qa"}
        assert ledger.is_approved(A)
        assert not ledger.is_approved(B)
        with pytest.raises(LedgerError, match="--by"):
            ledger.approve(A, by=" ")

    def test_rollback_goes_to_the_one_before(self, ledger: Ledger) -> None:
        for version, before in ((A, None), (B, A), (C, B)):
            ledger.promote(version, before)
        assert ledger.rollback(by="sre").body == {"version": C, "to": B, "by": "sre"}
        assert ledger.production() == B
        assert ledger.rollback(by="sre").body["to"] == A
        assert ledger.production() == A
        with pytest.raises(LedgerError, match="no earlier one"):
            ledger.rollback(by="sre")

    def test_rollback_to_a_named_version(self, ledger: Ledger) -> None:
        for version, before in ((A, None), (B, A), (C, B)):
            ledger.promote(version, before)
        ledger.rollback(A, by="sre")
        assert ledger.production() == A
        assert ledger.needs_approval(C)
        assert not ledger.needs_approval(B), "B was passed over, not taken back"

    @pytest.mark.parametrize("to", [C, B, "x"])
    def test_rollback_to_what_was_not_there_before(self, ledger: Ledger, to: str) -> None:
        ledger.promote(A, None)
        ledger.promote(B, A)
        with pytest.raises(LedgerError, match="cannot go back"):
            ledger.rollback(to, by="sre")
        assert ledger.production() == B

    def test_rollback_without_production(self, ledger: Ledger) -> None:
        with pytest.raises(LedgerError, match="nothing to roll back"):
            ledger.rollback(by="sre")

    def test_a_rolled_back_version_needs_a_newer_approval(self, ledger: Ledger) -> None:
        ledger.append("registered", version=B)
        ledger.approve(B, by="qa")
        ledger.promote(A, None)
        ledger.promote(B, A)
        ledger.rollback(by="sre")
        assert ledger.needs_approval(B)
        assert not ledger.is_approved(B), "the approval from before the rollback counts no more"
        with pytest.raises(LedgerError, match=f"approve {B} --by ROLE"):
            ledger.promote(B, A)
        assert ledger.production() == A
        ledger.approve(B, by="qa")
        assert not ledger.needs_approval(B)
        assert ledger.promote(B, A) is not None
        assert ledger.production() == B

    def test_a_second_rollback_never_returns_to_a_version_that_was_taken_back(self, ledger: Ledger) -> None:
        ledger.append("registered", version=B)
        for version, before in ((A, None), (B, A), (A, B)):
            ledger.promote(version, before)
        ledger.rollback(by="sre")  # A, promoted again, goes; B is back
        assert ledger.production() == B
        with pytest.raises(LedgerError, match="no earlier one"):
            ledger.rollback(by="sre")  # the A below was since taken back

    def test_freezing(self, ledger: Ledger) -> None:
        assert not ledger.frozen()
        ledger.append("frozen", by="sre")
        ledger.append("registered", version=A)
        assert ledger.frozen()
        ledger.append("resumed", by="sre")
        assert not ledger.frozen()


class Life(RuleBasedStateMachine):
    """Any order of steps: production is the last promoted or returned-to version; a rolled-back one stays out."""

    versions = st.sampled_from([A, B, C])

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger(f"sqlite:///{self._folder.name}/store.db")
        for version in (A, B, C):
            self.ledger.append("registered", version=version)
        self.production: str | None = None
        self.barred: set[str] = set()

    @rule(version=versions)
    def promote(self, version: str) -> None:
        try:
            self.ledger.promote(version, self.production)
        except LedgerError:
            assert version in self.barred
        else:
            assert version not in self.barred or version == self.production
            self.production = version

    @rule(version=versions)
    def approve(self, version: str) -> None:
        self.ledger.approve(version, by="qa")
        self.barred.discard(version)

    @rule(to=st.one_of(st.none(), versions))
    def rollback(self, to: str | None) -> None:
        try:
            row = self.ledger.rollback(to, by="sre")
        except LedgerError:
            return
        assert row.version == self.production
        assert row.body["to"] not in self.barred
        assert row.body["to"] != self.production
        assert to in (None, row.body["to"])
        self.barred.add(row.version)
        self.production = str(row.body["to"])

    @invariant()
    def agrees(self) -> None:
        assert self.ledger.production() == self.production
        assert {version for version in (A, B, C) if self.ledger.needs_approval(version)} == self.barred

    def teardown(self) -> None:
        self.ledger.verify()
        self.ledger.close()
        self._folder.cleanup()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=12, stateful_step_count=12)


EVERY_METHOD: list[Callable[[Ledger], object]] = [
    lambda ledger: ledger.append("frozen"),
    lambda ledger: ledger.rows(),
    lambda ledger: ledger.head(),
    lambda ledger: ledger.production(),
    lambda ledger: ledger.is_registered(A),
    lambda ledger: ledger.is_approved(A),
    lambda ledger: ledger.needs_approval(A),
    lambda ledger: ledger.approve(A, by="qa"),
    lambda ledger: ledger.promote(A, None),
    lambda ledger: ledger.rollback(by="sre"),
    lambda ledger: ledger.frozen(),
    lambda ledger: ledger.verify(),
]


@pytest.mark.parametrize("call", EVERY_METHOD)
def test_away(
    ledger: Ledger, outage: Callable[[], AbstractContextManager[None]], call: Callable[[Ledger], object]
) -> None:
    with outage(), pytest.raises(StoreUnavailable):
        call(ledger)
    assert ledger.rows() == []


def test_a_reader_does_not_make_a_ledger(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="there is no store"):
        Ledger(f"sqlite:///{tmp_path}/none.db", create=False)
    assert not list(tmp_path.iterdir())
