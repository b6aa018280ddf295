"""An hour (or less) at half load: does memory grow, do file descriptors or threads?"""

import math
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.chaos.database import Database
from benchmarks.chaos.drill import everything
from benchmarks.chaos.load import Load
from benchmarks.chaos.pictures import Pictures
from benchmarks.chaos.site import Place, place
from benchmarks.chaos.verdict import Verdict, judge
from benchmarks.load import quantile
from service.contract.errors import BlastwatchError

EVERY_S = 10.0
CAPACITY_S = 10.0
CALLERS = 8
WARM_UP = 0.25
BLOCKS = 12
SMALL_SHARE = 0.02
"""Growth over the run below this share of a process's memory is within noise, whatever its error."""


@dataclass(frozen=True)
class Sample:
    """One look at a process: seconds since the start, MiB resident, open files by what they are, threads by name."""

    at: float
    mib: float
    files: Mapping[str, int]
    threads: Mapping[str, int]


@dataclass(frozen=True)
class Count:
    """Open files or threads: the median of the first and of the last quarter, and the most at any look of them.

    `more` names what there was more of in the median: one that is there for a moment is no growth, one that stays is.
    """

    usual: tuple[float, float]
    most: tuple[int, int]
    more: tuple[str, ...] = ()

    @property
    def steady(self) -> bool:
        """No more at the end than at the beginning, and nothing more of any kind."""
        return self.usual[1] <= self.usual[0] and not self.more

    def __str__(self) -> str:
        return f"{self.usual[0]:g} → {self.usual[1]:g} ({self.most[0]} → {self.most[1]})"


@dataclass(frozen=True)
class Trend:
    """MiB an hour with its standard error, by means of blocks, and what files and threads did."""

    process: str
    mib: float
    slope: float
    error: float
    grown: float
    files: Count
    threads: Count

    @property
    def steady(self) -> bool:
        """Memory's slope within two standard errors of none, or its growth small; files and threads no more."""
        memory = self.slope <= 2 * self.error or self.grown <= SMALL_SHARE * self.mib
        return memory and self.files.steady and self.threads.steady

    @property
    def more(self) -> tuple[str, ...]:
        """What there was more of."""
        return (*self.files.more, *(f"threads named {name}" for name in self.threads.more))


@dataclass(frozen=True)
class Soaked:
    """What a soak gave. Rates in answers a second, latencies in milliseconds."""

    minutes: float
    capacity: float
    rate: float
    p50: float
    p99: float
    requests: int
    failed: int
    verdict: Verdict
    trends: tuple[Trend, ...]
    problems: tuple[str, ...] = field(default=())


def sample(pid: int, at: float) -> Sample:
    """Looks at a process of this machine. Raises OSError when it is gone."""
    folder = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
    resident = int(status["VmRSS"].split()[0]) / 1024
    return Sample(
        at, resident, Counter(map(_kind, (folder / "fd").iterdir())), Counter(map(_name, (folder / "task").iterdir()))
    )


def _name(thread: Path) -> str:
    """As the system knows it; threads of Python have their process's."""
    try:
        return (thread / "comm").read_text().strip()
    except OSError:  # ended meanwhile
        return "ended meanwhile"


def _kind(file: Path) -> str:
    """What a descriptor is: a file's name with its numbers left out, `socket`, `pipe`, `anon_inode`."""
    try:
        target = str(file.readlink())
    except OSError:  # closed meanwhile
        return "closed meanwhile"
    if not target.startswith("/"):
        return target.split(":", 1)[0]
    return re.sub(r"[0-9a-f]*\d[0-9a-f]*", "#", Path(target).name)


def trend(process: str, samples: Sequence[Sample]) -> Trend:
    """The line through the samples after the warm-up.

    Samples that follow each other are alike, so that the error is that of a line through means of blocks.
    """
    last = samples[-1].at
    used = [item for item in samples if item.at >= WARM_UP * last]
    blocks = [block for block in np.array_split(np.arange(len(used)), min(BLOCKS, len(used))) if len(block)]
    at = np.array([np.mean([used[i].at for i in block]) for block in blocks]) / 3600
    mib = np.array([np.mean([used[i].mib for i in block]) for block in blocks])
    away = at - at.mean()
    spread = float((away**2).sum())
    slope = float((away * mib).sum()) / spread if spread else 0.0
    rest = mib - mib.mean() - slope * away
    freedom = len(blocks) - 2
    error = math.sqrt(float((rest**2).sum()) / freedom / spread) if freedom > 0 and spread else math.inf
    quarter = max(1, len(used) // 4)
    first, end = used[:quarter], used[-quarter:]
    return Trend(
        process,
        float(mib.mean()),
        slope,
        error,
        slope * float(at[-1] - at[0]),
        _count([item.files for item in first], [item.files for item in end]),
        _count([item.threads for item in first], [item.threads for item in end]),
    )


def _count(first: Sequence[Mapping[str, int]], end: Sequence[Mapping[str, int]]) -> Count:
    def usual(looks: Sequence[Mapping[str, int]], kind: str) -> float:
        return float(np.median([look.get(kind, 0) for look in looks]))

    kinds = sorted({kind for look in (*first, *end) for kind in look})
    totals = [[sum(look.values()) for look in looks] for looks in (first, end)]
    return Count(
        (float(np.median(totals[0])), float(np.median(totals[1]))),
        (max(totals[0]), max(totals[1])),
        tuple(kind for kind in kinds if usual(end, kind) > usual(first, kind)),
    )


def soak(server: Database, *, seed: int, minutes: float) -> Soaked:
    """Finds what the site can do, then gives it half of that and looks at its processes."""
    pictures = Pictures(seed)
    with place(server) as site:
        capacity = _rate(pictures, site, 0.0, CAPACITY_S)
        callers = CALLERS + CALLERS // 2
        load = Load(
            pictures,
            site.service.grpc,
            site.service.http,
            callers=CALLERS,
            pace_s=callers / (capacity / 2),
            probe=False,
            first=1_000_000,
        )
        try:
            watched = _processes(site)
            samples: dict[str, list[Sample]] = {name: [] for name in watched}
            began = time.monotonic()
            while (at := time.monotonic() - began) < 60 * minutes:
                for name, pid in watched.items():
                    samples[name].append(sample(pid, at))
                time.sleep(max(0.0, EVERY_S - (time.monotonic() - began - at)))
            took = time.monotonic() - began
        finally:
            load.stop()
        book = load.book
        site.service.terminate()
        problems = []
        ledger = site.site.ledger
        try:
            ledger.verify()
        except BlastwatchError as error:
            problems.append(f"the ledger does not verify: {error}")
        finally:
            ledger.close()
        truths = pictures.truths((answer.number for answer in book.said), (site.first,))
        verdict = judge(book.said, everything(site), truths)
        trends = tuple(trend(name, found) for name, found in samples.items())
    problems += verdict.broken
    problems += [f"{item.process} grew{_of(item.more)}" for item in trends if not item.steady]
    if book.failed:
        problems.append(f"{len(book.failed)} calls failed, e.g. {book.failed[0].error}")
    latencies = [1000 * answer.took for answer in book.said]
    return Soaked(
        minutes=took / 60,
        capacity=capacity,
        rate=len(book.said) / took,
        p50=quantile(latencies, 0.5),
        p99=quantile(latencies, 0.99),
        requests=len(book.said) + len(book.failed),
        failed=len(book.failed),
        verdict=verdict,
        trends=trends,
        problems=tuple(problems),
    )


def _of(kinds: Sequence[str]) -> str:
    return f"; more open: {', '.join(kinds)}" if kinds else ""


def _rate(pictures: Pictures, site: Place, pace_s: float, seconds: float) -> float:
    load = Load(pictures, site.service.grpc, site.service.http, callers=CALLERS, pace_s=pace_s, probe=False)
    time.sleep(seconds)
    load.stop()
    return len(load.book.said) / seconds


def _processes(site: Place) -> dict[str, int]:
    workers = {f"worker {number}": pid for number, pid in enumerate(sorted(site.workers()), start=1)}
    monitor = site.monitor.process
    assert monitor is not None  # noqa: S101  (it was started)
    return {"parent": site.service.process.pid, **workers, "monitor": monitor.pid}


def section(found: Soaked) -> str:
    """Markdown for the page, below its heading."""
    lines = [
        "",
        f"`python -m benchmarks.chaos soak --minutes {found.minutes:.0f}`: both workers, the monitor and PostgreSQL at "
        f"{found.rate:.0f} answers a second, paced for half of the {found.capacity:.0f} that {CALLERS + CALLERS // 2} "
        f"callers got before without a pause; median {found.p50:.0f} ms, 99th percentile {found.p99:.0f} ms. "
        f"{found.requests} requests, {found.failed} failed, {len(found.verdict.lost)} lost, "
        f"{len(found.verdict.doubled)} doubled, {len(found.verdict.mixed)} mixed up.",
        "",
        f"A look each {EVERY_S:g} s, the first quarter left out; the slope's standard error is that of a line through "
        f"{BLOCKS} means. Within noise: below two standard errors, or less than {SMALL_SHARE:.0%} in all. Open "
        "files and threads: the median of the first and of the last quarter of what was looked at (the most at one "
        "look).",
        "",
        "| process | MiB | MiB an hour | in all, MiB | files | threads | |",
        "|---|---|---|---|---|---|---|",
    ]
    for item in found.trends:
        lines.append(
            f"| {item.process} | {item.mib:.0f} | {item.slope:+.1f} ± {item.error:.1f} | {item.grown:+.1f} | "
            f"{item.files} | {item.threads} | {'within noise' if item.steady else 'GREW'} |"
        )
    if found.problems:
        lines += ["", *(f"- {problem}" for problem in found.problems)]
    return "\n".join([*lines, ""])
