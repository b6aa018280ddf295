"""Windows, decisions and the policy's memory: kept together or not at all, and found again."""

from dataclasses import replace
from pathlib import Path

import pytest

from monitoring.findings import Finding, State, insufficient, judged
from monitoring.history import History
from monitoring.policy import Decision, PolicyState, Run
from monitoring.verdict import judged_window, state_of, window_id
from monitoring.window import Window, tumble
from service.contract.errors import StoreUnavailable
from service.contract.store import StoredPrediction
from tests.support.monitoring import stream

VERSION = "a" * 32


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(f"sqlite:///{tmp_path}/store.db")


def some_window(seed: int = 0, first: int = 1, complete: bool = True) -> Window:
    records = stream(VERSION, seed=seed, patients=3, cells=2)
    stored = [StoredPrediction(first + number, record, False) for number, record in enumerate(records)]
    (window,), _ = tumble(stored, min_cells=6, min_patients=3, max_age_s=1e9, now=0.0)
    return replace(window, complete=complete)


def drift(severity: float = 2.0) -> Finding:
    return judged(
        "embedding",
        "covariate",
        severity=severity,
        figure=1.5,
        interval=(1.0, 2.0),
        threshold=1.0,
        cells=6,
        patients=3,
        detail={"p": 0.01},
    )


def unknown() -> Finding:
    return Finding("label_shift", "label_shift", "unknown", None, None, 0.1, 6, 3)


def a_decision(kind: str = "watch", state: PolicyState | None = None) -> Decision:
    state = state or PolicyState(model_version=VERSION)
    return Decision(kind, f"because of {kind}", ("covariate",), None, state)  # type: ignore[arg-type]


def test_a_window_comes_back_as_it_was(history: History) -> None:
    window = judged_window(some_window(), [drift(), insufficient("share_ood", "quality", 6, 3, "few")])
    assert history.record(window, a_decision(), PolicyState(VERSION), 5.0)
    assert history.windows() == [window]
    assert (window.cells, window.patients, window.state) == (6, 3, "drift")
    assert history.cursor(VERSION) == 6
    assert history.cursor("b" * 32) == 0
    assert history.counts() == {"drift": 1}


def test_a_window_is_kept_once_whoever_judged_it(history: History, tmp_path: Path) -> None:
    window = judged_window(some_window(), [drift()])
    other = History(f"sqlite:///{tmp_path}/store.db")
    assert history.record(window, a_decision(), PolicyState(VERSION), 5.0)
    assert not other.record(window, a_decision("retrain"), PolicyState("b" * 32), 6.0)
    overlapping = judged_window(some_window(seed=1, first=4), [drift()])
    assert not other.record(overlapping, a_decision("retrain"), PolicyState("b" * 32), 6.0)
    assert [decision.kind for decision in history.decisions()] == ["watch"]
    assert history.memory()[0].model_version == VERSION


def test_windows_come_in_order_and_by_model(history: History) -> None:
    made = []
    for number in range(4):
        window = replace(judged_window(some_window(number, first=1 + 6 * number), [drift()]), closed=float(number))
        made.append(window)
        history.record(window, a_decision(), PolicyState(VERSION), float(number))
    foreign = replace(made[0], model_version="b" * 32, window_id="c" * 32)
    history.record(foreign, a_decision(), PolicyState(VERSION), 9.0)
    assert history.windows(VERSION, last=2) == made[2:]
    assert history.windows() == [*made, foreign]
    assert history.cursor(VERSION) == 24


def test_the_memory_is_of_a_moment_and_leaves_to_the_ledger_what_is_its(history: History) -> None:
    assert history.memory() == (PolicyState(), 0.0)
    state = PolicyState(
        model_version=VERSION,
        alarms=("covariate",),
        pending=("covariate",),
        told=("quality",),
        runs=(Run(1.0, "failed"),),
        breaker_closed_at=3.0,
        frozen=True,
    )
    history.decide(a_decision("pending", state), state, 7.0)
    kept = replace(state, runs=(), breaker_closed_at=None, frozen=False)
    assert history.memory() == (kept, 7.0)
    history.decide(a_decision("pending", state), state, 8.0)
    assert history.memory() == (kept, 8.0)


def test_a_decision_between_windows_is_kept_when_it_says_something_new(history: History) -> None:
    state = PolicyState(VERSION)
    pending = replace(a_decision("pending"), blocked_by="reviews")
    history.decide(pending, state, 1.0)
    history.decide(replace(pending, why="one more cell was reviewed"), state, 2.0)
    history.decide(a_decision("retrain"), state, 3.0)
    assert [(past.kind, past.time, past.window_id) for past in history.decisions()] == [
        ("pending", 1.0, None),
        ("retrain", 3.0, None),
    ]
    assert [past.kind for past in history.decisions(last=1)] == ["retrain"]


@pytest.mark.parametrize(
    ("findings", "complete", "state"),
    [
        ([drift(), unknown()], True, "drift"),
        ([drift(0.5), unknown()], True, "unknown"),
        ([drift(0.5), insufficient("share_ood", "quality", 1, 1, "few")], True, "ok"),
        ([insufficient("share_ood", "quality", 1, 1, "few")], True, "insufficient"),
        ([drift()], False, "insufficient"),
        ([drift(0.5)], False, "insufficient"),
    ],
)
def test_the_state_of_a_window(findings: list[Finding], complete: bool, state: State) -> None:
    assert state_of(some_window(complete=complete), findings) == state


def test_a_windows_name_depends_on_the_window_alone() -> None:
    assert window_id(some_window(0)) == window_id(some_window(1))
    assert window_id(some_window(0)) != window_id(some_window(0, first=2))


def test_a_store_that_is_away_says_so(tmp_path: Path) -> None:
    history = History(f"sqlite:///{tmp_path}/store.db")
    (tmp_path / "store.db").unlink()
    with pytest.raises(StoreUnavailable):
        history.windows()
