"""Memory and speed of a large set of pictures: prepare, the map of its pixels, one walk through it in batches.

    OMP_NUM_THREADS=1 python -m benchmarks.data [--cells 2000 10000] [--side 64] [--anonymous] [--json FILE]

Made-up pictures (a stained disc with a texture of its own, JPEG) are drawn while they are read, so that the disk holds
what the pipeline writes and nothing else. Memory is what only this process, or one that it started, has: anonymous
pages (RssAnon of /proc/PID/status), sampled twenty times a second. Pages of a mapped file are the system's to take
back and do not count. Each number of cells runs in a process of its own.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image

from service.contract.image import Field
from training.datasets import SourceCell
from training.decoding import cores
from training.pixel_cache import mapped
from training.prepare import prepare

SIDE = 96
CELLS_PER_PATIENT = 50
BATCH = 64
MIB = 1 << 20


class Discs:
    """`count` different pictures of two labels; with `anonymous` of nobody."""

    name, labels, malignant, scale_known = "discs", ("pale", "dark"), ("dark",), False
    notes: list[str] = []  # noqa: RUF012

    def __init__(self, count: int, *, anonymous: bool) -> None:
        self.count, self.anonymous = count, anonymous
        down, right = np.mgrid[0:SIDE, 0:SIDE] - (SIDE - 1) / 2
        self._radius = np.hypot(down, right)[..., None]

    def cells(self) -> Iterator[SourceCell]:
        """Each depends on its number alone."""
        for number in range(self.count):
            dark = number % 2
            patient = "" if self.anonymous else f"patient-{number // (2 * CELLS_PER_PATIENT)}-{dark}"
            yield SourceCell(
                self._picture(number, dark), self.labels[dark], patient, "nowhere", "", "", 0.0, f"discs/{number}"
            )

    def _picture(self, number: int, dark: int) -> bytes:
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 255, (10, 10, 3), dtype=np.uint8))
        texture = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float32) - 128
        inside = self._radius < rng.uniform(24, 40)
        paper, stain = np.array([225, 215, 220]), np.array([130, 80, 160]) - 20 * dark
        picture = np.where(inside, stain + 0.4 * texture, paper + 0.1 * texture)
        buffer = io.BytesIO()
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        return buffer.getvalue()


class Peak:
    """Most anonymous memory of this process, and of all that it started together, in MiB while inside."""

    def __init__(self) -> None:
        self.own = self.everyone = 0.0
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Peak":
        self._watch.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._watch.join()

    def _sample(self) -> None:
        over = False
        while not over:
            over = self._over.wait(0.05)  # and once at the end
            own = anonymous("self")
            children = Path("/proc/self/task").glob("*/children")
            others = sum(anonymous(child) for tasks in children for child in tasks.read_text().split())
            self.own, self.everyone = max(self.own, own), max(self.everyone, own + others)


def anonymous(process: str) -> float:
    """Anonymous resident memory of a process in MiB; 0 of one that has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
    return 0.0


def measure(count: int, side: int, *, nobody: bool) -> dict[str, object]:
    """Prepare `count` cells in a field of `side` pixels, map their pixels, and walk through them in batches."""
    found: dict[str, object] = {"cells": count, "side": side, "anonymous": nobody, "cores": cores()}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        start = time.perf_counter()
        with Peak() as peak:
            done = prepare(
                [Discs(count, anonymous=nobody)], Discs.labels, Field(side, side, 20.0), folder / "cells",
                workers=cores(), quiet=True,
            )  # fmt: skip
        found["prepare"] = _said(count, time.perf_counter() - start, peak)
        found["units"], found["near_duplicates"] = done.summary["units"], done.summary["near_duplicates"]
        paths = [folder / path for path in done.manifest["path"]]
        start = time.perf_counter()
        with Peak() as peak:
            images = mapped(paths)
        found["decode once"] = _said(count, time.perf_counter() - start, peak)
        order = np.random.default_rng(0).permutation(count)
        start = time.perf_counter()
        with Peak() as peak:
            total = sum(int(images[np.sort(order[k : k + BATCH])].sum()) for k in range(0, count, BATCH))
        found["one epoch of batches"] = _said(count, time.perf_counter() - start, peak)
        found["pixels_mib"], found["sum"] = round(images.nbytes / MIB), total
    return found


def _said(count: int, seconds: float, peak: Peak) -> dict[str, float]:
    return {
        "seconds": round(seconds, 1),
        "images_per_second": round(count / seconds),
        "own_mib": round(peak.own),
        "all_mib": round(peak.everyone),
    }


def main() -> None:
    """Print a line for each number of cells and stage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[2000, 10_000], help="sizes (default: 2000 10000)")
    parser.add_argument("--side", type=int, default=64, help="pixels of the field's side (default: %(default)s)")
    parser.add_argument("--anonymous", action="store_true", help="cells of nobody: near-duplicates are sought wider")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.cells[0], options.side, nobody=options.anonymous)))
        return
    found = []
    for count in options.cells:
        command = [
            sys.executable,
            "-m",
            "benchmarks.data",
            "--here",
            "--cells",
            str(count),
            "--side",
            str(options.side),
        ]
        command += ["--anonymous"] if options.anonymous else []
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        one = json.loads(done.stdout)
        found.append(one)
        for stage in ("prepare", "decode once", "one epoch of batches"):
            said = one[stage]
            print(
                f"{count:>7} cells, {one['pixels_mib']:>5} MiB of pixels, {stage:<20} {said['seconds']:>6} s "
                f"{said['images_per_second']:>6} images/s {said['own_mib']:>4} MiB, {said['all_mib']:>4} with workers"
            )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
