"""Which test of the embedding sees a change of the cells: `python -m benchmarks.covariate_tests`.

Ours (monitoring.drift: patients' means in a linear model with their case mix; monitoring.mmd) beside what is often
proposed: the maximum mean discrepancy (MMD; Gretton et al. 2012) against a reference weighted by the estimated priors,
and a classifier of domains (Lopez-Paz and Oquab 2017); all of them permute patients. Simulated hospitals as in
benchmarks.trigger_simulation; a window and a long view of each. Writes benchmarks/results/covariate_tests.md.
"""

import argparse
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks.simulation.hospital import Floats, Population
from benchmarks.simulation.monitor import Closed, windows
from benchmarks.simulation.shifts import SHIFTS
from benchmarks.simulation.traffic import Changes, Rhythm, visits
from benchmarks.trigger_simulation import CELLS, PATIENTS, reference_of
from monitoring import drift, mmd
from monitoring.judge_settings import JudgeSettings
from monitoring.resampling import ordinals, patient_counts
from monitoring.shift import label_shift
from service.contract.reference import Reference

RESULT = Path(__file__).resolve().parent / "results" / "covariate_tests.md"
LEVEL = 0.05
DAYS = 120
PERMUTATIONS = 199
FOLDS = 3
RIDGE = 1.0
SIZES = {"a window": (200, 10), "a long view": (800, 40)}
"""Cells and patients at least."""
QUIET = ("quiet", "")
PRIOR = ("class prior × 1.5, 3, 6", "medium")
ASKED = (
    QUIET,
    PRIOR,
    ("embedding only", "small"),
    ("embedding only", "medium"),
    ("new stain", "small"),
    ("blur", "small"),
    ("new subtype", "medium"),
    ("new subtype", "large"),
)


@dataclass(frozen=True, eq=False)
class Pooled:
    """n cells of P patients, window and reference together, and what a patient of the reference counts for.

    values [n, E] in standard deviations of a dimension; index [n]; new [P]; weight [P] of a patient who plays a part in
    the reference.
    """

    values: Floats
    index: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    new: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    weight: Floats

    def roles(self, rng: np.random.Generator) -> list[np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
        """Who is new, as it is and in so many random orders."""
        return [self.new, *(rng.permutation(self.new) for _ in range(PERMUTATIONS))]


def pooled(window: Closed, reference: Reference, shares: Floats | None) -> Pooled:
    """The cells of both; without shares (label shift cannot be said) nothing is reweighted."""
    here, patients = ordinals(window.arrays.patient)
    there, others = ordinals(reference.patient)
    values = np.concatenate([window.arrays.embedding, reference.embedding]).astype(np.float64)
    answers = np.concatenate([window.arrays.predicted, reference.probabilities.argmax(axis=1)])
    index, new = np.concatenate([here, there + patients]), np.arange(patients + others) < patients
    weight = np.ones(len(new))
    if shares is not None:
        counts = patient_counts(index, answers, len(new), reference.classes)
        before = counts[~new].sum(axis=0) / counts[~new].sum()
        ratio = np.where(before > 0, shares / np.maximum(before, 1e-12), 0.0)
        weight = np.minimum(counts @ ratio / counts.sum(axis=1), JudgeSettings().max_weight)
    return Pooled(values / reference.embedding.std(axis=0), index, new, weight)


def ours(window: Closed, reference: Reference, rng: np.random.Generator) -> float:
    """p of monitoring.drift's finding of the embedding, before it shares its level with others."""
    settings = JudgeSettings()
    label, shares = label_shift(window.arrays, reference, settings, rng, _names(reference))
    found = drift.covariate(window.arrays, reference, label, shares, settings, rng)
    (embedding,) = (finding for finding in found if finding.name == drift.EMBEDDING)
    return float(embedding.detail["p"]) if embedding.judged else 1.0


def ours_mmd(window: Closed, reference: Reference, rng: np.random.Generator) -> float:
    """p of monitoring.mmd's finding."""
    found = mmd.mmd(window.arrays, reference, JudgeSettings(), rng)
    return float(found.detail["p"]) if found.judged else 1.0


def weighted(window: Closed, reference: Reference, rng: np.random.Generator) -> float:
    """p of the squared MMD of patients' mean embeddings in a Gaussian kernel; its width is the median distance."""
    held = pooled(window, reference, _shares(window, reference, rng))
    squared = (held.values**2).sum(axis=1)
    distance = np.maximum(squared[:, None] + squared[None, :] - 2 * held.values @ held.values.T, 0.0)
    kernel = np.exp(-distance / np.median(distance[distance > 0]))
    member = np.zeros((len(held.new), len(held.index)))
    member[held.index, np.arange(len(held.index))] = 1.0
    member /= member.sum(axis=1, keepdims=True)
    between = member @ kernel @ member.T
    found = []
    for new in held.roles(rng):
        away = np.where(new, 1.0 / new.sum(), 0.0) - np.where(new, 0.0, held.weight) / held.weight[~new].sum()
        found.append(float(away @ between @ away))
    return _p(found)


def classifier(window: Closed, reference: Reference, rng: np.random.Generator) -> float:
    """p of the area under the curve of a ridge classifier of domains, of patients that it has not seen."""
    held = pooled(window, reference, _shares(window, reference, rng))
    values = np.column_stack([held.values, np.ones(len(held.values))])
    found = []
    for new in held.roles(rng):
        side, weight = new[held.index], np.where(new, 1.0, held.weight)[held.index]
        # Both domains count the same, whatever their size.
        weight = weight / np.where(side, weight[side].sum(), weight[~side].sum())
        fold = np.empty(len(new), dtype=np.int64)
        for group in (new, ~new):
            fold[group] = rng.permutation(int(group.sum())) % FOLDS
        score = np.empty(len(values))
        for number in range(FOLDS):
            out = (fold == number)[held.index]
            kept = values[~out] * weight[~out, None]
            gram = kept.T @ values[~out] + RIDGE / len(values) * np.eye(values.shape[1])
            score[out] = values[out] @ np.linalg.solve(gram, kept.T @ np.where(side[~out], 1.0, -1.0))
        found.append(_area(score, side, weight))
    return _p(found)


TESTS: dict[str, Callable[[Closed, Reference, np.random.Generator], float]] = {
    "means": ours,
    "MMD": ours_mmd,
    "MMD, weighted": weighted,
    "domain classifier": classifier,
}


def _shares(window: Closed, reference: Reference, rng: np.random.Generator) -> Floats | None:
    return label_shift(window.arrays, reference, JudgeSettings(), rng, _names(reference))[1]


def _names(reference: Reference) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(reference.classes))


def _p(found: list[float]) -> float:
    """Of the first among all, ties counting as extreme."""
    return float(np.mean(np.array(found) >= found[0] * (1 - 1e-12)))


def _area(score: Floats, side: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], weight: Floats) -> float:
    """Weighted area under the ROC curve; scores have no ties."""
    order = np.argsort(score)
    below = np.cumsum(np.where(side, 0.0, weight)[order])
    part = np.where(side, weight, 0.0)[order]
    return float((below * part).sum() / (below[-1] * part.sum()))


def one(task: tuple[str, str, int], artifact: Path) -> tuple[tuple[str, str], dict[tuple[str, str], float]]:
    """A hospital with this change from its first day: the p of each test in each size of window."""
    kind, size, seed = task
    population = Population(reference_of(artifact))
    rng = np.random.default_rng([seed, *kind.encode(), len(size)])
    reference = population.reference(rng, PATIENTS, CELLS)
    change = Changes() if kind == QUIET[0] else SHIFTS[kind](population, rng, size, 0)
    found = {}
    for name, (cells, patients) in SIZES.items():
        settings = JudgeSettings(min_cells=cells, min_patients=patients, max_window_age_s=1e9)
        window = next(windows(visits(population, rng, DAYS, Rhythm(), change=change), settings))
        for test, judge in TESTS.items():
            found[name, test] = judge(window, reference, np.random.default_rng([seed, len(name)]))
    return (kind, size), found


def report(found: dict[tuple[str, str], list[dict[tuple[str, str], float]]]) -> str:
    """The page."""
    quiet = found[QUIET]
    lines = [
        "# Which test of the embedding sees a change of the cells\n",
        f"`python -m benchmarks.covariate_tests`, {datetime.now(UTC):%Y-%m-%d}. Hospitals as in trigger_simulation.md, "
        f"a reference of {PATIENTS} patients drawn anew for each; {len(quiet)} quiet ones and {len(found[PRIOR])} of "
        "each change. `means` is the test of monitoring.drift, `MMD` that of monitoring.mmd. `MMD, weighted` and the "
        "classifier of domains see the reference reweighted by the estimated priors, and permute patients "
        f"({PERMUTATIONS} orders).\n",
        f"Share of hospitals in which p ≤ the level. The level is the one that {LEVEL:.0%} of the quiet hospitals pass,"
        f" so that the tests compare; beside it what the nominal level of {LEVEL} gives in quiet hospitals, where it "
        f"should be {LEVEL:.0%}. In `class prior` no cell changed: finding it is wrong.",
    ]
    for name, (cells, patients) in SIZES.items():
        lines += [
            f"\n## {name[0].upper()}{name[1:]}: {cells} cells of at least {patients} patients\n",
            "| change | size | " + " | ".join(TESTS) + " |",
            "|---|---|" + "---:|" * len(TESTS),
        ]
        levels = {test: float(np.quantile([one[name, test] for one in quiet], LEVEL)) for test in TESTS}
        for (kind, size), runs in found.items():
            cells_ = []
            for test in TESTS:
                level = LEVEL if (kind, size) == QUIET else levels[test]
                hits = sum(run[name, test] <= level for run in runs)
                low, high = stats.binomtest(hits, len(runs)).proportion_ci(method="wilson")
                cells_.append(f"{hits / len(runs):.0%} ({low:.0%}–{high:.0%})")
            said = "quiet, nominal level" if (kind, size) == QUIET else kind
            lines.append(f"| {said} | {size} | " + " | ".join(cells_) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Simulate, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, default=Path("build/artifact"), help="a model: default %(default)s")
    parser.add_argument("--quiet", type=int, default=400, help="quiet hospitals: default %(default)s")
    parser.add_argument("--runs", type=int, default=100, help="hospitals a change: default %(default)s")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    tasks = [(*what, seed) for what in ASKED for seed in range(options.quiet if what == QUIET else options.runs)]
    found: dict[tuple[str, str], list[dict[tuple[str, str], float]]] = {what: [] for what in ASKED}
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for number, (what, p) in enumerate(pool.imap_unordered(partial(one, artifact=options.artifact), tasks), 1):
            found[what].append(p)
            if number % 50 == 0:
                print(f"{number} of {len(tasks)}", flush=True)
    RESULT.write_text(report(found))
    print(RESULT.read_text())


if __name__ == "__main__":
    # One thread a process: the arrays are small, and there is a process a core.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    main()
