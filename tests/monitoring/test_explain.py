"""A decision is on record with all that it was made from, can be made again from there, and says what changes it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring import explain as command
from monitoring import job
from monitoring.counterfactual import otherwise
from monitoring.decisions import DECISION, DecisionLog
from monitoring.explain import explain
from monitoring.explain_text import text
from monitoring.findings import Finding
from monitoring.given import Given
from monitoring.judge_settings import JudgeSettings, PolicySettings
from monitoring.policy import PastWindow, PolicyState, Reviewed, Run, run_finished
from monitoring.window import Window
from service.contract.errors import ConfigError, NotFound
from service.contract.ledger import Ledger
from tests.monitoring.test_job import World, review, verdict
from tests.monitoring.test_policy import DAY, ENOUGH, EVENT, HOUR, SETTINGS, finding


def seen(given: Given) -> dict[str, tuple[str, str | None]]:
    """{change: (kind, what keeps it back)}."""
    return {item.change: (item.decision.kind, item.decision.blocked_by) for item in otherwise(given)}


def on(levels: str, *, state: PolicyState | None = None, reviewed: Reviewed = ENOUGH, now: float = 100 * DAY) -> Given:
    """Windows of covariate findings, an hour apart, the last one judged now."""
    windows = [
        PastWindow("m1", now - HOUR * number, (finding("covariate", level),))
        for number, level in enumerate(reversed(levels))
    ][::-1]
    state = replace(state or PolicyState(), model_version="m1")
    return Given(windows[-1], tuple(windows[:-1]), state, SETTINGS, now, reviewed)


class TestOnRecord:
    @settings(max_examples=60)
    @given(st.lists(st.tuples(EVENT, st.floats(0.0, 40.0)), min_size=1, max_size=60))
    def test_a_decision_is_made_again_from_its_record(self, events: list[tuple[dict[str, str] | str, float]]) -> None:
        """Whatever came before: the record leaves out only what makes no difference."""
        state, history, now, reviewed = PolicyState(), list[PastWindow](), 0.0, Reviewed()
        for event, hours in events:
            now += hours * HOUR
            window = None
            if isinstance(event, dict):
                found = tuple(finding(cause, level) for cause, level in event.items())
                window = PastWindow("m1", now, found)
            elif event in ("passed", "refused", "failed") and state.runs and state.runs[-1].outcome == "running":
                state = run_finished(state, event)  # type: ignore[arg-type]
            elif event in ("reviews", "none"):
                reviewed = ENOUGH if event == "reviews" else Reviewed()
            made = Given(window, tuple(history), state, SETTINGS, now, reviewed)
            again = Given.from_json(json.loads(json.dumps(made.to_json())))
            decision, other = made.decide(), again.decide()
            assert (other.kind, other.causes, other.blocked_by) == (decision.kind, decision.causes, decision.blocked_by)
            assert other.state.alarms == decision.state.alarms
            state = decision.state
            history += [window] if window else []

    def test_a_slice_that_few_windows_judge_is_on_record_with_those_windows(self) -> None:
        rare, often = finding("slice:scanner=P250", "o"), finding("slice:site=B", "c")
        windows = [
            PastWindow("m1", number * HOUR, (rare, often) if number % 7 == 0 else (often,)) for number in range(15)
        ]
        made = Given(windows[-1], tuple(windows[:-1]), PolicyState("m1"), SETTINGS, 15 * HOUR, ENOUGH)
        again = Given.from_json(json.loads(json.dumps(made.to_json())))
        assert made.decide().kind == "page"
        assert again.decide() == made.decide()
        assert [past.closed / HOUR for past in again.history] == [0, 7, 9, 10, 11, 12, 13]  # the last five of each

    def test_two_pages_about_two_slices_are_two_rows(self, tmp_path: Path) -> None:
        ledger = Ledger(f"sqlite:///{tmp_path}/store.db")
        log = DecisionLog(ledger, JudgeSettings())
        for name in ("A", "A", "B"):
            windows = [PastWindow("m1", HOUR * number, (finding(f"slice:site={name}", "o"),)) for number in range(3)]
            made = Given(windows[-1], tuple(windows[:-1]), PolicyState("m1"), SETTINGS, 3 * HOUR, ENOUGH)
            log.record(made, made.decide())
        said = [row.body["why"].partition(" ")[0] for row in ledger.rows(DECISION)]
        assert said == ["site=A", "site=B"]

    def test_only_what_is_news_is_a_row(self, tmp_path: Path) -> None:
        ledger = Ledger(f"sqlite:///{tmp_path}/store.db")
        log = DecisionLog(ledger, JudgeSettings())
        quiet, out = on("ccc"), on("cco")
        assert log.record(quiet, quiet.decide()) is None
        number = log.record(out, out.decide())
        assert number == 1
        assert log.record(out, out.decide()) == number
        assert DecisionLog(ledger, JudgeSettings()).record(out, out.decide()) == number  # after a restart
        assert log.record(quiet, quiet.decide()) == 2
        assert [row.body["decision"] for row in ledger.rows(DECISION)] == ["watch", "none"]
        changed = DecisionLog(ledger, JudgeSettings(q=0.01))
        changed.record(out, out.decide())
        hashes = [row.body["settings_sha256"] for row in ledger.rows(DECISION)]
        assert hashes[0] == hashes[1] != hashes[2]


class TestOtherwise:
    def test_one_window_short_of_an_alarm(self) -> None:
        changes = seen(on("cocco"))
        assert changes["without drift in embedding"] == ("none", None)
        assert changes["after 1 more window with covariate out"] == ("retrain", None)
        assert changes["after 1 more window in which nothing is out"] == ("none", None)

    def test_without_enough_reviews(self) -> None:
        few = on("ooo", reviewed=Reviewed(150, 6))
        assert few.decide().kind == "pending"
        assert seen(few)["with 50 more reviewed cells and reviews of 4 more patients"] == ("retrain", None)

    def test_what_retrains_names_what_it_rests_on(self) -> None:
        changes = seen(on("ooo"))
        assert changes == {
            "without drift in embedding": ("none", None),
            "with fewer than 200 reviewed cells": ("pending", "reviews"),
        }

    def test_one_of_two_findings_is_enough(self) -> None:
        stain = replace(finding("covariate", "o"), name="stain")
        both = on("ooo")
        assert both.window is not None
        both = replace(both, window=replace(both.window, findings=(*both.window.findings, stain)))
        changes = seen(both)
        assert "without drift in embedding" not in changes
        assert changes["without any drift in covariate"] == ("none", None)

    def test_each_thing_that_keeps_it_back_and_all_of_them(self) -> None:
        now = 100 * DAY
        runs = (Run(now - 3 * DAY, "refused"), Run(now - DAY / 2, "refused"))
        state = PolicyState("m1", ("covariate",), ("covariate",), ("breaker",), runs, None, True)
        given = Given(None, (), state, SETTINGS, now, Reviewed(10, 10))
        assert given.decide().blocked_by == "frozen"
        assert seen(given) == {
            "if nobody had frozen the trigger": ("watch", "breaker"),
            "with all of what might keep it back lifted": ("retrain", None),
        }
        free = replace(given, state=replace(state, frozen=False, runs=(Run(now - DAY / 2, "passed"),)), reviewed=ENOUGH)
        assert free.decide().blocked_by == "cooldown"
        assert seen(free) == {"after the cooldown ends at 1970-04-11 12:00 UTC": ("retrain", None)}
        spent = (Run(now - 3 * DAY, "passed"), Run(now - 2 * DAY, "passed"))
        over = replace(free, state=replace(free.state, runs=spent, told=("budget",)))
        assert over.decide().blocked_by == "budget"
        assert seen(over) == {"after the budget ends at 1970-04-15 00:00 UTC": ("retrain", None)}
        running = replace(free, state=replace(free.state, runs=(Run(now - 2 * DAY, "running"),)))
        assert seen(running) == {"once the retraining that runs has ended": ("retrain", None)}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Cells of site-new are drift by two findings."""

    def judge(window: Window, *_: object, **__: object) -> list[Finding]:
        shifted = "site-new" in window.columns.site
        return [verdict(name, "covariate", 2.0 if shifted else 0.1, window) for name in ("embedding", "stain")]

    monkeypatch.setattr(job, "judge", judge)
    made = World(tmp_path)
    monkeypatch.setenv("BLASTWATCH_STORE_URL", made.settings.store_url)
    return made


def decide_and_fire(world: World) -> None:
    """Quiet, then drift: watched, due without reviews, and a retraining when they are there."""
    world.send(3)
    sent = world.send(3, site="site-new")
    world.monitor.step()
    review(world, sent[::5])
    world.monitor.step()
    assert len(world.trigger.fired) == 1


class TestCommand:
    def test_from_the_first_sign_to_the_retraining(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        decide_and_fire(world)
        rows = world.ledger.rows(DECISION)
        assert [row.body["decision"] for row in rows] == ["watch", "pending", "retrain"]
        assert world.trigger.fired[0].decision == rows[-1].seq
        world.ledger.append("trigger_fired", run="r1", why="w", by="policy", decision=rows[-1].seq)
        world.ledger.append("retraining_started", run="r1")
        cost = {"seconds": 60.0, "processor_seconds": 90.0, "peak_memory_bytes": 2**30}
        world.ledger.append("retraining_finished", run="r1", gate="refused", reasons=["ECE 0.2 > 0.1"], cost=cost)

        assert command.main(["last"]) == 0
        page = capsys.readouterr().out
        assert command.main(["r1"]) == 0
        assert capsys.readouterr().out == page
        assert f"decision {rows[-1].seq}, " in page
        assert "  retrain (covariate)\n" in page
        assert f"as decision {rows[1].seq} saw it" in page
        assert "  x  embedding  2" in page
        assert "  covariate    ...xxx  3 of the last 5 out" in page
        assert "  with fewer than 20 reviewed cells:  pending (covariate), kept back by: reviews" in page
        assert "retraining r1: refused" in page
        assert "ECE 0.2 > 0.1" in page
        assert "it took 60 s, 90 processor seconds and 1024 MiB" in page
        assert not any(line != line.rstrip() for line in page.splitlines())

    def test_for_programs(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        decide_and_fire(world)
        number = world.ledger.rows(DECISION)[1].seq
        assert command.main([str(number), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["number"], found["decision"], found["blocked_by"]) == (number, "pending", "reviews")
        assert found["reproduced"]
        assert found["window"] == {"window": world.history.windows()[5].window_id, "cells": 100, "patients": 10}
        (embedding, _) = found["findings"]
        assert (embedding["figure"], embedding["threshold"], embedding["cells"]) == (2.0, 1.0, 100)
        assert found["history"]["said"]["covariate"] == ["clear"] * 3 + ["out"] * 3
        assert {"change": "with 20 more reviewed cells and reviews of 4 more patients", "decision": "retrain"} in [
            {name: item[name] for name in ("change", "decision")} for item in found["otherwise"]
        ]
        assert found["settings"]["min_reviewed_cells"] == 20
        assert found["outcome"] is None

    def test_the_list(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        assert command.main(["--list"]) == 0
        assert "no decision is on record yet" in capsys.readouterr().out
        decide_and_fire(world)
        assert command.main(["--list"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[4] for line in lines] == ["watch", "pending", "retrain"]
        assert command.main(["--list", "--json"]) == 0
        assert [item["decision"] for item in json.loads(capsys.readouterr().out)] == ["watch", "pending", "retrain"]

    def test_a_person_needs_no_figures(self, world: World) -> None:
        world.ledger.append("trigger_fired", run="r1", why="new scanner", by="sre", causes=[], decision=None)
        world.ledger.append("retraining_started", run="r1")
        page = text(explain(world.ledger.rows(), "r1"))
        assert "because: new scanner" in page
        assert "asked by: sre" in page
        assert "retraining r1: running" in page

    @pytest.mark.parametrize(
        ("line", "says"),
        [(["last"], "no decision 'last'"), (["99"], "no decision '99'")],
    )
    def test_what_is_not_there(self, world: World, line: list[str], says: str) -> None:
        with pytest.raises(NotFound, match=says):
            command.main(line)

    @pytest.mark.parametrize("line", [[], ["last", "--list"]])
    def test_one_of_the_two(self, world: World, line: list[str]) -> None:
        with pytest.raises(ConfigError, match="--list"):
            command.main(line)

    def test_a_record_that_does_not_lead_to_its_decision_is_said(self, world: World) -> None:
        """As after a change of the policy: the record stands, and the reader is warned."""
        decide_and_fire(world)
        body = world.ledger.rows(DECISION)[0].body | {"decision": "page"}
        row = world.ledger.append(DECISION, **body)
        assert "NOTE: this release decides otherwise" in text(explain(world.ledger.rows(), str(row.seq)))


def test_settings_that_the_policy_does_not_know_are_refused_not_guessed() -> None:
    record = on("ooo").to_json()
    with pytest.raises(ValueError, match="unheard_of"):
        Given.from_json(record | {"settings": PolicySettings().model_dump() | {"unheard_of": 1}})
