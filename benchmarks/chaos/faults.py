"""The faults, by name. Each is a function that does the harm, ends it, and says what must hold besides."""

import os
import signal

from benchmarks.chaos.drill import Drill, Fault
from benchmarks.chaos.verdict import RECOVERY_S

FAULTS: dict[str, Fault] = {}


def register(fault: Fault) -> Fault:
    """Puts it on the list; a name is there once."""
    if fault.name in FAULTS:
        raise ValueError(f"two faults are called {fault.name}")
    FAULTS[fault.name] = fault
    return fault


def kill_worker(drill: Drill) -> None:
    """SIGKILL of one of two workers."""
    before = drill.place.workers()
    victim = drill.chance.choice(sorted(before))
    drill.over()
    os.kill(victim, signal.SIGKILL)
    took = drill.must_within(
        lambda: len(now := drill.place.workers()) == 2 and victim not in now, RECOVERY_S, "two workers again"
    )
    drill.note(f"second worker back after {took:.1f} s")


def kill_supervisor(drill: Drill) -> None:
    """SIGKILL of the process that `python -m service` became; an operator starts it again."""
    site = drill.place
    workers = site.workers()
    answered = len(drill.load.book.said)
    os.kill(site.service.process.pid, signal.SIGKILL)
    site.service.process.wait(20)
    drill.pause(1)
    left = workers & site.workers()
    went_on = len(drill.load.book.said) - answered
    drill.note(f"after 1 s {len(left)} of 2 workers were left, {went_on} answers in it")
    drill.over()
    starts = 0

    def two_new() -> bool:
        nonlocal starts
        if site.service.process.poll() is not None:  # as a supervisor that restarts what ends would
            starts += 1
            site.again()
        return len(site.workers() - workers) == 2

    took = drill.must_within(two_new, RECOVERY_S, "two new workers")
    drill.note(f"new workers after {took:.1f} s, at start {starts}")


def kill_monitor(drill: Drill) -> None:
    """SIGKILL of the monitor; an operator starts it again."""
    drill.place.monitor.kill()
    drill.pause(drill.seconds / 2)
    drill.over()
    drill.place.monitor.start()
    drill.note(f"the monitor answers after {drill.since():.1f} s")


def kill_postgres(drill: Drill) -> None:
    """SIGKILL of PostgreSQL's postmaster; it is started again and recovers from its log."""
    before = len(drill.load.book.said)
    drill.place.server.kill()
    drill.pause(drill.seconds)
    drill.note(f"{len(drill.load.book.said) - before} answers while it was away")
    drill.place.server.start()
    drill.over()


def stop_postgres(drill: Drill) -> None:
    """The store is stopped and started."""
    before = len(drill.load.book.said)
    drill.place.server.stop()
    drill.pause(drill.seconds)
    drill.note(f"{len(drill.load.book.said) - before} answers while it was away")
    drill.place.server.start()
    drill.over()


def kill_objects(drill: Drill) -> None:
    """The object store is killed and started again."""
    drill.place.objects.kill()
    drill.pause(drill.seconds / 2)
    drill.place.objects.start()
    drill.over()


for _fault in (
    Fault("kill-worker", "SIGKILL of one of two workers", kill_worker, spotless=True),
    Fault("kill-supervisor", "SIGKILL of the service's parent process, started again", kill_supervisor),
    Fault("kill-monitor", "SIGKILL of the monitor, started again", kill_monitor, spotless=True),
    Fault("kill-postgresql", "SIGKILL of PostgreSQL's postmaster, started again", kill_postgres, spotless=True),
    Fault("store-restart", "PostgreSQL stopped at once and started", stop_postgres, spotless=True),
    Fault("objects-restart", "SIGKILL of the object store, started again", kill_objects, spotless=True),
):
    register(_fault)
