"""How fast a window is read and judged, beside Evidently: `python -m benchmarks.monitoring`.

Windows of 10³ to 10⁶ answers (64-dimensional embeddings, patients of 100 cells) from SQLite and PostgreSQL, as the
monitor reads and judges them, each in a process of its own on one core; Evidently's `DataDriftPreset` alone on the same
cells, the statistics of ours padded to 84 columns; and how long after an answer is acknowledged a monitor of default
settings shows it. PostgreSQL is a server of the system's package, left out where there is none. Writes
benchmarks/results/monitoring.md and .png.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.monitoring_delay import delays
from benchmarks.monitoring_parts import THREADS
from service.contract.files import write_atomic
from tests.support import postgres

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "monitoring.md"
ROWS = (1_000, 10_000, 100_000, 1_000_000)
LARGEST = ROWS[-1]
SHIFTED_ROWS, SHIFT = 10_000, 1.5
READ_S, JUDGE_S, PEAK_MB, FASTER, SAME, DELAY_S = 30.0, 10.0, 1000.0, 50.0, 1e-6, 5.0


@dataclass
class Run:
    """What was measured; by database and rows, by rows."""

    each: int
    ours: dict[tuple[str, int], list[dict[str, Any]]] = field(default_factory=dict)
    filled: dict[str, float] = field(default_factory=dict)
    evidently: dict[int, dict[str, Any] | str] = field(default_factory=dict)
    shifted: tuple[dict[str, Any], dict[str, Any] | str] | None = None
    delays: list[float] = field(default_factory=list)

    def middle(self, database: str, rows: int, what: str) -> float:
        """The median of the repetitions; NaN without any."""
        found = [one[what] for one in self.ours.get((database, rows), [])]
        return statistics.median(found) if found else float("nan")

    def whole(self, database: str, rows: int) -> float:
        """Seconds to read and to judge."""
        return self.middle(database, rows, "read_s") + self.middle(database, rows, "judge_s")


def part(*arguments: object, limit_s: float | None = None) -> dict[str, Any]:
    """One part of monitoring_parts in a process of its own. Raises TimeoutExpired, CalledProcessError."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.monitoring_parts", *map(str, arguments)]
    environment = os.environ | dict.fromkeys(THREADS, "1") | {"DO_NOT_TRACK": "1"}
    done = subprocess.run(
        command, cwd=ROOT, check=True, env=environment, stdout=subprocess.PIPE, text=True, timeout=limit_s
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def evidently(url: str, rows: int, limit_s: float) -> dict[str, Any] | str:
    """Its figures, or why there are none."""
    try:
        return part("evidently", url, rows, limit_s=limit_s)
    except subprocess.TimeoutExpired:
        return f"stopped after {limit_s:.0f} s"


def measure(run: Run, database: str, url: str, sizes: Sequence[int], repeats: int) -> None:
    """Fill a store and judge windows of it."""
    run.filled[database] = part("fill", url, max(sizes), "--each", run.each)["fill_s"]
    for rows in sizes:
        run.ours[database, rows] = [part("judged", url, rows) for _ in range(repeats)]
        print(database, rows, *(f"{run.middle(database, rows, what):.2f}" for what in ("read_s", "judge_s", "peak_mb")))


def report(run: Run) -> str:
    """The page."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "SQLAlchemy", "psycopg", "evidently"))
    lines = [
        "# A window read and judged, beside Evidently\n",
        f"`python -m benchmarks.monitoring`, {datetime.now(UTC):%Y-%m-%d}, one of {os.cpu_count()} cores of "
        f"{_processor()}, Python {platform.python_version()}, {packages}. Seeded; 64-dimensional embeddings, patients "
        f"of {run.each} cells, a reference of 6000 cells of 60 patients; medians of the repetitions, each in a process "
        "of its own. Reading is what the monitor does: pages from the store, cut by the rule of windows.\n",
        "| store | answers | patients | read, s | judge, s | µs an answer | peak memory, MB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for (database, rows), found in run.ours.items():
        read_s, judge_s = run.middle(database, rows, "read_s"), run.middle(database, rows, "judge_s")
        lines.append(
            f"| {database} | {rows} | {found[0]['patients']} | {read_s:.2f} | {judge_s:.2f} | "
            f"{1e6 * run.whole(database, rows) / rows:.1f} | {run.middle(database, rows, 'peak_mb'):.0f} |"
        )
    lines += ["", *_beside(run), "", *_verdicts(run), "", *_targets(run), ""]
    filled = ", ".join(f"{database} {seconds:.0f} s" for database, seconds in run.filled.items())
    sketch = statistics.median(one["sketch_s"] for found in run.ours.values() for one in found)
    written = max(rows for _, rows in run.ours)
    lines.append(
        f"Writing the answers, {written} of them, as the shipper does: {filled}. The sums over the reference, which a "
        f"sketch made once would save of each window: {1000 * sketch:.1f} ms."
    )
    return "\n".join(lines) + "\n"


def _beside(run: Run) -> Iterator[str]:
    yield "| answers | Evidently alone, s | its memory, MB | / judging | / reading and judging | largest difference |"
    yield "|---:|---:|---:|---:|---:|---:|"
    database = next(iter(run.filled))
    for rows, found in run.evidently.items():
        if isinstance(found, str):
            yield f"| {rows} | {found} | | | | |"
            continue
        judge_s = run.middle(database, rows, "judge_s")
        whole = run.whole(database, rows)
        yield (
            f"| {rows} | {found['evidently_s']:.1f} | {found['peak_mb']:.0f} | {found['evidently_s'] / judge_s:.0f} | "
            f"{found['evidently_s'] / whole:.0f} | {found['largest_difference']:.1g} ({found['method']}) |"
        )
    yield ""
    yield "The difference is that of a column's statistic, Evidently's against scipy's on the cells as we read them."


def _verdicts(run: Run) -> Iterator[str]:
    yield "| window | ours | Evidently: columns that drift |"
    yield "|---|---|---|"
    database = next(iter(run.filled))
    pairs = [(f"quiet, {rows}", run.ours[database, rows][0], found) for rows, found in run.evidently.items()]
    if run.shifted is not None:
        pairs.append((f"{SHIFT} SD of a patient, {SHIFTED_ROWS}", *run.shifted))
    for name, ours, theirs in pairs:
        states: dict[str, list[str]] = {}
        for finding in ours["findings"]:
            states.setdefault(finding["state"], []).append(finding["name"])
        told = "; ".join(f"{state}: {', '.join(names)}" for state, names in states.items())
        count = theirs if isinstance(theirs, str) else f"{theirs['drifted_columns']} of {theirs['columns']}"
        yield f"| {name} | {told} | {count} |"


def _targets(run: Run) -> Iterator[str]:
    yield "| what | figure | asked for | |"
    yield "|---|---:|---:|---|"
    for database in run.filled:
        if (database, LARGEST) in run.ours:
            yield _judged(f"{database}: 10⁶ read, s", run.middle(database, LARGEST, "read_s"), READ_S)
            yield _judged(f"{database}: 10⁶ judged, s", run.middle(database, LARGEST, "judge_s"), JUDGE_S)
            yield _judged(f"{database}: peak memory at 10⁶, MB", run.middle(database, LARGEST, "peak_mb"), PEAK_MB)
            times = [
                sum(run.middle(database, rows, what) for what in ("read_s", "judge_s"))
                for rows in (LARGEST // 10, LARGEST)
            ]
            yield _judged(f"{database}: time at 10⁶ / time at 10⁵", times[1] / times[0], 10.0)
    whole = run.evidently.get(LARGEST)
    if isinstance(whole, dict):
        ratio = whole["evidently_s"] / run.middle(next(iter(run.filled)), LARGEST, "judge_s")
        yield _judged("Evidently / judging, at 10⁶", ratio, FASTER, at_least=True)
    differences = [found["largest_difference"] for found in run.evidently.values() if isinstance(found, dict)]
    if differences:
        yield _judged("largest difference of a statistic", max(differences), SAME)
    if run.delays:
        yield _judged(f"acknowledged to gauge, s, longest of {len(run.delays)}", max(run.delays), DELAY_S)


def _judged(what: str, value: float, asked: float, *, at_least: bool = False) -> str:
    # Judged as measured, not as rounded; no figure at all (NaN) is a miss.
    met = value >= asked if at_least else value <= asked
    return f"| {what} | {value:.3g} | {'≥' if at_least else '≤'} {asked:g} | {'met' if met else '**missed**'} |"


def picture(run: Run, path: Path) -> None:
    """Time over the answers of a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    first = next(iter(run.filled))
    for number, database in enumerate(run.filled):
        rows = [size for name, size in run.ours if name == database]
        read_s = [run.middle(database, size, "read_s") for size in rows]
        axes.loglog(rows, read_s, marker="o", color=f"C{number}", label=f"ours: read from {database}")
    rows = [size for name, size in run.ours if name == first]
    axes.loglog(
        rows, [run.middle(first, size, "judge_s") for size in rows], marker="s", color="C2", label="ours: judge"
    )
    theirs = {size: found["evidently_s"] for size, found in run.evidently.items() if isinstance(found, dict)}
    axes.loglog(list(theirs), list(theirs.values()), marker="^", color="0.5", label="Evidently alone, 84 columns")
    axes.set_xlabel("answers in a window")
    axes.set_ylabel("seconds on one core")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


@contextmanager
def databases(folder: Path, wanted: Sequence[str]) -> Iterator[Mapping[str, str]]:
    """{name: URL of an empty store}; PostgreSQL only where it is installed."""
    with ExitStack() as stack:
        urls = {}
        if "sqlite" in wanted:
            urls["SQLite"] = f"sqlite:///{folder}/sqlite/store.db"
        if "postgresql" in wanted:
            try:
                urls["PostgreSQL"] = stack.enter_context(postgres.running()).url()
            except AssertionError as error:
                print(f"left out: {error}", file=sys.stderr)
        yield urls


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main(argv: list[str] | None = None) -> int:
    """Measure, write, say."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.monitoring",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rows", type=int, nargs="+", default=list(ROWS), help="answers of a window (default: 10³ … 10⁶)"
    )
    parser.add_argument("--databases", nargs="+", choices=("sqlite", "postgresql"), default=["sqlite", "postgresql"])
    parser.add_argument("--each", type=int, default=100, help="cells of a patient (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of reading and judging (default: %(default)s)")
    parser.add_argument(
        "--evidently-rows", type=int, default=LARGEST, help="the largest window that Evidently gets (default: 10⁶)"
    )
    parser.add_argument("--evidently-limit", type=float, default=1800.0, metavar="SECONDS", help="a window")
    parser.add_argument("--answers", type=int, default=40, help="of which the way to the gauge is timed")
    arguments = parser.parse_args(argv)
    run, sizes = Run(arguments.each), sorted(arguments.rows)
    with tempfile.TemporaryDirectory(prefix="blastwatch-monitoring-") as name:
        folder = Path(name)
        with databases(folder, arguments.databases) as urls:
            for database, url in urls.items():
                measure(run, database, url, sizes, arguments.repeats)
            first = next(iter(urls.values()))
            for rows in (rows for rows in sizes if rows <= arguments.evidently_rows):
                run.evidently[rows] = evidently(first, rows, arguments.evidently_limit)
                print("Evidently", rows, run.evidently[rows])
        shifted = f"sqlite:///{folder}/shifted/store.db"
        part("fill", shifted, SHIFTED_ROWS, "--each", run.each, "--shift", SHIFT)
        theirs = evidently(shifted, SHIFTED_ROWS, arguments.evidently_limit)
        run.shifted = (part("judged", shifted, SHIFTED_ROWS), theirs)
        run.delays = delays(folder / "delay", arguments.answers) if arguments.answers else []
    text = report(run)
    write_atomic(RESULT, text)
    picture(run, RESULT.with_suffix(".png"))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
