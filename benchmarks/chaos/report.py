"""The page: one table, a row a fault."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime

from benchmarks.chaos.drill import Outcome
from benchmarks.chaos.verdict import IN_A_ROW, RECOVERY_S

SOAK = "\n## Soak\n"
HOW = (
    "How: the full and the slow disk are an ext4 of its own on a loop device, filled to the last byte as fast as room "
    "appears, or limited by a cgroup; the clock is libfaketime's, for the service alone and for the time of day alone "
    "(it makes every look at the clock slow, so that row has fewer requests); the network is a wire between two "
    "network namespaces whose far end goes down. In the two rows about retraining the trigger, its lease, the ledger, "
    "DVC and the object store are real and the training is a stand-in that trains nothing. In the row of two services "
    "clients have both addresses."
)


def page(outcomes: Sequence[Outcome], *, seed: int, seconds: float, took_s: float) -> str:
    """Markdown, without the soak's section."""
    broken = [outcome for outcome in outcomes if outcome.problems]
    skipped = [outcome for outcome in outcomes if outcome.skipped]
    lines = [
        "# Faults",
        "",
        f"`python -m benchmarks.chaos --seed {seed} --seconds {seconds:g}`, {datetime.now(UTC):%Y-%m-%d}, "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {took_s:.0f} s in all.",
        "",
        "Each row is a site of its own: two service workers, the monitor, PostgreSQL and an S3 server (moto), all "
        "processes, with a tiny model. Four callers over gRPC and two over HTTP use the project's client as it comes "
        "(5 attempts, 30 s); each request has a picture that no other has, and its right answer is computed apart from "
        "the service. Besides them a probe asks on a new connection each time and never twice: `probe` says how many "
        "of its calls failed, that is what a client without retries feels.",
        "",
        "`lost`: answered, and not on record. `doubled`: twice on record for one model. `mixed`: the answer or its "
        "record has another picture's hashes, label or probability. "
        f"`answers`: seconds from the fault's end to the first of {IN_A_ROW} probes in a row at normal latency. "
        "`records`: seconds from the fault's end until the store has every answer that was out by then. "
        f"Both must be at most {RECOVERY_S:g} s. After each the service is stopped (exit status 0, an empty journal) "
        "and the ledger verified.",
        "",
        HOW,
        "",
        "| fault | requests | failed | probe | lost | doubled | mixed | answers, s | records, s | |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_row(outcome) for outcome in outcomes),
        "",
    ]
    if broken:
        lines += [f"**{len(broken)} of {len(outcomes)} broke a promise.**", ""]
        lines += [f"- {outcome.fault}: {problem}" for outcome in broken for problem in outcome.problems] + [""]
    else:
        lines += [f"No promise broke in {len(outcomes) - len(skipped)} faults.", ""]
    notes = [f"- {outcome.fault}: {'; '.join(outcome.notes)}." for outcome in outcomes if outcome.notes]
    if notes:
        lines += ["What else was seen:", "", *notes, ""]
    return "\n".join(lines)


def _row(outcome: Outcome) -> str:
    if outcome.skipped:
        return f"| {outcome.what} | | | | | | | | | skipped: {outcome.skipped} |"
    verdict = outcome.verdict
    cells = [
        outcome.what,
        str(outcome.requests),
        str(outcome.failed),
        str(outcome.probe_failed),
        str(len(verdict.lost)),
        str(len(verdict.doubled)),
        str(len(verdict.mixed)),
        _seconds(outcome.answers_s),
        _seconds(outcome.records_s),
        "BROKEN" if outcome.problems else "held",
    ]
    return f"| {' | '.join(cells)} |"


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f}"


def with_soak(text: str, section: str) -> str:
    """The page with another section about the soak."""
    return text.partition(SOAK)[0] + SOAK + section


def with_soak_of(text: str, before: str) -> str:
    """A new page with the soak's section of the page before, if it had one."""
    kept = before.partition(SOAK)[2]
    return text + (SOAK + kept if kept else "")
