"""One retraining at a time, whoever starts it and however anybody dies. Children are real processes, only tiny ones."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from monitoring import trigger_command
from monitoring.door import refusal
from monitoring.findings import judged
from monitoring.judge_settings import PolicySettings
from monitoring.launch import child_environment, held, retrain_command
from monitoring.policy import PolicyState, Reviewed
from monitoring.runs import KINDS as RUN_KINDS
from monitoring.runs import last_cost, outcomes, policy_state, retrainings, seconds, used_until
from monitoring.settings import Settings
from monitoring.trigger import LOCK, LOG, RUN, LocalTrigger, NoTrigger, Reason
from service.contract.errors import ConfigError, Conflict, StoreUnavailable
from service.contract.lease import RETRAINING, Leases
from service.contract.ledger import Ledger

ENOUGH = Reviewed(cells=500, patients=30)
WHY = Reason("covariate called for it", causes=("covariate",), window="w1")
FREE = PolicySettings(cooldown_s=0, budget_runs=100)

FINISH = """
import sys
from service.contract.ledger import Ledger
Ledger(sys.argv[2]).append("retraining_finished", run=sys.argv[1], gate="passed", version="v", commit="c")
"""
SLEEP = "import time; time.sleep(120)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(120)"
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        store_url=f"sqlite:///{tmp_path}/store.db",
        work_dir=tmp_path / "work",
        repo=tmp_path,
        policy=FREE,
        retrain_grace_s=0.5,
    )


@pytest.fixture
def ledger(settings: Settings) -> Ledger:
    return Ledger(settings.store_url)


Make = Callable[..., LocalTrigger]


@pytest.fixture
def make(settings: Settings, ledger: Ledger) -> Iterator[Make]:
    """Triggers whose child runs a few lines of Python; what still runs at the end is ended."""
    made: list[LocalTrigger] = []

    def trigger(code: str, **changed: object) -> LocalTrigger:
        with_changes = settings.model_copy(update=changed)

        def command(run: str, lock: int) -> Sequence[str]:
            return [sys.executable, "-c", code, run, settings.store_url]

        made.append(LocalTrigger(ledger, with_changes, command=command))
        return made[-1]

    yield trigger
    for each in made:
        each._settings = each._settings.model_copy(update={"on_exit": "stop"})
        each.stop()


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def kinds(ledger: Ledger) -> list[str]:
    return [row.kind for row in ledger.rows()]


def pid_of(settings: Settings, run: str) -> int:
    return int(json.loads((settings.work_dir / run / RUN).read_text())["pid"])


def test_a_retraining_is_on_record_from_its_cause_to_its_end(make: Make, ledger: Ledger, settings: Settings) -> None:
    trigger = make(FINISH)
    finding = judged(
        "embedding", "covariate", severity=2.0, figure=1.5, interval=None, threshold=1.0, cells=200, patients=12
    )
    of_site = replace(finding, name="slice_embedding", family="slice", slice="site=B")
    run = trigger.fire(Reason("drift", causes=("covariate",), window="w1", findings=(finding, of_site)), ENOUGH)
    until(lambda: not trigger.watch(time.time()))
    fired, started, finished = ledger.rows()
    assert [fired.kind, started.kind, finished.kind] == ["trigger_fired", "retraining_started", "retraining_finished"]
    assert {row.body["run"] for row in (fired, started, finished)} == {run}
    assert (fired.body["why"], fired.body["by"], fired.body["window"]) == ("drift", "policy", "w1")
    seen = {"state": "drift", "figure": 1.5, "threshold": 1.0}
    assert fired.body["findings"] == [
        {"name": "embedding"} | seen,
        {"name": "slice_embedding", "slice": "site=B"} | seen,
    ]
    assert Path(started.body["log"]).is_file()
    assert outcomes(ledger.rows()) == {"running": 0, "passed": 1, "refused": 0, "failed": 0}


def test_a_second_one_does_not_start_beside_the_first(make: Make, ledger: Ledger) -> None:
    first = make(SLEEP)
    first.fire(WHY, ENOUGH)
    with pytest.raises(Conflict, match="running"):
        make(SLEEP).fire(WHY, ENOUGH)
    with pytest.raises(Conflict, match="running"):
        first.fire(WHY, ENOUGH)
    assert first.watch(time.time())
    assert kinds(ledger) == ["trigger_fired", "retraining_started"]


def test_many_that_fire_at_once_start_one(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    code = f"""
import sys
from monitoring.policy import Reviewed
from monitoring.settings import Settings
from monitoring.trigger import LocalTrigger, Reason
from monitoring.judge_settings import PolicySettings
from service.contract.errors import Conflict
from service.contract.ledger import Ledger
s = Settings(store_url={settings.store_url!r}, work_dir={str(settings.work_dir)!r}, repo={str(tmp_path)!r},
             policy=PolicySettings(cooldown_s=0, budget_runs=100))
t = LocalTrigger(Ledger(s.store_url), s, command=lambda run, lock: [sys.executable, "-c", {SLEEP!r}])
sys.stdin.read(1)
try:
    t.fire(Reason("all at once"), Reviewed(500, 30))
except Conflict:
    sys.exit(3)
"""
    racers = [subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) for _ in range(3)]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write(b"x")
        racer.stdin.close()
    codes = sorted(racer.wait(60) for racer in racers)
    for item in retrainings(ledger.rows()):
        os.killpg(pid_of(settings, item.run), signal.SIGKILL)
    assert codes == [0, 3, 3]
    assert kinds(ledger).count("retraining_started") == 1


def test_a_killed_child_is_recorded_as_failed(make: Make, ledger: Ledger, settings: Settings) -> None:
    trigger = make(SLEEP)
    run = trigger.fire(WHY, ENOUGH)
    os.kill(pid_of(settings, run), signal.SIGKILL)
    until(lambda: not trigger.watch(time.time()))
    failed = ledger.rows("retraining_failed")
    assert [row.body["run"] for row in failed] == [run]
    assert failed[0].body["reason"] == "it ended with signal SIGKILL and without a result"
    assert not trigger.watch(time.time())
    assert len(ledger.rows("retraining_failed")) == 1


def test_a_child_that_ends_badly_is_recorded_with_its_exit_code(make: Make, ledger: Ledger) -> None:
    trigger = make("raise SystemExit(2)")
    trigger.fire(WHY, ENOUGH)
    until(lambda: not trigger.watch(time.time()))
    assert ledger.rows("retraining_failed")[0].body["reason"] == "it ended with exit code 2 and without a result"


def test_a_command_that_is_not_there_is_a_failure_on_record(settings: Settings, ledger: Ledger) -> None:
    trigger = LocalTrigger(ledger, settings, command=lambda run, lock: ["/nowhere/python"])
    trigger.fire(WHY, ENOUGH)
    assert kinds(ledger) == ["trigger_fired", "retraining_started", "retraining_failed"]
    assert not trigger.watch(time.time())


def test_a_new_monitor_picks_up_what_a_dead_one_left_running(make: Make, ledger: Ledger, settings: Settings) -> None:
    dead = make(SLEEP)
    run = dead.fire(WHY, ENOUGH)
    dead._child = dead._own = None  # it forgets everything, as a killed process does
    heir = LocalTrigger(ledger, settings)
    assert heir.watch(time.time())
    with pytest.raises(Conflict, match="running"):
        heir.fire(WHY, ENOUGH)
    os.kill(pid_of(settings, run), signal.SIGKILL)
    until(lambda: not heir.watch(time.time()))
    assert ledger.rows("retraining_failed")[0].body["reason"] == "it ended without a result"


def test_a_killed_monitor_leaves_its_child_with_the_lock(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    code = f"""
import sys, os, signal
from monitoring.policy import Reviewed
from monitoring.settings import Settings
from monitoring.trigger import LocalTrigger, Reason
from service.contract.ledger import Ledger
s = Settings(store_url={settings.store_url!r}, work_dir={str(settings.work_dir)!r}, repo={str(tmp_path)!r})
t = LocalTrigger(Ledger(s.store_url), s, command=lambda run, lock: [sys.executable, "-c", {SLEEP!r}, run])
t.fire(Reason("then it is killed"), Reviewed(500, 30))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    heir = LocalTrigger(ledger, settings)
    assert heir.watch(time.time())
    run = retrainings(ledger.rows())[0].run
    os.killpg(pid_of(settings, run), signal.SIGKILL)
    until(lambda: not heir.watch(time.time()))
    assert kinds(ledger) == ["trigger_fired", "retraining_started", "retraining_failed"]


def test_an_announced_run_that_never_started_is_closed_and_stops_nobody(make: Make, ledger: Ledger) -> None:
    ledger.append("trigger_fired", run="lost", why="the monitor died here")
    trigger = make(SLEEP)
    run = trigger.fire(WHY, ENOUGH)
    assert [row.body["run"] for row in ledger.rows("retraining_failed")] == ["lost"]
    assert [item.run for item in retrainings(ledger.rows())] == [run]


def test_one_that_takes_too_long_is_stopped_even_if_it_does_not_want_to(
    make: Make, ledger: Ledger, settings: Settings
) -> None:
    trigger = make(STUBBORN, retrain_timeout_s=60.0)
    run = trigger.fire(WHY, ENOUGH)
    until(lambda: "up" in (settings.work_dir / run / LOG).read_text())
    assert trigger.watch(time.time() + 59)
    assert not ledger.rows("retraining_failed")
    until(lambda: not trigger.watch(time.time() + 61))
    assert ledger.rows("retraining_failed")[0].body["reason"] == "it took longer than 60 s and was stopped"


def test_a_new_monitor_stops_one_that_takes_too_long(make: Make, ledger: Ledger, settings: Settings) -> None:
    dead = make(SLEEP)
    dead.fire(WHY, ENOUGH)
    child, dead._child, dead._own = dead._child, None, None
    heir = LocalTrigger(ledger, settings.model_copy(update={"retrain_timeout_s": 60.0}))
    assert heir.watch(time.time() + 61)
    assert child is not None
    child.wait(20)
    assert not heir.watch(time.time())
    assert ledger.rows("retraining_failed")[0].body["reason"] == "it took longer than 60 s and was stopped"


def test_a_number_that_belongs_to_another_process_now_is_not_signalled(
    make: Make, ledger: Ledger, settings: Settings
) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True) as bystander:
        dead = make(SLEEP)
        run = dead.fire(WHY, ENOUGH)
        (settings.work_dir / run / RUN).write_text(f'{{"run": "{run}", "pid": {bystander.pid}}}')
        child, dead._child, dead._own = dead._child, None, None
        heir = LocalTrigger(ledger, settings.model_copy(update={"retrain_timeout_s": 60.0}))
        assert heir.watch(time.time() + 61)
        assert bystander.poll() is None
        bystander.kill()
        assert child is not None
        child.kill()
        child.wait()


def test_stopping_the_monitor_stops_its_retraining(make: Make, ledger: Ledger, settings: Settings) -> None:
    trigger = make(STUBBORN)
    run = trigger.fire(WHY, ENOUGH)
    until(lambda: "up" in (settings.work_dir / run / LOG).read_text())
    trigger.stop()
    assert ledger.rows("retraining_failed")[0].body["reason"] == "it was stopped together with the monitor"
    with held(settings.work_dir / LOCK) as lock:
        assert lock is not None


def test_the_monitor_may_leave_its_retraining_to_finish(make: Make, ledger: Ledger, settings: Settings) -> None:
    trigger = make(SLEEP, on_exit="leave")
    trigger.fire(WHY, ENOUGH)
    trigger.stop()
    assert trigger.watch(time.time())
    assert kinds(ledger) == ["trigger_fired", "retraining_started"]


def test_an_orphan_of_the_child_keeps_the_lock(make: Make, ledger: Ledger, settings: Settings) -> None:
    """A killed `training.retrain` may leave `dvc repro` behind, which could still promote."""
    code = f"""
import subprocess, sys, os
subprocess.Popen([sys.executable, "-c", {SLEEP!r}], pass_fds=[int(sys.argv[1])])
"""
    trigger = LocalTrigger(ledger, settings, command=lambda run, lock: [sys.executable, "-c", code, str(lock), run])
    trigger.fire(WHY, ENOUGH)
    assert trigger._child is not None
    trigger._child.wait(20)
    assert trigger.watch(time.time())
    trigger.stop()
    assert not trigger.watch(time.time())
    assert ledger.rows("retraining_failed")


class TestHosts:
    """Two work folders on one store, as two hosts have them: no lock of a file is between them."""

    @pytest.fixture
    def settings(self, store_url: str, tmp_path: Path) -> Settings:
        """As above, on each kind of database."""
        return Settings(
            store_url=store_url, work_dir=tmp_path / "work", repo=tmp_path, policy=FREE, retrain_grace_s=0.5
        )

    @pytest.fixture
    def other(self, ledger: Ledger, settings: Settings, tmp_path: Path) -> LocalTrigger:
        elsewhere = settings.model_copy(update={"work_dir": tmp_path / "elsewhere"})
        return LocalTrigger(ledger, elsewhere, command=lambda run, lock: [sys.executable, "-c", SLEEP, run])

    def test_one_at_a_time_over_hosts(self, make: Make, ledger: Ledger, other: LocalTrigger) -> None:
        here = make(SLEEP)
        here.fire(WHY, ENOUGH)
        with pytest.raises(Conflict, match="another host"):
            other.fire(WHY, ENOUGH)
        assert other.watch(time.time())
        assert kinds(ledger) == ["trigger_fired", "retraining_started"]
        here.stop()
        assert not other.watch(time.time())
        run = other.fire(WHY, ENOUGH)
        assert here.watch(time.time())
        assert retrainings(ledger.rows())[-1].run == run
        other.stop()
        assert [row.body["run"] for row in ledger.rows("retraining_failed")][-1] == run

    def test_what_a_lost_host_ran_is_taken_over_and_can_record_nothing(
        self, make: Make, ledger: Ledger, other: LocalTrigger, settings: Settings, tmp_path: Path
    ) -> None:
        go = tmp_path / "go"
        late = f"""
import os, pathlib, time
from service.contract.ledger import Ledger, fence_of
while not pathlib.Path({str(go)!r}).exists():
    time.sleep(0.02)
ledger = Ledger({settings.store_url!r}).fenced(fence_of(os.environ))
try:
    ledger.append("retraining_finished", run="late", gate="passed")
except Exception as error:
    print(type(error).__name__, error, flush=True)
"""
        lost = make(late, lease_s=0.2)  # nobody renews its lease: the host is cut off, and goes on all the same
        run = lost.fire(WHY, ENOUGH)
        until(lambda: not other.watch(time.time()))
        (failed,) = ledger.rows("retraining_failed")
        assert (failed.body["run"], failed.body["reason"]) == (run, "it ended without a result")
        other.fire(WHY, ENOUGH)
        go.touch()
        until(lambda: lost.watch(time.time()) and lost._child is None)
        assert "Conflict this retraining lost its lease" in (settings.work_dir / run / LOG).read_text()
        assert ledger.rows("retraining_finished") == []
        assert len(ledger.rows("retraining_failed")) == 1
        ledger.verify()
        other.stop()


def test_the_ledger_away_means_that_nothing_starts(make: Make, settings: Settings, tmp_path: Path) -> None:
    trigger = make(SLEEP)
    (tmp_path / "store.db").unlink()
    with pytest.raises(StoreUnavailable):
        trigger.fire(WHY, ENOUGH)
    with held(settings.work_dir / LOCK) as lock:
        assert lock is not None


def test_none_starts_nothing_and_still_sees_what_others_started(make: Make, ledger: Ledger, settings: Settings) -> None:
    nobody = NoTrigger(ledger, settings)
    assert nobody.fire(WHY, ENOUGH) is None
    assert not nobody.watch(time.time())
    assert kinds(ledger) == []
    make(SLEEP).fire(WHY, ENOUGH)
    assert nobody.watch(time.time())


def test_the_child_sees_absolute_places_and_this_python_first(settings: Settings, tmp_path: Path) -> None:
    around = {
        "PATH": "/usr/bin",
        "GIT_DIR": "/elsewhere",
        "DVC_ROOT": "/elsewhere",
        "BLASTWATCH_MONITOR_PORT": "1",
        "BLASTWATCH_STORE_URL": "sqlite:///var/store.db",
    }
    seen = child_environment(settings, around)
    assert seen["PATH"] == f"{Path(sys.executable).parent}{os.pathsep}/usr/bin"
    assert seen["BLASTWATCH_STORE_URL"] == f"sqlite:///{tmp_path}/store.db"
    assert Path(seen["BLASTWATCH_PIXELS_DIR"]).is_absolute()
    assert seen["BLASTWATCH_MODELS_DIR"] == f"{seen['BENTOML_HOME']}/models/blastwatch"
    assert not {"GIT_DIR", "DVC_ROOT", "BLASTWATCH_MONITOR_PORT"} & seen.keys()


def test_the_job_is_the_pipelines_own(settings: Settings) -> None:
    line = retrain_command(settings)("r1", 7)
    assert list(line[1:3]) == ["-m", "training.retrain"]
    options = dict(zip(line[3::2], line[4::2], strict=True))
    assert options["--run"] == "r1"
    assert options["--lock-fd"] == "7"
    assert options["--work"] == str(settings.work_dir)


SHOWS = "import json, sys; print(json.dumps(sys.argv))"


def test_a_recalibration_names_its_case_mix_and_needs_no_reviews(
    make: Make, ledger: Ledger, settings: Settings
) -> None:
    trigger = make(SHOWS)
    run = trigger.fire(Reason("the case mix changed", priors={"healthy": 0.8, "L1": 0.2}), Reviewed())
    until(lambda: not trigger.watch(time.time()))
    line = json.loads((settings.work_dir / run / LOG).read_text())
    assert line[-2] == "--priors"
    assert json.loads(line[-1]) == {"healthy": 0.8, "L1": 0.2}
    assert ledger.rows("retraining_started")[0].body["priors"] == {"healthy": 0.8, "L1": 0.2}
    # It meets the same door all the same.
    ledger.append("frozen", by="sre", why="planned work")
    with pytest.raises(Conflict, match="frozen"):
        trigger.fire(Reason("again", priors={"healthy": 0.8, "L1": 0.2}), Reviewed())


def test_a_recalibration_uses_no_reviews_up_and_no_wish(ledger: Ledger) -> None:
    wish = PolicyState("v", alarms=("covariate",), pending=("covariate",))
    before = time.time()
    ledger.append("retraining_started", run="mix", priors={"healthy": 0.8, "L1": 0.2})
    ledger.append("retraining_finished", run="mix", gate="passed")
    assert used_until(ledger.rows()) == 0.0
    state = policy_state(ledger.rows(), wish, saved=before)
    assert state.pending == ("covariate",)
    assert [run.outcome for run in state.runs] == ["passed"]


class TestDoor:
    """Freeze, breaker, budget, cooldown and reviews, for the policy and for people."""

    SETTINGS = PolicySettings()

    def shut(self, ledger: Ledger, now: float | None = None, reviewed: Reviewed = ENOUGH) -> str:
        return refusal(ledger.rows(), self.SETTINGS, time.time() if now is None else now, reviewed) or ""

    def ran(self, ledger: Ledger, run: str, gate: str | None) -> None:
        ledger.append("retraining_started", run=run)
        if gate is None:
            ledger.append("retraining_failed", run=run, reason="planted")
        else:
            ledger.append("retraining_finished", run=run, gate=gate)

    def test_it_is_open_at_first(self, ledger: Ledger) -> None:
        assert self.shut(ledger) == ""

    def test_frozen_until_resumed(self, ledger: Ledger) -> None:
        ledger.append("frozen", by="sre", why="planned work")
        assert "frozen" in self.shut(ledger)
        ledger.append("resumed", by="sre")
        assert self.shut(ledger) == ""

    def test_cooldown_and_budget(self, ledger: Ledger) -> None:
        day, now = 86400.0, time.time()
        self.ran(ledger, "one", None)
        assert "the next may at" in self.shut(ledger)
        assert self.shut(ledger, now + 1.1 * day) == ""
        self.ran(ledger, "two", "passed")
        assert "budget of 2" in self.shut(ledger, now + 1.1 * day)
        assert self.shut(ledger, now + 7.1 * day) == ""

    def test_two_refusals_need_a_person(self, ledger: Ledger) -> None:
        month = time.time() + 30 * 86400.0
        self.ran(ledger, "one", "refused")
        self.ran(ledger, "two", "refused")
        assert "refused" in self.shut(ledger, month)
        ledger.append("resumed", by="sre")
        assert self.shut(ledger, month) == ""

    def test_too_few_reviews(self, ledger: Ledger) -> None:
        assert "199 new reviewed cells" in self.shut(ledger, reviewed=Reviewed(199, 30))
        assert "of 9 patients" in self.shut(ledger, reviewed=Reviewed(500, 9))

    def test_fire_meets_it_too(self, make: Make, ledger: Ledger) -> None:
        ledger.append("frozen", by="sre", why="planned work")
        with pytest.raises(Conflict, match="frozen"):
            make(SLEEP).fire(WHY, ENOUGH)
        assert kinds(ledger) == ["frozen"]


def test_reviews_are_used_up_by_candidates_only(ledger: Ledger) -> None:
    ledger.append("retraining_started", run="failed")
    ledger.append("retraining_failed", run="failed", reason="planted")
    assert used_until(ledger.rows()) == 0.0
    ledger.append("retraining_started", run="refused")
    ledger.append("retraining_finished", run="refused", gate="refused")
    started = retrainings(ledger.rows())[1].started
    assert used_until(ledger.rows()) == started


def test_the_cost_is_that_of_the_run_that_ended_last(ledger: Ledger) -> None:
    assert last_cost(ledger.rows()) == {}
    ledger.append("retraining_started", run="one")
    assert last_cost(ledger.rows()) == {}
    cost = {"seconds": 60.0, "processor_seconds": 90.0, "peak_memory_bytes": 2**30}
    ended = ledger.append("retraining_finished", run="one", gate="passed", cost=cost)
    assert last_cost(ledger.rows(*RUN_KINDS)) == cost | {"ended": seconds(ended)}
    started = ledger.append("retraining_started", run="killed")
    ended = ledger.append("retraining_failed", run="killed", reason="planted")
    assert last_cost(ledger.rows()) == {"seconds": seconds(ended) - seconds(started), "ended": seconds(ended)}


def test_a_wish_is_gone_once_a_run_has_started_since(ledger: Ledger) -> None:
    wish = PolicyState("v", alarms=("covariate",), pending=("covariate",))
    before = time.time()
    ledger.append("retraining_started", run="one")
    assert policy_state(ledger.rows(), wish, saved=before).pending == ()
    assert policy_state(ledger.rows(), wish, saved=time.time()).pending == ("covariate",)


class TestCommand:
    """`python -m monitoring.trigger`."""

    @pytest.fixture(autouse=True)
    def _environment(self, settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BLASTWATCH_STORE_URL", settings.store_url)
        monkeypatch.setenv("BLASTWATCH_PIXELS_DIR", str(settings.work_dir / "pixels"))
        monkeypatch.setenv("BLASTWATCH_MONITOR_WORK_DIR", str(settings.work_dir))
        monkeypatch.setenv("BLASTWATCH_MONITOR_REPO", str(settings.repo))

    def test_freeze_and_resume_go_into_the_ledger(self, ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
        assert trigger_command.main(["freeze", "--why", "new scanner", "--by", "sre"]) == 0
        assert ledger.frozen()
        assert ledger.rows()[-1].body == {"by": "sre", "why": "new scanner"}
        assert trigger_command.main(["status"]) == 0
        assert "frozen: yes" in capsys.readouterr().out
        assert trigger_command.main(["resume", "--by", "sre"]) == 0
        assert not ledger.frozen()

    def test_status_says_who_has_the_lease(
        self, settings: Settings, ledger: Ledger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert trigger_command.main(["status"]) == 0
        assert "lease" not in capsys.readouterr().out
        assert Leases(settings.store_url).take(RETRAINING, "another host", "retraining r9", 600.0)
        assert trigger_command.main(["status"]) == 0
        assert "lease: retraining r9, " in capsys.readouterr().out

    def test_a_person_meets_the_same_door(self, ledger: Ledger) -> None:
        with pytest.raises(Conflict, match="0 new reviewed cells"):
            trigger_command.main(["retrain", "--why", "because"])
        assert kinds(ledger) == []

    def test_a_recalibration_needs_a_case_mix(self, ledger: Ledger) -> None:
        with pytest.raises(ConfigError, match="--priors"):
            trigger_command.main(["recalibrate", "--why", "because"])
        assert kinds(ledger) == []

    @pytest.mark.parametrize("priors", ["[]", "0.5", "{", '{"healthy": "most"}'])
    def test_what_is_no_case_mix_is_one_line(self, priors: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            trigger_command.main(["recalibrate", "--why", "because", "--priors", priors])
        assert "is not a JSON object of labels" in capsys.readouterr().err

    def test_a_reason_is_asked_for(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            trigger_command.main(["retrain"])
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith("error: ")

    def test_in_a_process_of_its_own(self, ledger: Ledger) -> None:
        line = [sys.executable, "-m", "monitoring.trigger", "retrain", "--why", "because"]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith("error: there are 0 new reviewed cells")
        assert len(done.stderr.splitlines()) == 1
