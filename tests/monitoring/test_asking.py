"""One door: a date, reviews, a person and the policy meet the same freeze, breaker, budget and cooldown."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from monitoring import job, trigger_command
from monitoring.decisions import DECISION
from monitoring.findings import Finding
from monitoring.judge_settings import PolicySettings
from monitoring.occasions import occasions
from monitoring.policy import PolicyState, Reviewed, Run
from monitoring.settings import Settings
from monitoring.site import Site, open_site
from monitoring.trigger import LocalTrigger
from monitoring.window import Window
from service.contract.errors import Conflict
from tests.monitoring.test_job import World, review, verdict

HOUR, DAY = 3600.0, 86400.0


class TestOccasions:
    """When a date or a number of reviews has come."""

    def due(self, now: float, *starts: float, reviewed: int = 0, **numbers: float | None) -> list[str]:
        state = PolicyState(runs=tuple(Run(start, "passed") for start in starts))
        settings = PolicySettings.model_validate(numbers)
        return [by for by, _ in occasions(state, settings, now, 0.0, lambda: Reviewed(reviewed, 30))]

    def test_both_are_off(self) -> None:
        assert self.due(1e9, reviewed=10**6) == []

    def test_days_count_from_the_last_start_or_the_first_model(self) -> None:
        assert self.due(30 * DAY - 1, schedule_days=30) == []
        assert self.due(30 * DAY, schedule_days=30) == ["schedule"]
        assert self.due(30 * DAY, 10 * DAY, schedule_days=30) == []
        assert self.due(40 * DAY, 10 * DAY, schedule_days=30) == ["schedule"]

    def test_only_within_its_hour(self) -> None:
        at = [hour for hour in range(24) if self.due(60 * DAY + hour * HOUR, schedule_days=30, schedule_hour=2)]
        assert at == [2]

    def test_reviews_that_no_candidate_has_used(self) -> None:
        assert self.due(1.0, reviewed=299, enough_reviews=300) == []
        assert self.due(1.0, reviewed=300, enough_reviews=300) == ["reviews"]

    def test_nobody_counts_reviews_for_a_schedule(self) -> None:
        found = occasions(PolicyState(), PolicySettings(schedule_days=1), DAY, 0.0, lambda: pytest.fail("counted"))
        assert [why for _, why in found] == ["1 days since the first model"]


class Door(World):
    """A site whose retrainings are real processes that end at once, with reviews enough for one."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def judge(window: Window, *_: object, **__: object) -> list[Finding]:
            shifted = "site-new" in window.columns.site
            return [verdict("embedding", "covariate", 2.0 if shifted else 0.1, window)]

        monkeypatch.setattr(job, "judge", judge)
        super().__init__(folder)
        for name, value in {
            "BLASTWATCH_ROOT": folder,
            "BLASTWATCH_STORE_URL": self.settings.store_url,
            "BLASTWATCH_MONITOR_POLICY__MIN_REVIEWED_CELLS": 20,
            "BLASTWATCH_MONITOR_POLICY__MIN_REVIEWED_PATIENTS": 4,
        }.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setattr("monitoring.trigger.retrain_command", lambda settings: self.command)
        self.ledger.append("promoted", version=self.version)
        review(self, self.send(1)[::2])

    def command(self, run: str, lock: int) -> list[str]:
        return ["true"]

    def site(self, settings: Settings) -> Site:
        return open_site(settings)

    def look(self, **policy: float) -> None:
        """The monitor's next look, with these numbers."""
        numbers = self.settings.policy.model_copy(update=policy)
        self.start(policy=numbers)
        self.now = time.time()
        assert self.monitor.step()

    def ran(self, outcome: str, run: str) -> None:
        """A retraining of earlier, just now."""
        self.ledger.append("retraining_started", run=run)
        if outcome == "refused":
            self.ledger.append("retraining_finished", run=run, gate="refused")
        else:
            self.ledger.append("retraining_failed", run=run, reason="planted")

    def by(self) -> list[str]:
        return [str(row.body["by"]) for row in self.ledger.rows("trigger_fired")]

    def end(self) -> None:
        trigger = LocalTrigger(self.ledger, self.settings)
        deadline = time.monotonic() + 30
        while trigger.watch(time.time()):
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Door:
    return Door(tmp_path, monkeypatch)


def by_schedule(door: Door) -> None:
    door.look(schedule_days=1e-9)


def by_reviews(door: Door) -> None:
    door.look(enough_reviews=30)


def by_person(door: Door) -> None:
    with pytest.MonkeyPatch.context() as never_wait:
        never_wait.setattr(trigger_command, "POLL_S", 0.01)
        try:
            trigger_command.main(["retrain", "--why", "a new scanner", "--by", "haematologist"])
        except Conflict:
            return


def by_policy(door: Door) -> None:
    door.now = time.time() + 2 * HOUR  # windows from before a run are no reason for the next
    door.send(3, site="site-new")
    door.look()
    door.look()


ASK: dict[str, Callable[[Door], None]] = {
    "schedule": by_schedule,
    "reviews": by_reviews,
    "haematologist": by_person,
    "policy": by_policy,
}


@pytest.mark.parametrize("by", ASK)
class TestOneDoor:
    def test_whoever_asks_is_on_record(self, door: Door, by: str) -> None:
        ASK[by](door)
        assert door.by() == [by]
        door.end()
        (row,) = door.ledger.rows("trigger_fired")
        if by == "haematologist":
            assert row.body["decision"] is None
        else:
            decision = next(item for item in door.ledger.rows(DECISION) if item.seq == row.body["decision"])
            assert (decision.body["decision"], decision.body["by"]) == ("retrain", by)
        ASK[by](door)  # now the cooldown has begun
        assert door.by() == [by]

    @pytest.mark.parametrize("block", ["frozen", "cooldown", "budget", "breaker", "reviews"])
    def test_whoever_asks_is_refused(self, door: Door, by: str, block: str) -> None:
        free = {"cooldown_s": 0.0, "budget_runs": 100}
        match block:
            case "frozen":
                door.ledger.append("frozen", by="sre", why="planned work")
            case "cooldown":
                door.ran("failed", "one")
            case "budget":
                free = {"cooldown_s": 0.0}
                for run in ("one", "two"):
                    door.ran("failed", run)
            case "breaker":
                for run in ("one", "two"):
                    door.ran("refused", run)
                door.now = time.time()
                review(door, door.send(1)[::2])  # those before went into the candidates
            case "reviews":
                free = {"min_reviewed_cells": 10_000}
        numbers = door.settings.policy.model_copy(update={} if block in ("frozen", "cooldown") else free)
        door.settings = door.settings.model_copy(update={"policy": numbers})
        with pytest.MonkeyPatch.context() as numbers_of_a_person:
            for name, value in numbers.model_dump(exclude_none=True).items():
                numbers_of_a_person.setenv(f"BLASTWATCH_MONITOR_POLICY__{name.upper()}", str(value))
            ASK[by](door)
        assert door.by() == []
        said = [row.body["blocked_by"] for row in door.ledger.rows(DECISION) if row.body["by"] == by]
        if by != "haematologist":  # a person is told at once, and nothing is on record
            assert said[-1] == block


class TestBreaker:
    def test_its_opening_is_a_decision_of_its_own_each_time(self, door: Door) -> None:
        def opened() -> list[str]:
            return [row.body["why"] for row in door.ledger.rows(DECISION) if row.body["decision"] == "breaker"]

        door.ran("refused", "one")
        door.look()
        assert opened() == []
        door.ran("refused", "two")
        door.look()
        assert opened() == ["the last 2 candidates were refused: nothing retrains until a person resumes"]
        assert door.decisions()[-1] == "breaker"
        assert door.value("decision", kind="breaker") == 1
        door.look()
        assert len(opened()) == 1
        door.ledger.append("resumed", by="sre")
        door.look()
        for run in ("three", "four"):
            door.ran("refused", run)
        door.look()
        door.look()
        assert len(opened()) == 2


def test_a_blocked_wish_is_said_once(door: Door) -> None:
    door.ledger.append("frozen", by="sre", why="planned work")
    for _ in range(3):
        by_schedule(door)
    rows = door.ledger.rows(DECISION)
    assert [(row.body["by"], row.body["decision"], row.body["blocked_by"]) for row in rows] == [
        ("schedule", "watch", "frozen")
    ]


def test_what_runs_is_no_news_for_who_asks(door: Door) -> None:
    door.ledger.append("retraining_started", run="elsewhere")
    door.settings = door.settings.model_copy(update={"trigger": "none"})
    with pytest.MonkeyPatch.context() as alive:
        alive.setattr(LocalTrigger, "watch", lambda self, now: True)
        by_schedule(door)
    assert door.ledger.rows(DECISION) == []
