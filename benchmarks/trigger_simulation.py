"""How often the trigger calls for a retraining when nothing has changed, and how soon when something has.

    python -m benchmarks.trigger_simulation --artifact build/artifact [--years 100] [--runs 100] [--evidently-years 1]

Hospitals are simulated as numbers (benchmarks/simulation): cells and patients as the artifact's reference shows them, a
reference drawn anew for each of them, the monitor's own windows, judge and policy at their defaults. Beside it, on
the same windows, a Kolmogorov–Smirnov test a column and Evidently's DataDriftPreset. Seeded; what is done is
kept in --cache, so that an interrupted run goes on. Writes benchmarks/results/trigger_simulation.md and .png.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.simulation import peers
from benchmarks.simulation.hospital import Population
from benchmarks.simulation.monitor import watch, windows
from benchmarks.simulation.report import draw, write
from benchmarks.simulation.shifts import EVERY_READ, SHIFTS, Onset
from benchmarks.simulation.traffic import DAY, Rhythm, visits
from monitoring.judge_settings import JudgeSettings
from service.contract.artifact import read_artifact
from service.contract.files import sha256_file, write_atomic
from service.contract.reference import Reference

RESULT = Path(__file__).parent / "results" / "trigger_simulation.md"
PATIENTS, CELLS = 34, 26
"""Of a hospital's reference: as many as the default data set's test split has."""
YEAR = 364
QUIET_DAYS, AFTER_DAYS, SLOW_DAYS = 10, 24, 75
REVIEWED = 0.2
"""Share of the cells that somebody reads, drawn at random; of a quiet year a twentieth."""


@dataclass(frozen=True)
class Plan:
    """One piece of work: a quiet year, or a hospital to which something happens."""

    kind: str
    size: str
    seed: int

    @property
    def name(self) -> str:
        """Of its file in the cache."""
        return "-".join("".join(c if c.isalnum() else " " for c in text).replace(" ", "") for text in self.words)

    @property
    def words(self) -> tuple[str, ...]:
        """What names it."""
        return (self.kind, self.size, str(self.seed))


def reference_of(artifact: Path) -> Reference:
    """The artifact's. Raises ArtifactError."""
    return read_artifact(artifact).reference()


def run(plan: Plan, artifact: Path) -> dict[str, Any]:
    """Simulate it."""
    population = Population(reference_of(artifact))
    rng = np.random.default_rng([plan.seed, len(plan.kind), *plan.kind.encode()])
    reference = population.reference(rng, PATIENTS, CELLS)
    if plan.kind in ("quiet", "evidently"):
        return quiet(plan, population, reference, rng)
    return shifted(plan, population, reference, rng)


def quiet(plan: Plan, population: Population, reference: Reference, rng: np.random.Generator) -> dict[str, Any]:
    """A year in which nothing happens but patients: what each trigger would have started."""
    days = visits(population, rng, YEAR, Rhythm())
    if plan.kind == "evidently":
        cut = list(windows(days, JudgeSettings()))
        flags = [peers.evidently(window, reference) for window in cut]
        return {"windows": len(cut), "flagged": sum(flags), "runs": runs_of(zip(cut, flags, strict=True))}
    steps = list(watch(days, reference, seed=plan.seed, reviewed_share=REVIEWED / 4))
    kinds = [step.decision.kind for step in steps]
    by_ks = [(step.window, peers.ks(step.window, reference)) for step in steps]
    return {
        "windows": len(steps),
        "cells": sum(len(step.window.label) for step in steps),
        "retrain": kinds.count("retrain"),
        "recalibrate": kinds.count("recalibrate"),
        "page": kinds.count("page"),
        "causes": [cause for step in steps if step.decision.kind == "retrain" for cause in step.decision.causes],
        "ks_flagged": sum(flag for _, flag in by_ks),
        "ks_runs": runs_of(by_ks),
    }


def runs_of(flags: Iterable[tuple[Any, bool]]) -> int:
    """Retrainings that single windows would start, with the same cooldown of a day between two of them."""
    count, last = 0, -np.inf
    for window, flag in flags:
        if flag and window.at >= last + DAY:
            count, last = count + 1, window.at
    return count


def shifted(plan: Plan, population: Population, reference: Reference, rng: np.random.Generator) -> dict[str, Any]:
    """Quiet days, then the change: after how many cells and patients of it the first decision came, and which."""
    onset = SHIFTS[plan.kind](population, rng, plan.size, QUIET_DAYS)
    days = QUIET_DAYS + (SLOW_DAYS if onset.ramp else AFTER_DAYS)
    people: set[int] = set()
    found, cells = None, 0
    stream = visits(population, rng, days, Rhythm(), change=onset)
    read = 1.0 if plan.kind == EVERY_READ else REVIEWED
    for step in watch(stream, reference, seed=plan.seed, reviewed_share=read):
        after = step.window.time >= QUIET_DAYS * DAY
        cells += int(after.sum())
        people |= set(step.window.person[after].tolist())
        kind = step.decision.kind
        if after.any() and kind in ("retrain", "recalibrate"):
            found = {
                "kind": kind,
                "causes": list(step.decision.causes),
                "cells": cells,
                "patients": len(people),
                "days": step.window.at / DAY - QUIET_DAYS,
            }
            break
    return {"found": found, **cost(population, onset, rng)}


def cost(population: Population, onset: Onset, rng: np.random.Generator) -> dict[str, float]:
    """What the full change costs in balanced accuracy, in points, on a large sample."""
    patients = population.patients(rng, 800)
    figures = []
    for change in (None, onset.on(10**6)[0]):
        cells = population.draw(rng, patients, 10, change)
        right = cells.probabilities.argmax(axis=1) == cells.label
        figures.append(np.mean([right[cells.label == k].mean() for k in np.unique(cells.label)]))
    return {"points": round(100 * float(figures[0] - figures[1]), 2)}


def plans(years: int, runs: int, evidently_years: int) -> list[Plan]:
    """All of it, what is asked for first first."""
    found = [Plan("quiet", "", seed) for seed in range(years)]
    found += [
        Plan(kind, size, seed) for size in ("medium", "large", "small") for kind in SHIFTS for seed in range(runs)
    ]
    return [*found, *(Plan("evidently", "", seed) for seed in range(evidently_years))]


def done(plan: Plan, artifact: Path, cache: Path) -> tuple[Plan, dict[str, Any]]:
    """From the cache, or simulated and put there."""
    path = cache / f"{plan.name}.json"
    if path.is_file():
        return plan, json.loads(path.read_text())
    found = run(plan, artifact)
    write_atomic(path, json.dumps(found))
    return plan, found


def simulate(
    todo: list[Plan], artifact: Path, cache: Path, processes: int, say: Callable[[str], None] = print
) -> dict[Plan, dict[str, Any]]:
    """Everything, on so many processes."""
    cache.mkdir(parents=True, exist_ok=True)
    results: dict[Plan, dict[str, Any]] = {}
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for plan, found in pool.imap_unordered(partial(done, artifact=artifact, cache=cache), todo, chunksize=4):
            results[plan] = found
            if len(results) % 100 == 0:
                say(f"{len(results)} of {len(todo)} after {time.monotonic() - started:.0f} s")
    return results


def main() -> None:
    """Simulate what is missing, and write table and pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, default=Path("build/artifact"), help="a model: default %(default)s")
    parser.add_argument("--years", type=int, default=100, help="quiet years: default %(default)s")
    parser.add_argument("--runs", type=int, default=100, help="hospitals a shift and size: default %(default)s")
    parser.add_argument("--evidently-years", type=int, default=1, help="of DataDriftPreset, which is slow: %(default)s")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cache", type=Path, default=Path("var/benchmarks/trigger_simulation"))
    options = parser.parse_args()
    # Another model, or another code of the judge, is another simulation.
    reference = options.artifact / "reference" / "reference.npz"
    code = [*Path("monitoring").glob("*.py"), *Path("benchmarks/simulation").glob("*.py")]
    key = "".join(sha256_file(path) for path in (reference, *sorted(code)))
    cache = options.cache / hashlib.sha256(key.encode()).hexdigest()[:16]
    todo = plans(options.years, options.runs, options.evidently_years)
    results = simulate(todo, options.artifact, cache, options.processes)
    outcomes = {plan.words: found for plan, found in results.items()}
    write(RESULT, outcomes, Population(reference_of(options.artifact)))
    draw(RESULT.with_suffix(".png"), outcomes)
    print(RESULT.read_text())


if __name__ == "__main__":
    # One thread a process: the arrays are small, and there is a process a core.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    main()
