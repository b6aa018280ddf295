"""The monitor's loop: reads what is new in the store, cuts and judges windows, decides, acts.

A step is safe to repeat and to interrupt: what was judged is on record before anything follows from it, and what is
still open is read again from the store. Store or ledger away, a broken model folder, an error in a test: the monitor
says so in its log and metrics, and tries again at the next step.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from monitoring import policy
from monitoring.asking import ask
from monitoring.given import Given
from monitoring.judge import judge
from monitoring.long_window import long_window
from monitoring.metrics import Metrics
from monitoring.planned import Calendar, named
from monitoring.policy import Decision, Reviewed
from monitoring.recalibration import case_mix
from monitoring.reviews import Pair, agreed, of_model, unused
from monitoring.runs import KINDS, last_cost, learned_until, outcomes, policy_state, used_until
from monitoring.settings import Settings
from monitoring.site import Site, open_site
from monitoring.trigger import Reason
from monitoring.tumbling import Tumbling
from monitoring.verdict import JudgedWindow, judged_window, window_id
from monitoring.window import Window
from service.contract.artifact import Artifact, read_artifact
from service.contract.errors import ArtifactError, Conflict, NotFound, StoreUnavailable
from service.contract.reading import asked_for
from service.contract.reference import Reference

PAGE = 10_000
PAST_WINDOWS = 100
_logger = logging.getLogger(__name__)

Report = Callable[[str, Window, Artifact, Reference, Sequence[Pair]], None]
"""(window id, window, its model, the model's reference, reviews of its answers) → a file for people.

May raise whatever it likes.
"""


@dataclass
class Stream:
    """How far the answers of one model are read, and what they are cut into."""

    version: str
    artifact: Artifact
    reference: Reference
    read_to: int
    open: Tumbling


class Monitor:
    """The loop's state between steps, all of which can be read again. Raises ConfigError for a bad calendar."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        report: Report | None = None,
        site: Callable[[Settings], Site] = open_site,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._report = report
        self._open = site
        self._clock = clock
        self._calendar = Calendar(settings.calendar)
        if self._calendar.entries:
            _logger.info("the calendar announces %s", named(self._calendar.entries))
        self._site: Site | None = None
        self._stream: Stream | None = None
        self._due = float("-inf")
        self._seen = -1
        self._said: set[str] = set()
        self._saying: set[str] = set()

    def turn(self) -> bool:
        """A step when `interval_s` has passed since the last one, else only a look for answers. Never raises."""
        if time.monotonic() < self._due:
            return self.peek()
        self._due = time.monotonic() + self._settings.interval_s
        return self.step()

    def step(self) -> bool:
        """One look at the store; False when something was in the way. Never raises."""
        self._saying = set()
        try:
            return self._tried(self._look)
        finally:
            self._said = self._saying

    def peek(self) -> bool:
        """Between two steps: new answers of the model that is watched. Without any it is one small query.

        False when something was in the way. Never raises.
        """
        return self._stream is None or self._tried(self._glance)

    def _tried(self, look: Callable[[float], None]) -> bool:
        try:
            look(self._clock())
            self._metrics.store_up.set(1)
            return True
        except StoreUnavailable as error:
            self._metrics.store_up.set(0)
            self._metrics.store_failures.inc()
            self._complain(str(error))
        except Exception:
            # Whatever it was must not end the watch; it is counted, and the log has all of it.
            self._metrics.step_failures.inc()
            _logger.exception("this look at the store failed; the next one starts from what is on record")
        finally:
            self._metrics.last_step_timestamp.set(self._clock())
        self._stream = None
        return False

    def site(self) -> Site:
        """What it works with, opened when it is first needed. Raises StoreUnavailable."""
        self._site = self._site or self._start()
        return self._site

    def stop(self) -> None:
        """The monitor ends; a retraining that it started is stopped or left, as the settings say."""
        if self._site is not None:
            try:
                self._site.trigger.stop()
            except StoreUnavailable as error:
                _logger.error("the end of the retraining is not on record yet, the next start adds it: %s", error)

    def _look(self, now: float) -> None:
        site = self.site()
        self._metrics.retraining_running.set(site.trigger.watch(now))
        rows = site.ledger.rows(*KINDS)
        state = policy_state(rows, *site.history.memory())
        self._metrics.frozen.set(state.frozen)
        alarms = state.alarms if state.model_version == site.ledger.production() else ()
        self._metrics.show_alarms(alarms, breaker=policy.breaker_open(state, self._settings.policy))
        self._metrics.show_retrainings(outcomes(rows))
        self._metrics.show_cost(last_cost(rows))
        for news in ask(site, self._settings.policy, rows, now):
            self._metrics.show_decision(news.kind)
        self._read_calendar()
        latest = site.store.latest_seq()
        stream = self._follow(site, site.ledger.production())
        if stream is None:
            return
        judged = self._read(site, stream, now)
        if not judged:
            self._reconsider(site, stream.version, now)
        self._show_open(stream, latest)

    def _glance(self, now: float) -> None:
        site, stream = self._site, self._stream
        if site is None or stream is None or (latest := site.store.latest_seq()) == self._seen:
            return
        self._read(site, stream, now)
        self._show_open(stream, latest)

    def _show_open(self, stream: Stream, latest: int) -> None:
        self._metrics.open_window_cells.set(stream.open.cells)
        self._metrics.open_window_patients.set(stream.open.patients)
        self._metrics.last_seen_seq.set(latest)
        self._seen = latest

    def _start(self) -> Site:
        site = self._open(self._settings)
        for state, number in site.history.counts().items():
            self._metrics.windows.labels(state=state).inc(number)
        for decision in site.history.decisions(last=1):
            self._metrics.show_decision(decision.kind)
        return site

    def _follow(self, site: Site, version: str | None) -> Stream | None:
        """The stream of the model in production, or None when there is none or it cannot be judged."""
        if self._stream is not None and self._stream.version == version:
            return self._stream
        self._metrics.show_production(version)
        self._metrics.reference_missing.set(0)
        if version is None:
            self._complain("the ledger names no model in production: nothing to watch yet")
            return None
        try:
            artifact = read_artifact(site.models.path(version), expect_version=version)
            reference = artifact.reference()
        except (NotFound, ArtifactError) as error:
            self._metrics.reference_missing.set(1)
            self._complain(f"windows of model {version} cannot be judged without its reference: {error}")
            return None
        self._metrics.clear_window()
        for last in site.history.windows(version, last=1):
            self._metrics.show_window(last.findings, last.closed)
        numbers = self._settings.judge
        windows = Tumbling(
            version,
            min_cells=numbers.min_cells,
            min_patients=numbers.min_patients,
            max_age_s=numbers.max_window_age_s,
        )
        self._stream = Stream(version, artifact, reference, site.history.cursor(version), windows)
        _logger.info("watching model %s after record %d", version, self._stream.read_to)
        return self._stream

    def _read(self, site: Site, stream: Stream, now: float) -> int:
        """Read on, and judge what closes; → windows judged."""
        judged, full = 0, True
        while full:
            page = site.store.cells(stream.version, after_seq=stream.read_to, limit=PAGE)
            full = len(page) == PAGE
            # With more to read, the open window may have cells yet to come.
            for window in chain(stream.open.add(page), () if full else stream.open.expire(now)):
                self._judge(site, stream, window, now)
                judged += 1
            stream.read_to = int(page.seq[-1]) if len(page) else stream.read_to
        return judged

    def _judge(self, site: Site, stream: Stream, window: Window, now: float) -> None:
        settings, name = self._settings, window_id(window)
        rows = site.ledger.rows(*KINDS)
        past = site.history.windows(stream.version, last=PAST_WINDOWS)
        read, met = of_model(site.store, stream.version, learned_until(rows, stream.version))
        reviews = agreed(read, met)
        findings = judge(
            window,
            stream.reference,
            settings.judge,
            settings.seed ^ int(name[:15], 16),
            labels=stream.artifact.manifest.labels,
            reviewed=reviews,
            readings=read,
            together=long_window(site.store, past, window, rows, settings.judge),
            planned=self._calendar.entries,
        )
        verdict = judged_window(window, findings)
        before = tuple(item.past for item in past)
        state = policy_state(rows, *site.history.memory())
        reviewed = unused(site.store, site.pixels, used_until(rows), asked_for(rows))
        decision = policy.decide(verdict.past, before, state, settings.policy, now, reviewed)
        if decision.kind == "recalibrate":
            self._advise(site, verdict, decision)
        given = Given(verdict.past, before, state, settings.policy, now, reviewed)
        number = site.decisions.record(given, decision, verdict)
        if not site.history.record(verdict, decision, _kept(decision), now):
            raise Conflict(f"window {name} is on record already: does another monitor run on this store?")
        _logger.info(
            "window %s (%d cells): %s; %s: %s", name, verdict.cells, verdict.state, decision.kind, decision.why
        )
        self._metrics.windows.labels(state=verdict.state).inc()
        self._metrics.show_window(verdict.findings, verdict.closed)
        self._act(site, decision, verdict, reviewed, number)
        self._write_report(name, stream, window, reviews)

    def _read_calendar(self) -> None:
        """Where it changed; an edit that makes no sense changes nothing, and is complained about."""
        before, problem = self._calendar.entries, self._calendar.refresh()
        self._metrics.calendar_broken.set(problem is not None)
        if problem is not None:
            self._complain(f"{problem}; what it said before goes on to hold")
        elif self._calendar.entries != before:
            _logger.info("the calendar now announces %s", named(self._calendar.entries))

    def _reconsider(self, site: Site, version: str, now: float) -> None:
        """A retraining that is due may start now: reviews came in, the cooldown ended, or a person resumed."""
        rows = site.ledger.rows(*KINDS)
        state = policy_state(rows, *site.history.memory())
        self._metrics.pending.set(bool(state.pending) and state.model_version == version)
        if not state.pending or state.model_version != version:
            return
        reviewed = unused(site.store, site.pixels, used_until(rows), asked_for(rows))
        decision = policy.reconsider(state, self._settings.policy, now, reviewed)
        last = site.history.windows(version, last=1)[0]
        if decision.kind == "recalibrate":
            self._advise(site, last, decision)
        number = site.decisions.record(Given(None, (), state, self._settings.policy, now, reviewed), decision)
        site.history.decide(decision, _kept(decision), now)
        self._act(site, decision, last, reviewed, number)

    def _act(
        self, site: Site, decision: Decision, window: JudgedWindow, reviewed: Reviewed, number: int | None
    ) -> None:
        self._metrics.show_decision(decision.kind)
        self._metrics.pending.set(bool(_kept(decision).pending))
        if decision.kind == "page":
            _logger.warning("a person is needed: %s", decision.why)
        priors = None
        if decision.kind == "recalibrate" and self._settings.recalibrate == "local":
            # Windows are on record before anything follows from them, this one too.
            alarm = site.history.windows(window.model_version, last=self._settings.policy.fire_of)
            priors = case_mix(item.findings for item in alarm)
        if decision.kind != "retrain" and priors is None:
            return
        if self._settings.trigger == "alerts" and priors is None:
            self._complain(f"a retraining is due ({decision.why}): it is for Alertmanager to ask for it")
            return
        reason = Reason(
            decision.why, causes=decision.causes, window=window.window_id, findings=window.findings, priors=priors
        )
        try:
            run = site.trigger.fire(replace(reason, decision=number), reviewed)
        except Conflict as error:
            _logger.warning("%s is due (%s) and did not start: %s", _what(decision), decision.why, error)
            return
        if run is None:
            self._complain(f"{_what(decision)} is due ({decision.why}): the trigger is none, start it by hand")
            return
        self._metrics.pending.set(0)
        self._metrics.retraining_running.set(1)

    def _advise(self, site: Site, window: JudgedWindow, decision: Decision) -> None:
        """On record before the window is, and once: a monitor that dies in between judges the same window again."""
        told = {row.body.get("window") for row in site.ledger.rows("recalibration_advised")}
        if window.window_id in told:
            return
        shifts = [item for item in window.findings if item.family == "label_shift"]
        shift = next((item for item in shifts if item.out), next(iter(shifts), None))
        site.ledger.append(
            "recalibration_advised",
            version=window.model_version,
            window=window.window_id,
            why=decision.why,
            finding=shift.to_json() if shift else None,
        )
        _logger.warning("a person is needed: %s", decision.why)

    def _write_report(self, name: str, stream: Stream, window: Window, reviews: Sequence[Pair]) -> None:
        if self._report is None:
            return
        try:
            self._report(name, window, stream.artifact, stream.reference, reviews)
        except Exception:
            # A picture for people: the verdict is on record and stands without it.
            self._metrics.report_failures.inc()
            _logger.exception("the report of window %s could not be written", name)

    def _complain(self, text: str) -> None:
        """Once for as long as it lasts: the metrics show that it lasts."""
        if text not in self._said:
            _logger.warning("%s", text)
        self._saying.add(text)


def _what(decision: Decision) -> str:
    return "a recalibration" if decision.kind == "recalibrate" else "a retraining"


def _kept(decision: Decision) -> policy.PolicyState:
    """What to remember: a retraining stays due until the ledger says that it started."""
    return replace(decision.state, pending=decision.causes) if decision.kind == "retrain" else decision.state
