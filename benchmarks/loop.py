"""How long the loop takes on this machine: `python -m benchmarks.loop [--with-make]`.

Clones the last commit to a temporary folder, so that nothing cached helps, and times `dvc repro` from nothing and with
nothing to do; with `--with-make` also `make test` and `make demo` in this folder. Writes `benchmarks/results/loop.md`.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from service.contract.files import write_atomic

ROOT = Path(__file__).resolve().parent.parent
TARGETS_S = {
    "dvc repro, from nothing": 240,
    "dvc repro, nothing to do": 10,
    "make demo": 780,
    "make test": 720,
}


def timed(command: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> float:
    """Wall seconds of a command that must succeed; its output goes to the terminal."""
    started = time.monotonic()
    subprocess.run(command, cwd=cwd, env=dict(environment), check=True)
    return time.monotonic() - started


def pipeline() -> dict[str, float]:
    """Seconds of `dvc repro` in a fresh clone with a store and a model store of its own."""
    with tempfile.TemporaryDirectory(prefix="blastwatch-loop-") as folder:
        repo = Path(folder, "repo")
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(repo)], check=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("BLASTWATCH_", "BENTOML_", "DVC_"))}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        environment["BENTOML_HOME"] = str(repo / "var" / "bentoml")
        return {
            "dvc repro, from nothing": timed(["dvc", "repro"], repo, environment),
            "dvc repro, nothing to do": timed(["dvc", "repro"], repo, environment),
        }


def table(figures: Mapping[str, float]) -> str:
    """A Markdown table with the machine and the date."""
    lines = [
        "# The loop, timed",
        "",
        f"`python -m benchmarks.loop`, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}.",
        "",
        "| what | seconds | asked for |",
        "|---|---|---|",
        *(f"| {what} | {seconds:.0f} | ≤ {TARGETS_S[what]} |" for what, seconds in figures.items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, write, say; 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop", description=__doc__)
    parser.add_argument("--with-make", action="store_true", help="also time make test and make demo, in this folder")
    arguments = parser.parse_args()
    figures = pipeline()
    if arguments.with_make:
        for target in ("demo", "test"):
            figures[f"make {target}"] = timed(["make", target], ROOT, os.environ)
    text = table(figures)
    write_atomic(ROOT / "benchmarks" / "results" / "loop.md", text)
    print(text)
    return int(any(seconds > TARGETS_S[what] for what, seconds in figures.items()))


if __name__ == "__main__":
    sys.exit(main())
