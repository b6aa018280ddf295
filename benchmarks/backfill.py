"""How fast an archive is scored by one worker and by two, in how much memory: `python -m benchmarks.backfill`.

    python -m benchmarks.backfill --artifact build/artifact [--cells 100000] [--rounds 2]

The command that a user types, over made-up cells, all different. Rounds of one and of two workers take turns; a rate
is of the time between the first parts and the last, so that Ray's start is not in it. Then all cells by two workers,
whose memory is looked at every few seconds, and one of which is killed on the way. Writes
benchmarks/results/backfill.md.
"""

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq

from service.backfill_parts import CELLS, SHARD
from service.contract.image import encode_png

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "backfill.md"
SIZE = 96
"""Pixels of a made-up picture's side."""
ROUND = 16
"""Shards of a round."""
LOOK_S = 2.0
EFFICIENT = 0.85
KINDS = 40


@dataclass
class Run:
    """A finished backfill: cells a second, and resident megabytes of command and workers at so many cells."""

    rate: float
    memory: list[tuple[int, float]] = field(default_factory=list)
    killed: int = 0


def archive(path: Path, cells: int) -> None:
    """So many different pictures in one Parquet file, a row group a shard."""
    rng = np.random.default_rng(3)
    kinds = [(rng.normal(150, 40, (SIZE // 8, SIZE // 8, 3)).clip(0, 255)).astype(np.uint8) for _ in range(KINDS)]
    large = [kind.repeat(8, axis=0).repeat(8, axis=1) for kind in kinds]
    schema = pa.schema([("image", pa.binary()), ("name", pa.string())])
    with pq.ParquetWriter(path, schema, compression="none") as writer:
        for first in range(0, cells, SHARD):
            rows = []
            for number in range(first, min(first + SHARD, cells)):
                picture = large[number % KINDS].copy()
                # The number, as squares that survive any resampling: every picture is another one.
                for bit in range(20):
                    y, x = divmod(bit, 5)
                    picture[24 + 12 * y : 36 + 12 * y, 20 + 12 * x : 32 + 12 * x] = 255 if number >> bit & 1 else 30
                rows.append({"image": encode_png(picture, level=1), "name": str(number)})
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def run(source: Path, output: Path, artifact: Path, workers: int, *, kill_at: int = 0) -> Run:
    """One command; kill_at: parts at which one of its workers is killed."""
    line = [sys.executable, "-m", "service.backfill", str(source), str(output), "--artifact", str(artifact)]
    line += ["--workers", str(workers), "--pixel-size", "0.2"]
    found = Run(0.0)
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(line, cwd=ROOT, env=alone, stderr=subprocess.DEVNULL) as command:
        watching = threading.Thread(target=watch, args=(command.pid, output, found, kill_at), daemon=True)
        watching.start()
        if command.wait() != 0:
            raise SystemExit(f"the backfill ended with {command.returncode}")
    watching.join(LOOK_S * 3)
    times = sorted(part.stat().st_mtime for part in (output / CELLS).iterdir())
    found.rate = (len(times) - workers) * SHARD / (times[-1] - times[workers - 1])
    return found


def watch(pid: int, output: Path, found: Run, kill_at: int) -> None:
    """Memory over the cells that are done, until the command ends."""
    with contextlib.suppress(psutil.NoSuchProcess):
        command = psutil.Process(pid)
        while command.is_running() and command.status() != psutil.STATUS_ZOMBIE:
            done = len(list((output / CELLS).glob("*.parquet"))) if output.exists() else 0
            workers = list(_workers(command))
            if done and len(workers) == 2:
                found.memory.append((done * SHARD, _megabytes([command, *workers])))
            if kill_at and done >= kill_at and not found.killed and workers:
                os.kill(workers[0].pid, signal.SIGKILL)
                found.killed = workers[0].pid
            time.sleep(LOOK_S)


def _workers(command: psutil.Process) -> Iterator[psutil.Process]:
    for process in command.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "MapWorker" in " ".join(process.cmdline()):
                yield process


def _megabytes(processes: list[psutil.Process]) -> float:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / 1e6


def slope(memory: list[tuple[int, float]]) -> tuple[float, float]:
    """MB for 10 000 cells and its standard error, after the first fifth: caches fill."""
    from scipy import stats

    late = memory[len(memory) // 5 :]
    line = stats.linregress([cells / 1e4 for cells, _ in late], [megabytes for _, megabytes in late])
    return float(line.slope), float(line.stderr)


def counted(output: Path) -> tuple[int, int]:
    """Rows, and different pictures among them."""
    names: list[str] = []
    for path in (output / CELLS).iterdir():
        names += pq.read_table(path, columns=["pixels_sha256"]).column(0).to_pylist()
    return len(names), len(set(names))


def report(rounds: dict[int, list[float]], whole: Run, cells: int, rows: int, different: int) -> str:
    """The page."""
    middle = {workers: statistics.median(rates) for workers, rates in rounds.items()}
    efficiency = middle[2] / (2 * middle[1])
    growth, error = slope(whole.memory)
    flat = abs(growth) <= 2 * error or abs(growth) * cells / 1e4 <= 0.05 * whole.memory[-1][1]
    each = "; ".join(f"{workers}: " + ", ".join(f"{rate:.0f}" for rate in rates) for workers, rates in rounds.items())
    return "\n".join(
        [
            "# An archive scored by one worker and by two\n",
            f"`python -m benchmarks.backfill --cells {cells}`, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, "
            f"ray {version('ray')}, onnxruntime {version('onnxruntime')}. PNG of {SIZE} × {SIZE} pixels from Parquet, "
            f"the default model. Rounds of {ROUND * SHARD} cells take turns, cells a second: {each}.\n",
            "| what | figure | asked for | |",
            "|---|---:|---:|---|",
            f"| one worker, cells a second | {middle[1]:.0f} | | |",
            f"| two workers, cells a second | {middle[2]:.0f} | | |",
            _row("efficiency: two / (2 × one)", f"{efficiency:.2f}", f"≥ {EFFICIENT}", efficiency >= EFFICIENT),
            _row(
                f"memory of command and workers over {cells} cells, MB",
                f"{whole.memory[0][1]:.0f} → {whole.memory[-1][1]:.0f} ({growth:+.2f} ± {error:.2f} for 10 000)",
                "flat",
                flat,
            ),
            _row("cells lost, a worker killed on the way", str(cells - different), "0", cells == different),
            _row("cells twice", str(rows - different), "0", rows == different),
            "",
        ]
    )


def _row(what: str, figure: str, asked: str, met: bool) -> str:
    return f"| {what} | {figure} | {asked} | {'met' if met else '**missed**'} |"


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, default=Path("build/artifact"), help="a model: default %(default)s")
    parser.add_argument("--cells", type=int, default=100_000, help="of the long run: default %(default)s")
    parser.add_argument("--rounds", type=int, default=2, help="of one and of two workers: default %(default)s")
    options = parser.parse_args()
    rounds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(prefix="bw-backfill-") as name:
        folder = Path(name)
        archive(folder / "round.parquet", ROUND * SHARD)
        for number in range(options.rounds):
            for workers in (1, 2):
                found = run(folder / "round.parquet", folder / f"{number}-{workers}", options.artifact, workers)
                rounds[workers].append(found.rate)
                print(f"{workers} workers: {found.rate:.0f} cells/s", flush=True)
        archive(folder / "all.parquet", options.cells)
        whole = run(folder / "all.parquet", folder / "all", options.artifact, 2, kill_at=options.cells // SHARD // 10)
        rows, different = counted(folder / "all")
    RESULT.write_text(report(rounds, whole, options.cells, rows, different))
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
