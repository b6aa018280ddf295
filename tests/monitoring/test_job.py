"""The loop on seeded streams: what it judges, when, and what survives an end at any point.

Most tests plant the verdicts, so that they can name the window at which something must happen; the last ones use the
real tests on real numbers.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from monitoring import job
from monitoring.alerts import Alert, answer
from monitoring.findings import Finding, judged
from monitoring.history import History
from monitoring.job import Monitor
from monitoring.judge_settings import JudgeSettings, PolicySettings
from monitoring.metrics import Metrics, build_metrics
from monitoring.policy import Reviewed
from monitoring.settings import Settings
from monitoring.site import Site, open_site
from monitoring.trigger import Reason
from monitoring.window import Window
from service.contract.artifact import Artifact
from service.contract.errors import Conflict, StoreUnavailable
from service.contract.ledger import Ledger
from service.contract.pixels import PixelStore
from service.contract.records import PredictionRecord, review_id
from service.contract.reference import Reference
from service.contract.store import Store
from tests.support.images import smear
from tests.support.monitoring import reviews, stream, watched_artifact, with_pixels

WEEK = 7 * 86400.0


class Recorder:
    """A trigger that notes what it was asked for, and puts on record what a real one would."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.fired: list[Reason] = []
        self.refuse = ""
        self.stopped = 0

    def fire(self, reason: Reason, reviewed: Reviewed) -> str | None:
        if self.refuse:
            raise Conflict(self.refuse)
        self.fired.append(reason)
        self.ledger.append("retraining_started", run=f"run-{len(self.fired)}")
        return f"run-{len(self.fired)}"

    def watch(self, now: float) -> bool:
        return False

    def stop(self) -> None:
        self.stopped += 1


class World:
    """A site in a folder, and monitors that come and go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = Settings(
            root=folder,
            models_dir=folder / "models",
            repo=folder,
            judge=JudgeSettings(min_cells=100, min_patients=10),
            policy=PolicySettings(min_reviewed_cells=20, min_reviewed_patients=4),
        )
        self.artifact = watched_artifact(folder / "models")
        self.version = self.artifact.version
        self.store = Store(self.settings.store_url)
        self.ledger = Ledger(self.settings.store_url)
        self.history = History(self.settings.store_url)
        self.pixels = PixelStore(self.settings.pixels_dir)
        self.ledger.append("registered", version=self.version)
        self.ledger.promote(self.version, None)
        self.trigger = Recorder(self.ledger)
        self.reported: list[str] = []
        self.now = time.time()
        self.seed = 0
        self.monitor = self.start()

    def site(self, settings: Settings) -> Site:
        site = open_site(settings)
        site.trigger = self.trigger
        return site

    def start(self, **changed: object) -> Monitor:
        """A monitor as after a restart: it knows what is on record and nothing else."""
        self.metrics: Metrics = build_metrics(CollectorRegistry())
        self.monitor = Monitor(
            self.settings.model_copy(update=changed),
            self.metrics,
            report=self.report,
            site=self.site,
            clock=lambda: self.now,
        )
        return self.monitor

    def report(self, name: str, window: Window, artifact: Artifact, reference: Reference, reviewed: object) -> None:
        self.reported.append(name)

    def send(
        self, windows: int = 1, *, shift: float = 0.0, site: str = "site-a", cells: int = 100, patients: int = 10
    ) -> list[PredictionRecord]:
        """As many windows' worth of answers."""
        sent = []
        for _ in range(windows):
            self.seed += 1
            start = self.now - 3600.0
            sent += stream(
                self.version,
                seed=self.seed,
                patients=patients,
                cells=cells // patients,
                shift=shift,
                site=site,
                start=start,
            )
        # One picture does for all: what counts is whether it is still there.
        sent = with_pixels(sent, [self.pixels.save(smear(seed=1, size=16))] * len(sent))
        self.store.insert_predictions(sent)
        return sent

    def value(self, name: str, **labels: str) -> float:
        found = self.metrics.registry.get_sample_value(f"blastwatch_monitor_{name}", labels)
        assert found is not None, f"no metric {name}"
        return found

    def windows(self) -> list[tuple[int, int, str]]:
        return [(w.first_seq, w.last_seq, w.state) for w in self.history.windows()]

    def decisions(self) -> list[str]:
        return [decision.kind for decision in self.history.decisions()]

    def kinds(self) -> list[str]:
        return [row.kind for row in self.ledger.rows() if row.kind not in ("registered", "promoted", "decision")]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def verdict(name: str, family: str, severity: float, window: Window) -> Finding:
    return judged(
        name,
        family,  # type: ignore[arg-type]
        severity=severity,
        figure=severity,
        interval=None,
        threshold=1.0,
        cells=len(window.cells),
        patients=10,
    )


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> list[Window]:
    """Cells of site-new are covariate drift, of site-mix label shift; → the windows that were judged, in order."""
    seen: list[Window] = []

    def judge(window: Window, *_: object, **__: object) -> list[Finding]:
        seen.append(window)
        sites = set(window.columns.site)
        return [
            verdict("embedding", "covariate", 2.0 if "site-new" in sites else 0.1, window),
            verdict("label_shift", "label_shift", 2.0 if "site-mix" in sites else 0.1, window),
        ]

    monkeypatch.setattr(job, "judge", judge)
    return seen


def review(world: World, records: Sequence[PredictionRecord]) -> None:
    """A reader agrees with each of these answers."""
    at = datetime.fromtimestamp(world.now, UTC).isoformat(timespec="microseconds")
    world.store.insert_reviews(reviews(records, time=at, sampled=False))


class TestWindows:
    def test_closed_windows_are_judged_once_and_the_rest_waits(self, world: World, planted: list[Window]) -> None:
        world.send(2)
        world.send(1, cells=40)
        assert world.monitor.step()
        assert world.windows() == [(1, 100, "ok"), (101, 200, "ok")]
        assert world.value("open_window_cells") == 40
        assert world.value("open_window_patients") == 10
        assert world.value("last_seen_seq") == 240
        assert world.value("windows_total", state="ok") == 2
        assert world.monitor.step()
        assert len(planted) == 2

    def test_answers_are_shown_and_judged_between_two_steps(self, world: World, planted: list[Window]) -> None:
        assert world.monitor.peek()  # nothing is watched yet: that is for a step
        assert world.value("last_seen_seq") == 0
        assert world.monitor.step()
        world.send(1, cells=40)
        assert world.monitor.peek()
        assert world.value("open_window_cells") == 40
        assert world.value("last_seen_seq") == 40
        world.send(1)
        assert world.monitor.peek()
        assert world.windows() == [(1, 100, "ok")]
        assert world.value("open_window_cells") == 40
        assert world.monitor.step()
        assert len(planted) == 1

    def test_a_restart_neither_judges_twice_nor_forgets(self, world: World, planted: list[Window]) -> None:
        world.send(1)
        world.send(1, cells=60)
        world.monitor.step()
        world.start()
        world.send(1, cells=60)
        world.monitor.step()
        assert world.windows() == [(1, 100, "ok"), (101, 200, "ok")]
        assert [window.first_seq for window in planted] == [1, 101]
        assert world.value("windows_total", state="ok") == 2
        assert world.value("open_window_cells") == 20

    def test_the_windows_do_not_depend_on_when_somebody_looked(
        self, world: World, planted: list[Window], tmp_path: Path
    ) -> None:
        other = World(tmp_path / "other")
        for _ in range(5):
            for each in (world, other):
                each.send(1, cells=70)
            world.monitor.step()
        other.monitor.step()
        assert world.windows() == other.windows()
        assert len(world.windows()) == 3

    def test_a_backlog_is_read_page_by_page(
        self, world: World, planted: list[Window], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(job, "PAGE", 64)
        world.send(3)
        world.monitor.step()
        assert world.windows() == [(1, 100, "ok"), (101, 200, "ok"), (201, 300, "ok")]

    def test_what_does_not_fill_expires_as_insufficient(self, world: World, planted: list[Window]) -> None:
        world.send(1, cells=40)
        world.monitor.step()
        assert world.windows() == []
        world.now += WEEK + 3600
        world.monitor.step()
        assert world.windows() == [(1, 40, "insufficient")]
        assert world.value("windows_total", state="insufficient") == 1

    def test_only_answers_of_the_model_in_production_count(self, world: World, planted: list[Window]) -> None:
        other = watched_artifact(world.folder / "models", seed=1)
        world.store.insert_predictions(stream(other.version, seed=99, patients=20))
        world.send(1, cells=40)
        world.monitor.step()
        assert world.windows() == []
        world.ledger.append("registered", version=other.version)
        world.ledger.promote(other.version, world.version)
        world.monitor.step()
        assert [window.model_version for window in planted] == [other.version] * 2
        assert world.value("production", model_version=other.version) == 1
        assert world.value("open_window_cells") == 0

    def test_test_traffic_stays_out(self, world: World, planted: list[Window]) -> None:
        world.store.insert_predictions(stream(world.version, seed=1, patients=20, test=True))
        world.monitor.step()
        assert world.windows() == []
        assert world.value("last_seen_seq") == 200


class TestTrouble:
    def test_no_model_yet(self, tmp_path: Path) -> None:
        empty = World(tmp_path)
        empty.settings = empty.settings.model_copy(update={"store_url": f"sqlite:///{tmp_path}/empty.db"})
        empty.start()
        assert empty.monitor.step()
        assert empty.value("store_up") == 1
        assert empty.value("reference_missing") == 0

    def test_a_model_without_a_reference_is_said_and_retried(
        self, world: World, planted: list[Window], caplog: pytest.LogCaptureFixture
    ) -> None:
        hidden = world.folder / "hidden"
        world.artifact.path.rename(hidden)
        world.send(1)
        world.monitor.step()
        world.monitor.step()
        assert world.value("reference_missing") == 1
        assert world.windows() == []
        complaints = [record for record in caplog.records if "without its reference" in record.message]
        assert len(complaints) == 1
        hidden.rename(world.artifact.path)
        world.monitor.step()
        assert world.value("reference_missing") == 0
        assert world.windows() == [(1, 100, "ok")]

    def test_a_damaged_reference_is_not_used(self, world: World, planted: list[Window]) -> None:
        path = world.artifact.path / "reference" / "reference.npz"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        world.send(1)
        world.monitor.step()
        assert world.value("reference_missing") == 1
        assert planted == []

    def test_a_store_that_goes_and_comes_back(self, world: World, planted: list[Window]) -> None:
        world.send(1, cells=60)
        world.monitor.step()
        database = world.folder / "var" / "store.db"
        database.rename(world.folder / "away.db")
        assert not world.monitor.step()
        assert not world.monitor.step()
        assert world.value("store_up") == 0
        assert world.value("store_failures_total") == 2
        (world.folder / "away.db").rename(database)
        world.send(1, cells=60)
        assert world.monitor.step()
        assert world.value("store_up") == 1
        assert world.windows() == [(1, 100, "ok")]

    def test_a_store_that_is_not_there_at_the_start(self, world: World, planted: list[Window]) -> None:
        world.send(1)

        def away(settings: Settings) -> Site:
            raise StoreUnavailable("planted")

        late = Monitor(world.settings, build_metrics(CollectorRegistry()), site=away)
        assert not late.step()
        late._open = world.site
        assert late.step()
        assert world.windows() == [(1, 100, "ok")]

    def test_an_error_while_judging_is_counted_and_the_window_is_judged_later(
        self, world: World, planted: list[Window], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole: Callable[..., list[Finding]] = vars(job)["judge"]

        def broken(window: Window, *arguments: object, **named: object) -> list[Finding]:
            if window.first_seq == 101:
                raise ZeroDivisionError("planted")
            return whole(window, *arguments, **named)

        world.send(2)
        world.send(1, cells=30)
        with monkeypatch.context() as planted_error:
            planted_error.setattr(job, "judge", broken)
            assert not world.monitor.step()
        assert world.value("step_failures_total") == 1
        assert world.windows() == [(1, 100, "ok")]
        assert world.monitor.step()
        assert world.windows() == [(1, 100, "ok"), (101, 200, "ok")]
        assert world.value("open_window_cells") == 30

    def test_a_report_that_fails_harms_no_verdict(self, world: World, planted: list[Window]) -> None:
        def broken(*_: object) -> None:
            raise OSError("planted")

        world.monitor._report = broken
        world.send(2)
        assert world.monitor.step()
        assert world.windows() == [(1, 100, "ok"), (101, 200, "ok")]
        assert world.value("report_failures_total") == 2

    def test_each_window_gets_a_report(self, world: World, planted: list[Window]) -> None:
        world.send(2)
        world.monitor.step()
        assert world.reported == [w.window_id for w in world.history.windows()]

    def test_two_monitors_on_one_store_do_not_judge_a_window_twice(self, world: World, planted: list[Window]) -> None:
        world.send(1)
        first, second = world.monitor, world.start()
        assert first.step()
        assert second.step()
        world.send(1)
        assert second.step()
        assert not first.step()  # the window is on record: it says so, and starts from there
        assert first.step()
        assert world.windows() == [(1, 100, "ok"), (101, 200, "ok")]


class TestDecisions:
    def test_drift_waits_for_reviews_then_retrains_once(self, world: World, planted: list[Window]) -> None:
        world.send(2)
        sent = world.send(2, site="site-new")
        world.monitor.step()
        assert (world.value("pending"), world.value("decision", kind="watch")) == (0, 1)
        world.send(1, site="site-new")
        world.monitor.step()
        assert world.decisions() == ["none", "none", "watch", "watch", "pending"]
        assert (world.value("pending"), world.value("decision", kind="pending")) == (1, 1)
        review(world, sent[:10])
        world.monitor.step()
        assert world.trigger.fired == []
        review(world, sent[::5])
        world.monitor.step()
        (reason,) = world.trigger.fired
        assert (reason.causes, reason.by) == (("covariate",), "policy")
        assert reason.window == world.history.windows()[4].window_id
        assert [finding.name for finding in reason.findings if finding.out] == ["embedding"]
        assert (world.value("pending"), world.value("decision", kind="retrain")) == (0, 1)
        world.monitor.step()
        world.start().step()
        assert len(world.trigger.fired) == 1

    def test_reviews_whose_pixels_are_gone_do_not_count(self, world: World, planted: list[Window]) -> None:
        sent = world.send(3, site="site-new")
        world.monitor.step()
        review(world, sent[::5])
        world.pixels.purge(-1)
        world.monitor.step()
        assert world.trigger.fired == []
        assert world.value("pending") == 1

    def test_a_restart_before_the_trigger_fired_fires_it(self, world: World, planted: list[Window]) -> None:
        sent = world.send(3, site="site-new")
        world.monitor.step()
        review(world, sent[::5])
        world.trigger.refuse = "planted: the monitor dies between its decision and the deed"
        world.monitor.step()
        assert world.decisions()[-1] == "retrain"
        assert world.value("pending") == 1
        world.trigger.refuse = ""
        world.start().step()
        assert len(world.trigger.fired) == 1

    def test_nothing_fires_while_frozen(self, world: World, planted: list[Window]) -> None:
        world.ledger.append("frozen", by="sre", why="planned work")
        sent = world.send(3, site="site-new")
        review(world, sent[::5])
        world.monitor.step()
        world.monitor.step()
        assert world.trigger.fired == []
        assert (world.value("frozen"), world.value("pending")) == (1, 1)
        world.ledger.append("resumed", by="sre")
        world.monitor.step()
        assert len(world.trigger.fired) == 1
        assert world.value("frozen") == 0

    def test_left_to_alertmanager_it_is_due_until_an_alert_asks(self, world: World, planted: list[Window]) -> None:
        monitor = world.start(trigger="alerts")
        review(world, world.send(3, site="site-new")[::5])
        for _ in range(2):
            monitor.step()
            assert (world.trigger.fired, world.value("pending"), world.value("decision", kind="retrain")) == ([], 1, 1)
        assert (world.value("alarm", cause="covariate"), world.value("alarm", cause="concept")) == (1, 0)
        assert answer(monitor.site(), [Alert("BlastwatchRetrainingDue", "f t", "it is due")]).outcome == "started"
        monitor.step()
        (reason,) = world.trigger.fired
        assert (reason.by, reason.causes, world.value("pending")) == ("alertmanager", ("BlastwatchRetrainingDue",), 0)

    def test_an_open_breaker_shows(self, world: World, planted: list[Window]) -> None:
        for run in ("run-1", "run-2"):
            world.ledger.append("retraining_started", run=run)
            world.ledger.append("retraining_finished", run=run, gate="refused", version="x", reasons=["planted"])
        world.monitor.step()
        assert world.value("breaker_open") == 1
        world.ledger.append("resumed", by="sre")
        world.monitor.step()
        assert world.value("breaker_open") == 0

    def test_a_finished_run_needs_new_windows_and_the_cooldown(self, world: World, planted: list[Window]) -> None:
        sent = world.send(3, site="site-new")
        review(world, sent[::5])
        world.monitor.step()
        world.monitor.step()
        assert len(world.trigger.fired) == 1
        world.ledger.append("retraining_finished", run="run-1", gate="refused", version="x", reasons=["planted"])
        world.now += 3600 * 25
        again = world.send(2, site="site-new")
        review(world, again[::5])
        world.monitor.step()
        assert len(world.trigger.fired) == 1
        world.send(2, site="site-new")
        world.monitor.step()
        world.monitor.step()
        assert len(world.trigger.fired) == 2

    def test_label_shift_alone_is_advice_on_record_once(self, world: World, planted: list[Window]) -> None:
        world.send(4, site="site-mix")
        world.monitor.step()
        world.send(2, site="site-mix")
        world.start().step()
        (row,) = world.ledger.rows("recalibration_advised")
        assert row.version == world.version
        assert row.body["window"] == world.history.windows()[2].window_id
        assert row.body["finding"]["name"] == "label_shift"
        assert "recalibrate" in world.decisions()

    @pytest.mark.parametrize("trigger", ["local", "alerts"])
    def test_label_shift_alone_asks_for_a_candidate_for_the_new_mix(
        self, world: World, planted: list[Window], monkeypatch: pytest.MonkeyPatch, trigger: str
    ) -> None:
        mixes = iter([0.6, 0.7, 0.8])

        def judge(window: Window, *_: object, **__: object) -> list[Finding]:
            share = next(mixes)
            shares = {"healthy": share, "L1": 1 - share}
            return [replace(verdict("label_shift", "label_shift", 2.0, window), detail={"shares": shares})]

        monkeypatch.setattr(job, "judge", judge)
        world.start(trigger=trigger)
        world.send(3, site="site-mix")
        world.monitor.step()
        (reason,) = world.trigger.fired
        assert reason.priors is not None
        assert dict(reason.priors) == pytest.approx({"healthy": 0.7, "L1": 0.3})
        assert (reason.causes, reason.window) == (("label_shift",), world.history.windows()[2].window_id)

    def test_it_is_advice_only_where_the_settings_say_so(
        self, world: World, planted: list[Window], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shares = {"healthy": 0.8, "L1": 0.2}

        def judge(window: Window, *_: object, **__: object) -> list[Finding]:
            return [replace(verdict("label_shift", "label_shift", 2.0, window), detail={"shares": shares})]

        monkeypatch.setattr(job, "judge", judge)
        world.settings = world.settings.model_copy(update={"recalibrate": "advise"})
        world.start()
        world.send(3, site="site-mix")
        world.monitor.step()
        assert world.trigger.fired == []
        assert world.kinds() == ["recalibration_advised"]

    def test_advice_survives_an_end_between_ledger_and_history(
        self, world: World, planted: list[Window], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.send(2, site="site-mix")
        world.monitor.step()
        world.send(1, site="site-mix")
        with monkeypatch.context() as dying:
            dying.setattr("monitoring.history.History.record", _dies)
            assert not world.monitor.step()
        assert world.kinds() == ["recalibration_advised"]
        world.start().step()
        assert world.kinds() == ["recalibration_advised"]
        assert world.decisions() == ["watch", "watch", "recalibrate"]

    def test_another_model_starts_with_a_clean_slate(self, world: World, planted: list[Window]) -> None:
        sent = world.send(3, site="site-new")
        world.monitor.step()
        assert world.value("pending") == 1
        other = watched_artifact(world.folder / "models", seed=1)
        world.ledger.append("registered", version=other.version)
        world.ledger.promote(other.version, world.version)
        review(world, sent[::5])
        world.monitor.step()
        assert world.value("pending") == 0
        assert world.value("alarm", cause="covariate") == 0
        assert world.trigger.fired == []
        states = {"finding": "embedding", "family": "covariate", "state": "drift"}
        assert world.metrics.registry.get_sample_value("blastwatch_monitor_finding_state", states) is None

    def test_stopping_passes_on(self, world: World) -> None:
        world.monitor.stop()
        assert world.trigger.stopped == 0
        world.monitor.step()
        world.monitor.stop()
        assert world.trigger.stopped == 1

    def test_gauges_are_there_again_after_a_restart(self, world: World, planted: list[Window]) -> None:
        world.send(3, site="site-new")
        world.monitor.step()
        world.start().step()
        assert world.value("finding_state", finding="embedding", family="covariate", state="drift") == 1
        assert world.value("windows_total", state="drift") == 3
        assert world.value("decision", kind="pending") == 1
        assert world.value("pending") == 1


class TestRealNumbers:
    """The tests of monitoring.judge, on answers drawn like the reference, and on shifted ones."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        made = World(tmp_path)
        made.settings = made.settings.model_copy(update={"judge": JudgeSettings(bootstraps=100)})
        made.start()
        return made

    def test_a_quiet_stream_asks_for_nothing(self, world: World) -> None:
        for _ in range(8):
            world.send(1, cells=200, patients=20)
            world.monitor.step()
        assert len(world.windows()) == 8
        assert {"retrain", "pending", "recalibrate", "page"} & set(world.decisions()) == set()
        assert world.kinds() == []

    def test_a_shifted_stream_is_found_at_its_second_window(self, world: World) -> None:
        world.seed = 10  # draws in which chance alone moves no class by a tenth
        for number in range(6):
            sent = world.send(1, cells=200, patients=20, shift=2.0 if number >= 3 else 0.0)
            world.monitor.step()
        assert [state for *_, state in world.windows()] == ["ok"] * 3 + ["drift"] * 3
        # Three of five windows would take one more: the last windows together see it before.
        assert world.decisions() == ["none"] * 3 + ["watch", "pending", "pending"]
        assert world.value("finding_state", finding="brightness", family="covariate", state="drift") == 1
        review(world, sent[::5])
        world.monitor.step()
        (reason,) = world.trigger.fired
        assert reason.causes == ("covariate",)

    def test_readers_who_disagree_with_each_other_are_heard_and_shown(self, world: World) -> None:
        sent = world.send(1, cells=200, patients=20)
        at = datetime.fromtimestamp(world.now, UTC).isoformat(timespec="microseconds")
        first = reviews(sent, time=at)
        # The second reader calls every other cell something else.
        told = [("L3" if one.label == "L2" else "L2") if row % 2 else one.label for row, one in enumerate(first)]
        second = [replace(one, role="other", label=label) for one, label in zip(first, told, strict=True)]
        named = [replace(one, review_id=review_id(one.record_id, one.role, one.label, at)) for one in second]
        world.store.insert_reviews([*first, *named])
        world.monitor.step()
        (window,) = world.history.windows()
        states = {finding.name: finding.state for finding in window.findings}
        assert states["reviewer_disagreement"] == "drift"
        assert states["reviewed_balanced_accuracy"] == states["reviewed_calibration"] == "unknown"
        assert world.value("finding_figure", finding="reviewer_disagreement", family="performance") == 0.5

    def test_the_same_stream_gets_the_same_verdicts(self, world: World, tmp_path: Path) -> None:
        other = World(tmp_path / "other")
        other.settings = other.settings.model_copy(update={"judge": JudgeSettings(bootstraps=100)})
        other.start()
        for each in (world, other):
            each.send(2, cells=200, patients=20)
            each.monitor.step()
        (one, two), same = world.history.windows(), other.history.windows()
        assert [window.findings for window in same] == [one.findings, two.findings]
        assert one.findings != two.findings


def _dies(*_: object) -> Callable[[], None]:
    raise KeyError("planted end")
