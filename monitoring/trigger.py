"""Starts a retraining as a process of this machine: one at a time, on record in the ledger, survived by a dead monitor.

Single-flight in a work folder is a lock on work_dir/retrain.lock that the child inherits: whoever started it, and
however that one died, the lock is free exactly when no retraining runs there. Across hosts it is a lease in the store
that the child renews. The child (`python -m training.retrain`) records its own result; one that ends without a result
is recorded as failed by whoever next looks while neither is held, and can record nothing any more from then on.

    python -m monitoring.trigger retrain --why TEXT | freeze --why TEXT --by ROLE | resume --by ROLE | status
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from monitoring.door import refusal
from monitoring.findings import Finding
from monitoring.launch import (
    Command,
    child_environment,
    ending,
    held,
    kubernetes_command,
    new_run,
    process_of,
    retrain_command,
    signal_group,
)
from monitoring.policy import Reviewed
from monitoring.runs import FAILED, FIRED, STARTED, open_runs, retrainings
from monitoring.settings import Settings
from service.contract.errors import Conflict, run_command
from service.contract.files import write_atomic
from service.contract.lease import OWNER, RETRAINING, SECONDS, Lease, Leases, place
from service.contract.ledger import FENCE, Ledger

LOCK = "retrain.lock"
LOG = "retrain.log"
RUN = "run.json"
_PATIENCE_S = 1.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reason:
    """Why a retraining is asked for, and by whom (`policy`, or a person's role); all of it goes into the ledger."""

    why: str
    by: str = "policy"
    causes: tuple[str, ...] = ()
    window: str | None = None
    findings: tuple[Finding, ...] = ()
    priors: Mapping[str, float] | None = None
    """The case mix that a recalibration is for, by label; None: the network is to learn from reviewed cells."""
    decision: int | None = None
    """The ledger's row of the decision that led to it."""


class Trigger(Protocol):
    """What the monitor needs of whatever starts retrainings."""

    def fire(self, reason: Reason, reviewed: Reviewed) -> str | None:
        """Start one; its run id, or None when this trigger starts nothing. Raises Conflict when none may start."""
        ...

    def watch(self, now: float) -> bool:
        """Whether a retraining runs; records those that ended without a result, and stops one that takes too long."""
        ...

    def stop(self) -> None:
        """The monitor ends."""
        ...


class NoTrigger:
    """Starts nothing: a person, or another system, acts on `blastwatch_monitor_pending`."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._others = LocalTrigger(ledger, settings)

    def fire(self, reason: Reason, reviewed: Reviewed) -> str | None:
        """Nothing: that one is due can be seen."""
        return None

    def watch(self, now: float) -> bool:
        """Of runs that others started."""
        return self._others.watch(now)

    def stop(self) -> None:
        """Nothing was started."""


class LocalTrigger:
    """Retrainings as child processes, each in a session of its own so that all of it can be stopped.

    In a cluster the child follows a Job (monitoring/kubernetes_job.py): lock, lease, ledger and limits are the same.
    """

    def __init__(self, ledger: Ledger, settings: Settings, *, command: Command | None = None) -> None:
        self._ledger = ledger
        self._settings = settings
        in_cluster = settings.runner == "kubernetes"
        self._command = command or (kubernetes_command if in_cluster else retrain_command)(settings)
        self._lock = settings.work_dir / LOCK
        self._leases = Leases(settings.store_url)
        self._child: subprocess.Popen[bytes] | None = None
        self._own: str | None = None
        self._stopped: dict[str, tuple[str, float]] = {}  # run → why it was told to end, when it will be made to

    def fire(self, reason: Reason, reviewed: Reviewed) -> str:
        """Start a retraining and return its run id.

        Raises Conflict when one is running or the policy's door is shut (with what to do), StoreUnavailable when the
        ledger cannot be written: then nothing was started.
        """
        with held(self._lock, _PATIENCE_S) as lock:
            if lock is None:
                raise Conflict("a retraining is running: wait for it to end")
            run = new_run()
            lease = self._take(f"retraining {run}")
            if lease is None:
                raise Conflict("a retraining is running on another host: wait for it to end")
            started = False
            try:
                started = self._start(run, reason, reviewed, lock, lease)
            finally:
                if not started:
                    self._leases.release(lease)
        return run

    def _start(self, run: str, reason: Reason, reviewed: Reviewed, lock: int, lease: Lease) -> bool:
        ledger = self._ledger.fenced(lease.fence)
        self._record_dead(ledger)
        needed = reviewed if reason.priors is None else None
        shut = refusal(ledger.rows(), self._settings.policy, time.time(), needed)
        if shut is not None:
            raise Conflict(shut)
        seen = [
            {"name": item.name, "state": item.state, "figure": item.figure, "threshold": item.threshold}
            | ({"slice": item.slice} if item.slice else {})
            for item in reason.findings
            if item.out
        ]
        asked = {"why": reason.why, "by": reason.by, "causes": list(reason.causes), "window": reason.window}
        ledger.append(FIRED, run=run, **asked, findings=seen, decision=reason.decision)
        folder = self._settings.work_dir / run
        started: dict[str, object] = {"why": reason.why, "log": str(folder / LOG), "reviewed": reviewed.cells}
        if reason.priors is not None:
            started["priors"] = dict(reason.priors)
        ledger.append(STARTED, run=run, **started)
        try:
            self._child = self._spawn(run, folder, lock, lease, reason.priors)
        except OSError as error:
            ledger.append(FAILED, run=run, reason=f"it could not be started: {error}")
            _logger.error("retraining %s could not be started: %s", run, error)
            return False
        self._own = run
        _logger.info("retraining %s started (%s); its log: %s", run, reason.why, folder / LOG)
        return True

    def watch(self, now: float) -> bool:
        """See Trigger. Raises StoreUnavailable when the ledger cannot be reached."""
        if self._child is not None:
            self._child.poll()
        with held(self._lock) as lock:
            if lock is not None:
                return self._runs_elsewhere()
        self._stop_late(now)
        return True

    def _runs_elsewhere(self) -> bool:
        """Call only with the lock held. What is open and has no living holder has ended."""
        known = self._leases.held(RETRAINING)
        if known is None and self._child is None and not open_runs(self._ledger.rows()):
            return False
        lease = self._take("whoever records what ended without a result")
        if lease is None:
            self._child = self._own = None
            return True
        try:
            self._record_dead(self._ledger.fenced(lease.fence))
        finally:
            self._leases.release(lease)
        return False

    def _take(self, holder: str) -> Lease | None:
        """Call only with the lock held: then a holder of this place is dead."""
        return self._leases.take(RETRAINING, place(self._settings.work_dir), holder, self._settings.lease_s)

    def stop(self) -> None:
        """Stop the retraining that this monitor started and record it as failed, or leave it, as the settings say."""
        if self._child is None or self._own is None or self._settings.on_exit == "leave":
            return
        if self._child.poll() is None:
            self._end(self._own, "it was stopped together with the monitor")
            try:
                self._child.wait(self._settings.retrain_grace_s)
            except subprocess.TimeoutExpired:
                _logger.warning("retraining %s does not end by itself: killing it", self._own)
        signal_group(self._child.pid, signal.SIGKILL)  # it, or whatever of its group outlived it
        self._child.wait()
        deadline = time.monotonic() + _PATIENCE_S
        while self.watch(time.time()) and time.monotonic() < deadline:
            time.sleep(0.02)

    def _spawn(
        self, run: str, folder: Path, lock: int, lease: Lease, priors: Mapping[str, float] | None
    ) -> subprocess.Popen[bytes]:
        folder.mkdir(parents=True)
        more = () if priors is None else ("--priors", json.dumps(dict(priors)))
        handed = {FENCE: str(lease.fence), OWNER: lease.owner, SECONDS: str(self._settings.lease_s)}
        with (folder / LOG).open("ab") as log:
            child = subprocess.Popen(
                [*self._command(run, lock), *more],
                cwd=folder if self._settings.runner == "kubernetes" else self._settings.repo,
                env=child_environment(self._settings, os.environ) | handed,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock,),
            )
        try:
            write_atomic(folder / RUN, json.dumps({"run": run, "pid": child.pid}) + "\n")
        except OSError as error:
            _logger.error("retraining %s runs, but another monitor could not stop it: %s", run, error)
        return child

    def _record_dead(self, ledger: Ledger) -> None:
        """Call only with lock and lease held: then every run that has no end on record has ended all the same."""
        code = None
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it let go of the lock: it is about to be gone
                code = self._child.wait(_PATIENCE_S)
        for run in open_runs(ledger.rows()):
            reason = "it ended without a result"
            if run in self._stopped:
                reason, _ = self._stopped[run]
            elif run == self._own and code is not None:
                reason = f"it ended with {ending(code)} and without a result"
            log = self._settings.work_dir / run / LOG
            ledger.append(FAILED, run=run, reason=reason, log=str(log))
            _logger.error("retraining %s: %s; its log: %s", run, reason, log)
        self._child = self._own = None

    def _stop_late(self, now: float) -> None:
        started = {item.run: item.started for item in retrainings(self._ledger.rows()) if item.end is None}
        for run, at in started.items():
            if run in self._stopped:
                _, deadline = self._stopped[run]
                if time.monotonic() > deadline:
                    self._signal(run, signal.SIGKILL)
            elif now - at > self._settings.retrain_timeout_s:
                self._end(run, f"it took longer than {self._settings.retrain_timeout_s:.0f} s and was stopped")

    def _end(self, run: str, why: str) -> None:
        _logger.warning("retraining %s: %s", run, why)
        self._stopped[run] = (why, time.monotonic() + self._settings.retrain_grace_s)
        self._signal(run, signal.SIGTERM)

    def _signal(self, run: str, number: signal.Signals) -> None:
        if self._child is not None and run == self._own:
            signal_group(self._child.pid, number)
            return
        pid = process_of(run, self._settings.work_dir / run / RUN)  # another monitor started it
        if pid is not None:
            signal_group(pid, number)
        else:
            _logger.error("the process of retraining %s is not to be found: end it by hand", run)


if __name__ == "__main__":
    from monitoring.trigger_command import main

    run_command(main)
