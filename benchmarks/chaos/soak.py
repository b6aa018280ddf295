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
    """One look at a process: seconds since the start, MiB resident, open files by what they are, threads."""

    at: float
    mib: float
    files: Mapping[str, int]
    threads: int


@dataclass(frozen=True)
class Trend:
    """MiB an hour with its standard error, by means of blocks, and what files and threads did.

    `files` are medians of the first and of the last quarter, `most` the most at any look of them, and `more` names what
    there was more of in the median: a file that is open for a moment is no growth, one that stays open is.
    """

    process: str
    mib: float
    slope: float
    error: float
    grown: float
    files: tuple[float, float]
    most: tuple[int, int]
    more: tuple[str, ...]
    threads: tuple[int, int]

    @property
    def steady(self) -> bool:
        """Memory's slope within two standard errors of none, or its growth small; files and threads no more at the
        end than at the beginning, and nothing more of any kind of file.
        """
        memory = self.slope <= 2 * self.error or self.grown <= SMALL_SHARE * self.mib
        files = self.files[1] <= self.files[0] and not self.more
        return memory and files and self.threads[1] <= self.threads[0]


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
    return Sample(at, resident, Counter(map(_kind, (folder / "fd").iterdir())), int(status["Threads"]))


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

    Samples that follow each other are alike, so that the error is that of a line through means of blocks. Files: the
    median in the first and in the last quarter of what is looked at; threads: the most there.
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
    kinds = sorted({kind for item in (*first, *end) for kind in item.files})
    more = [kind for kind in kinds if _typical(end, kind) > _typical(first, kind)]
    totals = [[sum(item.files.values()) for item in part] for part in (first, end)]
    return Trend(
        process,
        float(mib.mean()),
        slope,
        error,
        slope * float(at[-1] - at[0]),
        (float(np.median(totals[0])), float(np.median(totals[1]))),
        (max(totals[0]), max(totals[1])),
        tuple(more),
        (max(item.threads for item in first), max(item.threads for item in end)),
    )


def _typical(samples: Sequence[Sample], kind: str) -> float:
    return float(np.median([item.files.get(kind, 0) for item in samples]))


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
        "files: the median of the first and of the last quarter of what was looked at (the most at one look); "
        "threads: the most.",
        "",
        "| process | MiB | MiB an hour | in all, MiB | files | threads | |",
        "|---|---|---|---|---|---|---|",
    ]
    for item in found.trends:
        lines.append(
            f"| {item.process} | {item.mib:.0f} | {item.slope:+.1f} ± {item.error:.1f} | {item.grown:+.1f} | "
            f"{item.files[0]:g} → {item.files[1]:g} ({item.most[0]} → {item.most[1]}) | "
            f"{item.threads[0]} → {item.threads[1]} | {'within noise' if item.steady else 'GREW'} |"
        )
    if found.problems:
        lines += ["", *(f"- {problem}" for problem in found.problems)]
    return "\n".join([*lines, ""])
