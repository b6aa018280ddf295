"""Faults of the machine: its disk, its clock, its network."""

import contextlib
import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.chaos.drill import Drill, Fault, Skipped, everything
from benchmarks.chaos.faults import register
from tests.service.process import _descendants as descendants

DISK_MIB = 48
SLOW_IOPS = 20
CGROUP1, CGROUP2 = Path("/sys/fs/cgroup/blkio"), Path("/sys/fs/cgroup")
FAKETIME = "libfaketimeMT.so.1"
HOUR_S, DAY_S = 3600, 86400


def own_disk(stack: contextlib.ExitStack, root: Path) -> Sequence[str]:
    """The journal gets a small ext4 of its own, on a loop device."""
    image, disk, journal = root / "disk.img", root / "disk", root / "var/journal"
    with image.open("wb") as file:
        file.truncate(DISK_MIB * 2**20)
    _run("mkfs.ext4", "-q", "-F", str(image))
    device = _run("losetup", "--find", "--show", str(image))
    stack.callback(_run, "losetup", "--detach", device)
    for folder in (disk, journal):
        folder.mkdir(parents=True)
    _run("mount", device, str(disk))
    stack.callback(_run, "umount", "--lazy", str(disk))
    (disk / "journal").mkdir()
    _run("mount", "--bind", str(disk / "journal"), str(journal))
    stack.callback(_run, "umount", "--lazy", str(journal))
    (root / "device").write_text(device)
    return ()


@functools.cache
def disks() -> None:
    """Raises Skipped where no loop device can be mounted."""
    if os.geteuid():
        raise Skipped("mounting a disk takes root")
    done = subprocess.run(["losetup", "--find"], capture_output=True, check=False)
    if done.returncode:
        raise Skipped("no loop device here")


def slow_disks() -> None:
    """Raises Skipped where the disk cannot be slowed."""
    disks()
    if not CGROUP1.is_dir() and "io" not in (CGROUP2 / "cgroup.subtree_control").read_text().split():
        raise Skipped("no cgroup here that limits a disk")


def full_disk(drill: Drill) -> None:
    """The journal's disk is full, then it has room again."""
    before = len(drill.load.book.said)
    filler = drill.place.site.root / "disk/filler"
    began = time.monotonic()
    with filler.open("wb", buffering=0) as file:
        while time.monotonic() < began + drill.seconds:
            # Again and again: what is shipped to the store makes room, and that is taken as well, to the last bytes.
            for size in (2**16, 512):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
            time.sleep(0.02)
    refused = [at for at, took, answered in drill.load.book.probes if at - took > began and not answered]
    drill.must(refused, "nothing was refused while the disk was full: it was not full")
    drill.note(f"{len(drill.load.book.said) - before} answers while it was full, {len(refused)} probes refused")
    filler.unlink()
    drill.over()


def slow_disk(drill: Drill) -> None:
    """The journal's disk takes 20 writes a second, then as many as it likes."""
    device = (drill.place.site.root / "device").read_text()
    number = (Path("/sys/block") / Path(device).name / "dev").read_text().strip()
    group = (CGROUP1 if CGROUP1.is_dir() else CGROUP2) / f"drill-{os.getpid()}"
    group.mkdir()
    home = group.parent / "cgroup.procs"
    pids = [drill.place.service.process.pid, *descendants(drill.place.service.process.pid)]
    usual = statistics.median(answer.took for answer in drill.load.book.said[-100:])
    try:
        _limit(group, number, SLOW_IOPS)
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
        began = time.monotonic()
        drill.pause(drill.seconds)
        slow = [answer.took for answer in drill.load.book.said if answer.at - answer.took > began]
        drill.must(slow and statistics.median(slow) > 2 * usual, "answers were as fast as ever: the disk was not slow")
        if slow:
            drill.note(f"median answer {1000 * usual:.0f} ms before, {1000 * statistics.median(slow):.0f} ms meanwhile")
        _limit(group, number, 0)
        drill.over()
    finally:
        _limit(group, number, 0)
        for member in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                home.write_text(member)
        with contextlib.suppress(OSError):
            group.rmdir()


def _limit(group: Path, device: str, iops: int) -> None:
    if group.parent == CGROUP1:
        (group / "blkio.throttle.write_iops_device").write_text(f"{device} {iops}")
    else:
        (group / "io.max").write_text(f"{device} wiops={iops or 'max'}")


def faked_clock(stack: contextlib.ExitStack, root: Path) -> Sequence[str]:
    """The service reads the time of day through libfaketime; intervals (the monotonic clock) are left alone."""
    _set_clock(root, 0)
    found = next(Path("/usr/lib").glob(f"*/faketime/{FAKETIME}"))
    return [
        "env",
        f"LD_PRELOAD={found}",
        f"FAKETIME_TIMESTAMP_FILE={root / 'clock'}",
        "FAKETIME_CACHE_DURATION=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
    ]


def clocks() -> None:
    """Raises Skipped where libfaketime is missing."""
    if not list(Path("/usr/lib").glob(f"*/faketime/{FAKETIME}")):
        raise Skipped("faketime is missing: run `make servers`")


def _set_clock(root: Path, offset_s: int) -> None:
    new = root / "clock.new"
    new.write_text(f"{offset_s:+d}\n")
    new.rename(root / "clock")


def clock_jump(drill: Drill) -> None:
    """The service's clock jumps an hour or a day forward, then back behind the true time, then to it."""
    root = drill.place.site.root
    forward, back = drill.chance.choice((HOUR_S, DAY_S)), -drill.chance.choice((HOUR_S, DAY_S))
    for offset in (forward, back):
        _set_clock(root, offset)
        drill.pause(drill.seconds / 2 + 1)
    _set_clock(root, 0)
    drill.over()
    drill.pause(1)
    hours = {item.record.time[:13] for item in everything(drill.place)}
    drill.must(len(hours) >= 3, "no record has another time: the clock did not jump")
    drill.note(f"{forward / HOUR_S:+g} h, then {back / HOUR_S:+g} h")


def cut_network(drill: Drill) -> None:
    """The wire to PostgreSQL's namespace is dead: no packet comes or goes, and nobody says so."""
    database = drill.place.server
    before = len(drill.load.book.said)
    database.cut()
    try:
        drill.pause(drill.seconds)
        drill.note(f"{len(drill.load.book.said) - before} answers while it was cut")
    finally:
        database.heal()
    drill.over()


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{' '.join(command)}: {done.stderr.strip()}", file=sys.stderr)
        raise OSError(f"{command[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


for _fault in (
    Fault("disk-full", "the journal's disk is full", full_disk, given=own_disk, possible=disks),
    Fault(
        "disk-slow",
        f"the journal's disk does {SLOW_IOPS} writes a second",
        slow_disk,
        given=own_disk,
        possible=slow_disks,
    ),
    Fault("clock-jump", "the service's clock jumps forward and back", clock_jump, given=faked_clock, possible=clocks),
    Fault(
        "network-cut", "network to PostgreSQL's namespace cut and healed", cut_network, spotless=True, namespace=True
    ),
):
    register(_fault)
