"""The policy on seeded and written-out streams: which window brings which decision, clause by clause."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.findings import Family, Finding, insufficient, judged
from monitoring.judge_settings import PolicySettings
from monitoring.policy import (
    Cause,
    Decision,
    Outcome,
    PastWindow,
    PolicyState,
    Reviewed,
    Run,
    breaker_open,
    close_breaker,
    decide,
    reconsider,
    run_finished,
    status,
)

HOUR, DAY = 3600.0, 86400.0
SETTINGS = PolicySettings()
ENOUGH = Reviewed(200, 10)
NAMES: dict[Cause, tuple[str, Family]] = {
    "covariate": ("embedding", "covariate"),
    "concept": ("reviewed_balanced_accuracy", "performance"),
    "imbalance": ("normalised_entropy", "imbalance"),
    "label_shift": ("label_shift", "label_shift"),
    "quality": ("share_ood", "quality"),
    "slice": ("slice_embedding", "slice"),
    "planned": ("slice_embedding", "planned"),
}
LEVELS = {"o": 1.5, "b": 0.85, "c": 0.2}


def finding(cause: str, level: str) -> Finding:
    """o: out, b: between 70 % and the threshold, c: clear, i: insufficient, u: unknown.

    A cause may name a slice: slice:scanner=P250.
    """
    cause, _, name_of_slice = cause.partition(":")
    return replace(_finding(cause, level), slice=name_of_slice)  # type: ignore[arg-type]


def _finding(cause: Cause, level: str) -> Finding:
    name, family = NAMES[cause]
    if level == "i":
        return insufficient(name, family, 3, 1, "few")
    if level == "u":
        return Finding(name, family, "unknown", None, None, 1.0, 200, 20)
    severity = LEVELS[level]
    return judged(
        name, family, severity=severity, figure=severity, interval=None, threshold=1.0, cells=200, patients=20
    )


class Site:
    """A site to which windows come, one an hour unless said otherwise; it does what the policy decides."""

    def __init__(self, reviewed: Reviewed = ENOUGH, outcome: Outcome = "failed") -> None:
        self.state = PolicyState()
        self.history: list[PastWindow] = []
        self.now = 0.0
        self.reviewed = reviewed
        self.outcome = outcome

    def window(self, after: float = HOUR, model: str = "m1", **levels: str) -> Decision:
        self.now += after
        found = tuple(finding(cause, level) for cause, level in levels.items())
        window = PastWindow(model, self.now, found)
        decision = decide(window, self.history, self.state, SETTINGS, self.now, self.reviewed)
        self.history.append(window)
        return self._do(decision)

    def tick(self, after: float = 0.0) -> Decision:
        self.now += after
        return self._do(reconsider(self.state, SETTINGS, self.now, self.reviewed))

    def stream(self, levels: Iterable[str], cause: Cause = "covariate", after: float = HOUR) -> list[str]:
        return [self.window(after, **{cause: level}).kind for level in levels]

    def _do(self, decision: Decision) -> Decision:
        self.state = decision.state
        if decision.kind == "retrain" and self.outcome != "running":
            self.state = run_finished(self.state, self.outcome)
        return decision


def fired(kinds: Sequence[str]) -> list[int]:
    """The windows, counted from one, that brought a retraining."""
    return [number for number, kind in enumerate(kinds, start=1) if kind == "retrain"]


def alarms(site: Site) -> list[Cause]:
    return list(site.state.alarms)


# When it fires and clears


def test_it_fires_with_the_third_window_out_of_five() -> None:
    assert fired(Site().stream("occoo")) == [5]
    assert fired(Site().stream("ooocc")) == [3]
    assert fired(Site().stream("occocooc")) == [7]


def test_two_of_five_are_watched_and_three_of_six_do_not_fire() -> None:
    kinds = Site().stream("ccocococcco")
    assert fired(kinds) == [7]
    assert fired(Site().stream("oocccoocccoo")) == []
    assert Site().stream("coc") == ["none", "watch", "none"]


def test_a_seeded_stream_fires_at_a_named_window() -> None:
    """Quiet for forty windows with one in twenty out by chance, then two in three: as a scanner that was changed."""
    rng = np.random.default_rng(6)
    quiet, changed = rng.random(40) < 0.05, rng.random(20) < 2 / 3
    levels = ["o" if out else "c" for out in [*quiet, *changed]]
    assert [number for number, level in enumerate(levels, start=1) if level == "o"][:6] == [13, 17, 41, 43, 47, 48]
    assert fired(Site().stream(levels)) == [50]


def test_windows_that_say_nothing_count_neither_as_out_nor_as_clear() -> None:
    assert fired(Site().stream("oiuoiiiiiiuo")) == [12]
    site = Site()
    site.stream("ooo" + "cc" + "iuiuiu" + "cc")
    assert alarms(site) == ["covariate"]
    site.stream("c")
    assert alarms(site) == []


def test_an_alarm_clears_after_five_windows_in_a_row_under_seventy_percent() -> None:
    site = Site()
    site.stream("ooocccc")
    assert alarms(site) == ["covariate"]
    site.stream("b")  # under the threshold, but not under 70 % of it
    site.stream("cccc")
    assert alarms(site) == ["covariate"]
    site.stream("c")
    assert alarms(site) == []
    assert fired(site.stream("ccooc", after=DAY)) == []
    assert fired(site.stream("o", after=DAY)) == [1]


def test_what_a_window_says_about_a_cause() -> None:
    def of(*levels: str) -> str:
        window = PastWindow("m1", 0.0, tuple(finding("covariate", level) for level in levels))
        return status(window, "covariate", SETTINGS)

    assert [of(level) for level in "obciu"] == ["out", "between", "clear", "silent", "silent"]
    assert of() == "silent"
    assert of("c", "b") == "between"
    assert of("c", "i") == "clear"  # one question that could not be asked does not silence the others
    assert of("c", "u") == "silent"
    assert of("u", "o", "i") == "out"


# Bounds on retraining


def test_cooldown_runs_from_the_start_of_the_run() -> None:
    site = Site(outcome="running")
    assert fired(site.stream("ooo")) == [3]
    start = site.now
    site.now += 20 * HOUR  # it runs for long
    site.state = run_finished(site.state, "failed")
    assert [site.window(HOUR, covariate="o").blocked_by for _ in range(3)] == [None, None, "cooldown"]
    site.now = start + DAY - 1
    assert site.tick().blocked_by == "cooldown"
    assert site.tick(1).kind == "retrain"


def test_windows_from_before_the_run_are_no_reason_for_the_next() -> None:
    site = Site()
    assert fired(site.stream("ooooo")) == [3]
    assert site.state.pending == ()
    assert site.window(2 * DAY, covariate="o").kind == "retrain"
    quiet = Site()
    quiet.stream("ooo")
    assert [quiet.window(2 * DAY, covariate=level).kind for level in "oocco"] == ["watch"] * 4 + ["retrain"]


def test_at_most_two_retrainings_in_seven_days() -> None:
    site = Site()
    kinds = site.stream("o" * 30, after=8 * HOUR)
    assert fired(kinds) == [3, 6, 24, 27]
    # A third was due at 9 and again at 30: each time a person is told, once.
    assert [number for number, kind in enumerate(kinds, start=1) if kind == "page"] == [9, 30]
    assert (24 - 3) * 8 * HOUR == (27 - 6) * 8 * HOUR == 7 * DAY


def test_one_retraining_at_a_time() -> None:
    site = Site(outcome="running")
    site.stream("ooo")
    kinds = [site.window(DAY, covariate="o") for _ in range(5)]
    assert {decision.kind for decision in kinds} == {"watch"}
    assert kinds[-1].blocked_by == "running"


def test_the_breaker_opens_after_two_refused_candidates_and_only_a_person_closes_it() -> None:
    site = Site(outcome="refused")
    assert fired(site.stream("o" * 6, after=DAY)) == [3, 6]
    assert breaker_open(site.state, SETTINGS)
    kinds = [site.window(10 * DAY, covariate="o") for _ in range(6)]
    assert [decision.kind for decision in kinds] == ["watch", "watch", "page", "watch", "watch", "watch"]
    assert [decision.blocked_by for decision in kinds] == [None, None, *["breaker"] * 4]
    site.state = close_breaker(site.state, site.now)
    assert not breaker_open(site.state, SETTINGS)
    assert site.tick().kind == "retrain"


@pytest.mark.parametrize(
    ("outcomes", "opened"),
    [
        (["refused"], False),
        (["refused", "refused"], True),
        (["refused", "failed", "refused"], True),
        (["refused", "passed", "refused"], False),
        (["refused", "refused", "passed"], False),
        (["refused", "refused", "running"], True),
        (["failed", "failed", "failed"], False),
    ],
)
def test_what_opens_the_breaker(outcomes: list[Outcome], opened: bool) -> None:
    runs = tuple(Run(float(number), outcome) for number, outcome in enumerate(outcomes))
    assert breaker_open(PolicyState(runs=runs), SETTINGS) == opened


def test_a_freeze_stops_every_trigger_and_forgets_nothing() -> None:
    site = Site()
    site.state = replace(site.state, frozen=True)
    kinds = [site.window(covariate="o", label_shift="o") for _ in range(6)]
    assert {decision.kind for decision in kinds} == {"watch"}
    assert kinds[-1].blocked_by == "frozen"
    site.state = replace(site.state, frozen=False)
    assert site.tick().kind == "retrain"
    advised = Site()
    advised.state = replace(advised.state, frozen=True)
    assert set(advised.stream("oooo", "label_shift")) == {"watch"}
    advised.state = replace(advised.state, frozen=False)
    assert advised.tick().kind == "recalibrate"


# What asks for what


def test_label_shift_alone_advises_recalibration_once() -> None:
    site = Site()
    assert site.stream("ooooo", "label_shift") == ["watch", "watch", "recalibrate", "watch", "watch"]
    assert site.stream("ccccc", "label_shift")[-1] == "none"
    assert site.stream("ooo", "label_shift")[-1] == "recalibrate"
    assert site.state.runs == ()


def test_label_shift_with_changed_cells_is_no_label_shift() -> None:
    site = Site(outcome="running")
    kinds = [site.window(covariate="o", label_shift="o").kind for _ in range(5)]
    assert kinds == ["watch", "watch", "retrain", "watch", "watch"]
    unknown = Site()
    assert unknown.stream("uuuuu", "label_shift") == ["none"] * 5


def test_concept_drift_by_sampled_reviews_retrains() -> None:
    decision = [Site().window(concept="o")]
    site = Site()
    kinds = site.stream("ooo", "concept")
    assert (decision[0].kind, fired(kinds)) == ("watch", [3])


def test_an_estimate_pages_and_reviews_somebody_asked_for_do_nothing() -> None:
    def windows(name: str) -> list[str]:
        site = Site()
        kinds: list[str] = []
        for hour in range(4):
            out = replace(finding("concept", "o"), name=name)
            window = PastWindow("m1", float(hour), (out,))
            decision = decide(window, site.history, site.state, SETTINGS, float(hour), ENOUGH)
            site.state = decision.state
            site.history.append(window)
            kinds.append(decision.kind)
        return kinds

    assert windows("estimated_accuracy") == ["watch", "watch", "page", "watch"]
    assert windows("requested_balanced_accuracy") == ["none"] * 4


def test_imbalance_retrains_only_with_reviewed_cells_at_hand() -> None:
    site = Site(Reviewed(199, 10))
    assert site.stream("oooo", "imbalance") == ["watch"] * 4
    site.reviewed = ENOUGH
    assert site.window(imbalance="o").kind == "retrain"


def test_imbalance_without_reviewed_cells_does_not_hide_a_label_shift() -> None:
    site = Site(Reviewed(0, 0))
    assert [site.window(imbalance="o", label_shift="o").kind for _ in range(3)][-1] == "recalibrate"


def test_service_quality_pages_once() -> None:
    assert Site().stream("oooo", "quality") == ["watch", "watch", "page", "watch"]


# Slices, and what was planned

P250, SITE_B = "slice:scanner=P250", "slice:site=B"


def slices(site: Site, *windows: dict[str, str]) -> list[str]:
    return [over(site, levels).kind for levels in windows]


def over(site: Site, levels: dict[str, str], after: float = HOUR) -> Decision:
    return site.window(after, "m1", **levels)


def test_a_slice_alone_pages_once_an_alarm_and_never_retrains() -> None:
    site = Site()
    assert slices(site, *[{P250: "o", "covariate": "c"}] * 4) == ["watch", "watch", "page", "watch"]
    assert (site.state.slices, site.state.pending, site.state.runs) == (("scanner=P250",), (), ())
    assert slices(site, *[{P250: "c"}] * 5)[-1] == "none"
    assert slices(site, *[{P250: "o"}] * 3)[-1] == "page"


def test_a_page_names_the_slices_and_another_slice_is_another_page() -> None:
    site = Site()
    slices(site, *[{P250: "o", SITE_B: "c"}] * 4)
    decisions = [over(site, {P250: "o", SITE_B: "o"}) for _ in range(4)]
    assert [decision.kind for decision in decisions] == ["watch", "watch", "page", "watch"]
    assert decisions[2].why.startswith("site=B changed")
    assert "P250" not in decisions[2].why


def test_windows_without_the_slice_neither_count_for_it_nor_against_it() -> None:
    """A scanner that few windows have enough cells of is found all the same."""
    site = Site()
    kinds = slices(site, *([{P250: "o", SITE_B: "c"}] + [{SITE_B: "c"}] * 6) * 3)
    assert [number for number, kind in enumerate(kinds, start=1) if kind == "page"] == [15]
    three_slices = [{f"slice:site={name}": "o"} for name in "ABC"]
    assert "page" not in slices(Site(), *three_slices)  # each is out once


def test_a_slice_that_is_gone_takes_its_alarm_with_it() -> None:
    site = Site()
    slices(site, *[{P250: "o"}] * 3)
    assert over(site, {SITE_B: "c"}, 29 * DAY).state.slices == ("scanner=P250",)
    assert over(site, {SITE_B: "c"}, 2 * DAY).kind == "none"
    assert (site.state.slices, site.state.told) == ((), ())


def test_where_the_whole_changed_its_slices_are_not_paged() -> None:
    site = Site(Reviewed(0, 0))
    assert slices(site, *[{P250: "o", "covariate": "o"}] * 4) == ["watch", "watch", "pending", "pending"]
    kinds = slices(site, *[{P250: "o", "covariate": "c"}] * 5)
    assert kinds == ["pending"] * 4 + ["page"]  # the rest is as it was again, this slice is not


def test_what_was_planned_is_watched_and_no_alarm() -> None:
    site = Site()
    planned = {"planned:scanner=P250": "o", "covariate": "c"}
    assert slices(site, *[planned] * 9) == ["watch"] * 9
    assert site.state.alarms == ()
    assert slices(site, {"covariate": "c"}) == ["none"]
    # Once it is not planned any more it needs windows of its own.
    assert slices(site, *[{P250: "o"}] * 3) == ["watch", "watch", "page"]


def test_an_alarm_ends_where_the_slice_is_announced_and_begins_anew_where_it_is_still_so_afterwards() -> None:
    site = Site()
    assert slices(site, *[{P250: "o", SITE_B: "o"}] * 3)[-1] == "page"
    assert slices(site, *[{"planned:scanner=P250": "o", SITE_B: "o"}] * 2) == ["watch"] * 2
    assert site.state.slices == ("site=B",)
    assert over(site, {P250: "o", SITE_B: "o"}).why.startswith("scanner=P250 changed")


def test_a_state_from_before_there_were_slices_is_read() -> None:
    values = PolicyState("m1", ("covariate",)).to_json()
    del values["slices"]
    assert PolicyState.from_json(values) == PolicyState("m1", ("covariate",))


# Pending


def test_a_retraining_stays_pending_until_there_are_enough_cells_of_enough_patients() -> None:
    site = Site(Reviewed(0, 0))
    assert site.stream("oooo") == ["watch", "watch", "pending", "pending"]
    for reviewed in (Reviewed(199, 50), Reviewed(5000, 9)):
        site.reviewed = reviewed
        assert (site.tick().kind, site.tick().blocked_by) == ("pending", "reviews")
    site.reviewed = Reviewed(200, 10)
    decision = site.tick(1.0)
    assert (decision.kind, decision.causes, decision.blocked_by) == ("retrain", ("covariate",), None)
    assert decision.state.runs == (Run(site.now),)
    assert decision.state.pending == ()


def test_a_pending_retraining_is_withdrawn_when_its_alarm_goes() -> None:
    site = Site(Reviewed(0, 0))
    site.stream("ooo")
    assert site.stream("ccccc") == ["pending"] * 4 + ["none"]
    site.reviewed = ENOUGH
    assert site.tick().kind == "none"


# State


def test_a_new_model_starts_without_alarms_and_keeps_the_bounds() -> None:
    site = Site(Reviewed(0, 0), outcome="refused")
    site.stream("ooo")
    site.state = replace(site.state, runs=(Run(0.0, "refused"),))
    decision = site.window(model="m2", covariate="o")
    assert (decision.kind, decision.state.alarms, decision.state.pending) == ("watch", (), ())
    assert decision.state.runs == (Run(0.0, "refused"),)
    assert site.window(model="m2", covariate="o").kind == "watch"
    last = site.window(model="m2", covariate="o")
    assert (last.kind, last.blocked_by) == ("watch", "cooldown")
    assert site.tick(DAY).kind == "pending"


def test_the_same_input_gives_the_same_decision_and_state_survives_json() -> None:
    site = Site()
    site.stream("oo")
    window = PastWindow("m1", 1e5, (finding("covariate", "o"),))
    before = site.state
    one = decide(window, site.history, site.state, SETTINGS, 1e5, ENOUGH)
    assert one == decide(window, site.history, site.state, SETTINGS, 1e5, ENOUGH)
    assert site.state == before
    state = replace(close_breaker(one.state, 2.0), told=("budget",), frozen=True)
    assert PolicyState.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_only_a_running_run_can_finish() -> None:
    with pytest.raises(ValueError, match="no retraining is running"):
        run_finished(PolicyState(), "passed")
    with pytest.raises(ValueError, match="no retraining is running"):
        run_finished(PolicyState(runs=(Run(0.0, "passed"),)), "failed")


LEVEL = st.sampled_from("oooobciu")
EVENT = st.one_of(
    st.fixed_dictionaries(
        {"covariate": LEVEL, "concept": LEVEL, "imbalance": LEVEL, "label_shift": LEVEL},
        optional={"slice:scanner=P250": LEVEL, "slice:site=B": LEVEL, "planned:site=B": LEVEL},
    ),
    st.sampled_from(["tick", "passed", "refused", "failed", "close", "freeze", "resume", "m2", "reviews", "none"]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(EVENT, st.floats(-1.0, 40.0)), max_size=80))
def test_no_two_retrainings_start_within_the_cooldown_nor_three_within_the_period(
    events: list[tuple[dict[str, str] | str, float]],
) -> None:
    """Whatever comes, also when the clock steps back an hour."""
    site, starts, model = Site(outcome="running"), [], "m1"
    for event, hours in events:
        step = hours * HOUR
        if isinstance(event, dict):
            decision = site.window(step, model=model, **event)
        else:
            if (
                event in ("passed", "refused", "failed")
                and site.state.runs
                and site.state.runs[-1].outcome == "running"
            ):
                site.state = run_finished(site.state, event)  # type: ignore[arg-type]
            model = "m2" if event == "m2" else model
            site.reviewed = {"reviews": ENOUGH, "none": Reviewed()}.get(event, site.reviewed)
            if event == "close":
                site.state = close_breaker(site.state, site.now)
            site.state = replace(site.state, frozen={"freeze": True, "resume": False}.get(event, site.state.frozen))
            decision = site.tick(step)
        if decision.kind == "retrain":
            assert not site.state.frozen
            starts.append(site.now)
    starts.sort()
    assert all(later - earlier >= SETTINGS.cooldown_s for earlier, later in pairwise(starts))
    assert all(later - earlier >= SETTINGS.budget_period_s for earlier, later in zip(starts, starts[2:], strict=False))


def long(level: str, name: str = "long_embedding", family: Family = "covariate") -> Finding:
    severity = LEVELS[level]
    return judged(
        name, family, severity=severity, figure=severity, interval=None, threshold=1.0, cells=900, patients=45
    )


def test_the_long_view_fires_alone_and_clears_like_any_other() -> None:
    once = decide(
        PastWindow("m1", 1.0, (finding("covariate", "c"), long("o"))), [], PolicyState(), SETTINGS, 1.0, ENOUGH
    )
    assert (once.kind, once.causes) == ("retrain", ("covariate",))
    mix = long("o", "long_label_shift", "label_shift")
    assert decide(PastWindow("m1", 1.0, (mix,)), [], PolicyState(), SETTINGS, 1.0, ENOUGH).kind == "recalibrate"
    reviewed = long("o", "long_reviewed_balanced_accuracy", "performance")
    assert decide(PastWindow("m1", 1.0, (reviewed,)), [], PolicyState(), SETTINGS, 1.0, ENOUGH).causes == ("concept",)
    quiet = PastWindow("m1", 1.0, (finding("covariate", "o"), long("c")))
    assert decide(quiet, [], PolicyState(), SETTINGS, 1.0, ENOUGH).kind == "watch"


def test_an_old_long_view_does_not_fire_a_second_run() -> None:
    """After a run the windows before it are no reason for another, and the long view is cut from those since."""
    before = PastWindow("m1", 1.0, (finding("covariate", "c"), long("o")))
    first = decide(before, [], PolicyState(), SETTINGS, 1.0, ENOUGH)
    state = run_finished(first.state, "refused")
    after = PastWindow(
        "m1", 10 * DAY, (finding("covariate", "c"), insufficient("long_embedding", "covariate", 200, 12, "few"))
    )
    assert decide(after, [before], state, SETTINGS, 10 * DAY, ENOUGH).kind == "watch"


def test_an_unknown_long_view_does_not_silence_the_window() -> None:
    unknown = Finding("long_embedding", "covariate", "unknown", None, None, 1.0, 900, 45)
    assert status(PastWindow("m1", 1.0, (finding("covariate", "c"), unknown)), "covariate", SETTINGS) == "clear"
