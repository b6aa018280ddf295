"""Faults around the model: promotions, retrainings, restarts one after the other."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from benchmarks.chaos.drill import Drill, Fault
from benchmarks.chaos.faults import register
from benchmarks.chaos.verdict import RECOVERY_S
from service.client import Client
from service.contract.artifact import MODEL
from service.contract.ledger import Row
from tests.service.process import ROOT

STANDIN = Path(__file__).parent / "standin"
REVIEWS = 3
RETRAIN_S = 60.0


def corrupt_artifact(drill: Drill) -> None:
    """A bit of the model flips in the model store, and that version is promoted; a person rolls back."""
    site = drill.place
    graph = site.site.root / "models" / site.second.version / MODEL
    sound = graph.read_bytes()
    data = bytearray(sound)
    data[drill.chance.randrange(len(data))] ^= 1 << drill.chance.randrange(8)
    graph.write_bytes(data)
    ledger = site.site.ledger
    began = time.monotonic()
    ledger.promote(site.second.version, site.first.version)
    drill.pause(drill.seconds)
    failed = "blastwatch_model_failed_loads_total"
    counted = sum(value for name, value in site.service.metrics().items() if name.startswith(failed))
    drill.must(counted >= 1, f"{failed} counts nothing")
    ledger.rollback(site.first.version, by="drill")
    ledger.close()
    graph.write_bytes(sound)
    drill.over()
    since = [answer.version for answer in drill.load.book.said if answer.at - answer.took > began]
    drill.must(since and set(since) == {site.first.version}, "another model than the one before answered")
    drill.note(f"{counted:.0f} refused loads counted, {len(since)} answers by the model before")


def up_and_down(drill: Drill) -> None:
    """Another version is promoted under load, then rolled back."""
    site = drill.place
    ledger = site.site.ledger

    def only(version: str) -> bool:
        now = time.monotonic()
        last = {answer.version for answer in drill.load.book.said[-200:] if answer.at - answer.took > now - 0.5}
        return last == {version}

    ledger.promote(site.second.version, site.first.version)
    drill.must_within(lambda: only(site.second.version), RECOVERY_S, "only the promoted version answers")
    drill.pause(drill.seconds / 2)
    ledger.rollback(site.first.version, by="drill")
    drill.over()
    took = drill.must_within(lambda: only(site.first.version), RECOVERY_S, "only the version before answers")
    ledger.close()
    of_second = sum(answer.version == site.second.version for answer in drill.load.book.said)
    drill.note(f"{of_second} answers by the promoted version, none {took:.1f} s after the rollback")


def rolling_restart(drill: Drill) -> None:
    """Two services of one site, clients know both; each is stopped and started, one after the other."""
    site = drill.place
    for number, stop in enumerate((site.service, site.others[0])):
        stop.process.send_signal(signal.SIGTERM)
        code = stop.process.wait(60)
        drill.must(code == 0, f"service {number + 1} ended with exit status {code}")
        if number == 0:
            site.again()
            site.others.remove(stop)
            site.service.wait()
            drill.pause(1)
    drill.over()


def _reviewed(drill: Drill) -> None:
    """Some answers get a reader's label, so that a retraining may start."""
    with Client(drill.place.service.grpc) as client:
        for answer in drill.load.book.said[:REVIEWS]:
            client.review(answer.record_id, answer.label)


def _trigger(drill: Drill, by: str) -> "subprocess.Popen[str]":
    environment = drill.place.environment | {
        "PYTHONPATH": f"{STANDIN}{os.pathsep}{ROOT}",
        "DRILL_OBJECTS": drill.place.objects_url,
        "DRILL_SECONDS": str(drill.seconds / 2),
        "AWS_ACCESS_KEY_ID": "drill",
        "AWS_SECRET_ACCESS_KEY": "drill",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "2",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "monitoring.trigger", "retrain", "--why", "a drill", "--by", by, "--wait"],
        cwd=drill.place.site.root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _bucket(drill: Drill) -> None:
    """The bucket of the remote; the server keeps it in memory, so it goes with each restart."""
    httpx.put(f"{drill.place.objects_url}/drill", timeout=10, trust_env=False).raise_for_status()


def _ended(process: "subprocess.Popen[str]") -> str:
    try:
        return process.communicate(timeout=RETRAIN_S)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0] + " (it was killed: it took too long)"


def _rows(drill: Drill, *kinds: str) -> list[Row]:
    ledger = drill.place.site.ledger
    try:
        return ledger.rows(*kinds)
    finally:
        ledger.close()


def two_triggers(drill: Drill) -> None:
    """Two people start a retraining at the same moment."""
    _bucket(drill)
    _reviewed(drill)
    both = [_trigger(drill, by) for by in ("one", "other")]
    said = [_ended(process) for process in both]
    drill.over()
    codes = sorted(process.returncode for process in both)
    drill.must(codes[0] == 0 and codes[1] != 0, f"exit statuses {codes}: {said[0][-200:]} {said[1][-200:]}")
    started, finished = _rows(drill, "retraining_started"), _rows(drill, "retraining_finished")
    drill.must(len(started) == 1, f"{len(started)} retrainings started")
    drill.must([row.body["run"] for row in finished] == [row.body["run"] for row in started], "it did not finish")
    refused = next((text for text, process in zip(said, both, strict=True) if process.returncode), "")
    drill.note(f"one ran and finished, the other was told: {' '.join(refused.split())[-80:]}")


def retraining_without_objects(drill: Drill) -> None:
    """The object store goes down while a retraining runs; the next one, with the store back, goes well."""
    site = drill.place
    _bucket(drill)
    _reviewed(drill)
    production = site.first.version
    first = _trigger(drill, "operator")
    drill.must_within(lambda: _rows(drill, "retraining_started"), RETRAIN_S, "a retraining starts")
    site.objects.kill()
    text = _ended(first)
    failed = _rows(drill, "retraining_failed")
    drill.must(len(failed) == 1 and first.returncode == 1, f"the failure is not on record: {text[-300:]}")
    site.objects.start()
    _bucket(drill)
    drill.over()
    with contextlib.closing(site.site.ledger) as ledger:
        drill.must(ledger.production() == production, "production changed")
    second = _trigger(drill, "operator")
    text = _ended(second)
    done = len(_rows(drill, "retraining_finished")) == 1 and second.returncode == 0
    drill.must(done, f"the next retraining did not finish: {text[-300:]}")
    reason = failed[0].body["reason"] if failed else "nothing"
    drill.note(f"on record: {reason}; the next finished {drill.since():.0f} s after the store was back")


for _fault in (
    Fault("corrupt-artifact", "corrupt artifact on promotion", corrupt_artifact, spotless=True),
    Fault("objects-down-retraining", "object store down while retraining", retraining_without_objects, spotless=True),
    Fault("two-triggers", "two triggers at once", two_triggers, spotless=True),
    Fault("up-and-down", "another model promoted under load, and rolled back", up_and_down, spotless=True),
    Fault("rolling-restart", "two services restarted one after the other", rolling_restart, spotless=True, twin=True),
):
    register(_fault)
