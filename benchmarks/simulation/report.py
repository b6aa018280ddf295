"""Table and pictures of the simulated hospitals."""

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.simulation.hospital import Population
from benchmarks.simulation.shifts import SHIFTS, SIZES
from benchmarks.simulation.traffic import Rhythm
from service.contract.files import write_atomic

Results = Mapping[tuple[str, ...], dict[str, Any]]
"""(kind, size, seed) → what came of it."""

WITHIN, PEOPLE, WANTED, FALSE_A_YEAR = 1000, 50, 0.95, 1.0
PRIOR = next(name for name in SHIFTS if name.startswith("class prior"))


HEAD = """# What the trigger does, by simulation

`python -m benchmarks.trigger_simulation --years {years} --runs {runs} --evidently-years {theirs}`, {date:%Y-%m-%d},
Python {python}, numpy {numpy}. Default settings of judge and policy; reviews never hold anything back.
"""
RESTS = """
## What it rests on

- Cells, patients and wrong answers are drawn as the artifact's reference shows them: class means, a normal
  patient effect with its covariance, and the reference's own cells around their patients. Each hospital has a
  reference of 34 patients drawn anew, so that chance is in it as it is in a real one.
- Assumed: {rhythm.workday:g} visits on a workday and {rhythm.weekend:g} at a weekend (Poisson), {cells:g} cells
  a visit on average, {rhythm.again:g} further visits of a patient, log-shares of the kinds that wander by
  {rhythm.wander:g} over ten weeks and swing by {rhythm.season:g} over a year. Kinds of patients: {kinds}.
- Covariate shifts are 0.75, 1.5 and 3 patient-level standard deviations long: in the embedding along a random
  direction that patients differ in, by how the means of patients differ along it, and as much in each of the image
  statistics that `benchmarks/simulation/shifts.py` names. A new subtype lies 5 such deviations from a known kind; the
  known kinds lie 14 and more from each other. A fifth of the cells, drawn at random, is reviewed (a twentieth in
  quiet years) unless the table says that every cell is.
- A retraining ends at once and mends nothing, so that what calls for one goes on calling. Another trigger's
  windows start one at most once a day.
- Not simulated: pixels. What a poisoned batch of reviews does is shown with real retrainings
  ([poisoned_reviews.md](poisoned_reviews.md)).

![Years without a change, and the share found](trigger_simulation.png)
"""


def of(results: Results, kind: str, size: str = "") -> list[dict[str, Any]]:
    """Every outcome of one kind, in the order of the seeds."""
    chosen = [(int(words[2]), found) for words, found in results.items() if words[:2] == (kind, size)]
    return [found for _, found in sorted(chosen, key=lambda item: item[0])]


def upper(events: int, years: int) -> float:
    """Upper end of the two-sided 95 % interval of a yearly rate (Garwood 1936)."""
    return float(stats.chi2.ppf(0.975, 2 * events + 2) / 2 / years)


def share(hits: int, runs: int) -> tuple[float, float]:
    """95 % interval of a share (Clopper and Pearson 1934)."""
    low = float(stats.beta.ppf(0.025, hits, runs - hits + 1)) if hits else 0.0
    return low, float(stats.beta.ppf(0.975, hits + 1, runs - hits)) if hits < runs else 1.0


def is_found(outcome: Mapping[str, Any], kind: str) -> bool:
    """The right decision, within the cells that a medium shift may take."""
    found, wanted = outcome["found"], "recalibrate" if kind == PRIOR else "retrain"
    return found is not None and found["kind"] == wanted and (found["cells"] <= WITHIN or kind.startswith("slow"))


def write(path: Path, results: Results, population: Population) -> None:
    """The table, with what it rests on."""
    rhythm, quiet, evidently = Rhythm(), of(results, "quiet"), of(results, "evidently")
    text = HEAD.format(
        years=len(quiet),
        runs=max((len(of(results, kind, size)) for kind in SHIFTS for size in SIZES), default=0),
        theirs=len(evidently),
        date=datetime.now(UTC),
        python=platform.python_version(),
        numpy=np.__version__,
    )
    kinds = ", ".join(f"{one:.0%}" for one in population.kinds)
    rests = RESTS.format(rhythm=rhythm, cells=rhythm.cells + 3, kinds=kinds)
    lines = [text, *_quiet(quiet, evidently), *_shifts(results), rests]
    write_atomic(path, "\n".join(lines))


def _quiet(quiet: list[dict[str, Any]], evidently: list[dict[str, Any]]) -> list[str]:
    years, windows = len(quiet), sum(one["windows"] for one in quiet)
    false, recalibrated = sum(one["retrain"] for one in quiet), sum(one["recalibrate"] for one in quiet)
    causes: dict[str, int] = {}
    for one in quiet:
        for cause in one["causes"]:
            causes[cause] = causes.get(cause, 0) + 1
    ks_runs, ks_flags = sum(one["ks_runs"] for one in quiet), sum(one["ks_flagged"] for one in quiet)
    met = "met" if upper(false, years) <= FALSE_A_YEAR else "**missed**"
    named = ", ".join(f"{cause} {count}" for cause, count in sorted(causes.items())) or "none"
    rate = f"{false / years:.2f} | {upper(false, years):.2f} ({met}: ≤ {FALSE_A_YEAR:g})"
    ks = f"{ks_flags / windows:.0%} | {ks_runs / years:.1f} | {upper(ks_runs, years):.1f}"
    lines = [
        f"## {years} quiet years",
        "",
        "| trigger | years | windows | called drifted | false retrainings a year | upper 95 % bound |",
        "|---|---:|---:|---:|---:|---:|",
        f"| blastwatch | {years} | {windows} | | {rate} |",
        f"| KS a column, Bonferroni | {years} | {windows} | {ks} |",
    ]
    if evidently:
        runs, of_windows = sum(one["runs"] for one in evidently), sum(one["windows"] for one in evidently)
        flags, span = sum(one["flagged"] for one in evidently), len(evidently)
        found = f"{flags / of_windows:.0%} | {runs / span:.1f} | {upper(runs, span):.1f}"
        lines.append(f"| Evidently's DataDriftPreset | {span} | {of_windows} | {found} |")
    return [
        *lines,
        "",
        f"Causes of blastwatch's: {named}. Recalibrations: {recalibrated / years:.2f} a year; the case mix does wander",
        "here, so that not each of them is false.",
        "",
    ]


def _shifts(results: Results) -> list[str]:
    lines = [
        "## Something happens",
        "",
        f"Found: the right decision (`retrain`; for a class prior `recalibrate`) within {WITHIN} cells of the change",
        f"(slow drift: within 75 days). Asked for: {WANTED:.0%} of the medium ones, {WITHIN} cells from at least",
        f"{PEOPLE} patients. `other`: the other of the two decisions, at any time.",
        "",
        "| shift | size | points of balanced accuracy | found (95 % interval) | median cells | patients | other | |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for kind in SHIFTS:
        for size in SIZES:
            every = of(results, kind, size)
            if not every:
                continue
            hits = sum(is_found(one, kind) for one in every)
            low, high = share(hits, len(every))
            right = [one["found"] for one in every if is_found(one, kind)]
            wanted = "recalibrate" if kind == PRIOR else "retrain"
            others = sum(one["found"] is not None and one["found"]["kind"] != wanted for one in every)
            median = [
                f"{np.median([one[name] for one in right]):.0f}" if right else "–" for name in ("cells", "patients")
            ]
            verdict = "" if size != "medium" else ("met" if hits >= WANTED * len(every) else "**missed**")
            points = np.mean([one["points"] for one in every])
            shown = f"{hits / len(every):.0%} ({low:.0%}–{high:.0%}) | {' | '.join(median)} | {others / len(every):.0%}"
            lines.append(f"| {kind} | {size} | {points:.1f} | {shown} | {verdict} |")
    return lines


def draw(path: Path, results: Results) -> None:
    """False retrainings of each year, and the share found by the cells it took."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    quiet = of(results, "quiet")
    bars = {"blastwatch": [one["retrain"] for one in quiet], "KS a column": [one["ks_runs"] for one in quiet]}
    if evidently := of(results, "evidently"):
        bars["Evidently's\nDataDriftPreset"] = [one["runs"] for one in evidently]
    for number, counts in enumerate(bars.values()):
        jitter = np.random.default_rng(0).uniform(-0.25, 0.25, len(counts))
        left.plot(number + jitter, counts, "o", ms=4, alpha=0.5, color=f"C{number}")
        left.text(number + 0.3, float(np.mean(counts)), f"{np.mean(counts):.1f} a year", va="center", fontsize=9)
    left.axhline(FALSE_A_YEAR, color="grey", lw=1, ls="--")
    left.set_yscale("symlog", linthresh=1)
    left.set_ylim(-0.3, None)
    left.set_xlim(-0.5, len(bars))
    left.set_xticks(range(len(bars)), list(bars))
    left.set(title=f"{len(quiet)} quiet years: retrainings started", ylabel="a year (a point each)")
    cells = np.arange(0, 1801, 20)
    for number, kind in enumerate(SHIFTS):
        every = of(results, kind, "medium")
        if not every or kind.startswith("slow"):
            continue
        wanted = "recalibrate" if kind == PRIOR else "retrain"
        at = [one["found"]["cells"] for one in every if one["found"] and one["found"]["kind"] == wanted]
        right.plot(cells, [sum(a <= c for a in at) / len(every) for c in cells], color=f"C{number}", label=kind)
    right.axhline(WANTED, color="grey", lw=1, ls="--")
    right.axvline(WITHIN, color="grey", lw=1, ls="--")
    right.set(title="medium shifts: share found", xlabel="cells since the change", ylim=(0, 1.02), xlim=(0, 1800))
    right.legend(frameon=False, fontsize=8, loc="center right", bbox_to_anchor=(1.0, 0.6))
    figure.savefig(path, dpi=110)
    plt.close(figure)
