"""What the gate does with readers' labels that are wrong: `python -m benchmarks.poisoned_reviews [--cache DIR]`.

A first model is trained and serves; 600 cells of 60 new patients of its own site are answered. Then the same store is
given to several readers, one after the other: one who is right, and others who are wrong in a way that has a name
below. Each gets the retraining of the product (`python -m training.retrain`: clone, export, split, train, gate), with
automatic approval, so that nobody but the gate stands between a candidate and production. Production and every
candidate are then compared on 512 cells of patients that nobody has read, with their true labels, which the gate never
sees.

Writes `benchmarks/results/poisoned_reviews.md`. Takes about five minutes a reader on two cores; `--cache` names a DVC
cache that has the first model already.
"""

import argparse
import json
import platform
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from demo import cells, watch
from demo.compare import Comparison, compare
from demo.processes import Processes
from demo.round import first_model
from demo.story import Story
from demo.traffic import Sender, Sent, Tally
from demo.workspace import Ports, Workspace, lay
from service.contract.errors import ConfigError, run_command
from service.contract.files import write_atomic
from service.contract.ledger import Ledger
from service.contract.records import ReviewRecord, utc_now
from service.contract.store import Store
from training.datasets import SourceCell, synthetic
from training.places import ARTIFACT

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "benchmarks" / "results" / "poisoned_reviews.md"
PORTS = Ports(http=13700, grpc=13701, health=13702, monitor=13703)
PATIENTS = {"healthy": 16, "L1": 24, "L2": 12, "L3": 8}
CELLS = 10
BLASTS = ("L1", "L2", "L3")
LABELS = ("healthy", *BLASTS)

Reader = Callable[[SourceCell, random.Random], str]
"""(cell, chance) → the label that is sent for it."""


def right(cell: SourceCell, _: random.Random) -> str:
    """As drawn."""
    return cell.label


def at_random(share: float) -> Reader:
    """This share of the cells gets one of the other labels."""

    def read(cell: SourceCell, chance: random.Random) -> str:
        others = [label for label in LABELS if label != cell.label]
        return chance.choice(others) if chance.random() < share else cell.label

    return read


def misses_blasts(cell: SourceCell, _: random.Random) -> str:
    """Every blast is called healthy: the mistake that costs most."""
    return "healthy"


def sides_swapped(cell: SourceCell, _: random.Random) -> str:
    """Blasts are healthy, healthy cells are L1: an export with two columns mixed up."""
    return "L1" if cell.label == "healthy" else "healthy"


READERS: dict[str, Reader] = {
    "is right": right,
    "errs in a tenth of the cells": at_random(0.1),
    "errs in a quarter": at_random(0.25),
    "errs in half": at_random(0.5),
    "calls every blast healthy": misses_blasts,
    "has healthy and blast swapped": sides_swapped,
}


@dataclass(frozen=True)
class Outcome:
    """One reader's batch, what the gate decided and why, and the two models on unseen patients with true labels."""

    reader: str
    wrong: int
    read: int
    sides: dict[str, int]
    gate: str
    reasons: tuple[str, ...]
    seen: Comparison

    @property
    def harmful(self) -> bool:
        """The candidate is worse than production on unseen patients, by the interval."""
        return self.seen.interval[1] < 0


def answered(workspace: Workspace, source: Path | None, story: Story) -> list[Sent]:
    """Train the first model, serve it, and have it answer the batch; → its cells and their record ids."""
    if source is not None:
        subprocess.run(
            [Path(sys.executable).parent / "dvc", "cache", "dir", "--local", str(source)],
            cwd=workspace.repo,
            check=True,
        )
    tally = Tally()
    with Processes(
        workspace.environment(), workspace.repo, workspace.logs, workspace.root / "processes.json"
    ) as processes:
        first_model(workspace, processes, Ledger(workspace.store_url), story)
        processes.start("service", [sys.executable, "-m", "service"])
        watch.until("the service", 60, lambda: watch.answers(f"{workspace.http_url}/readyz"), check=processes.check)
        batch = synthetic.stream(cells.OLD_SITE, seed=301, patients=PATIENTS, cells_per_patient=CELLS, prefix="batch")
        with Sender(workspace.grpc_target, tally) as sender:
            sent = sender.send(batch)
    if tally.failures:
        raise ConfigError(f"the service failed: {tally.failures[0]}")
    return sent


def retrained(workspace: Workspace, name: str, read: Reader, sent: Sequence[Sent], seed: int) -> Outcome:
    """A copy of the store gets this reader's labels; the product's retraining runs on it."""
    run = "".join(letter if letter.isalnum() else "-" for letter in name)
    copy = workspace.root / f"{run}.db"
    shutil.copyfile(workspace.root / "store.db", copy)
    url, chance = f"sqlite:///{copy}", random.Random(seed)
    labels = [read(cell, chance) for cell, _ in sent]
    store, ledger = Store(url), Ledger(url)
    store.insert_reviews(
        ReviewRecord(f"{run}-{k}", record, label, "haematologist", utc_now(), "", False)
        for k, ((_, record), label) in enumerate(zip(sent, labels, strict=True))
    )
    before, work = ledger.production(), workspace.root / "work"
    command = [sys.executable, "-m", "training.retrain", "--run", run, "--repo", str(workspace.repo)]
    done = subprocess.run(
        [*command, "--work", str(work), "--keep-work"],
        cwd=workspace.repo,
        env=workspace.environment() | {"BLASTWATCH_STORE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    rows = ledger.rows("retraining_finished")
    if done.returncode or not rows or before is None:
        raise ConfigError(f"the retraining for the reader who {name} failed: {done.stderr[-800:]}")
    result = rows[-1].body
    clone = work / run / "repo"
    seen = compare(workspace.models_dir / before, clone / ARTIFACT, cells.judging_cells(cells.OLD_SITE, 302), seed=seed)
    wrong = sum(label != cell.label for (cell, _), label in zip(sent, labels, strict=True))
    reasons = tuple(str(reason) for reason in result["reasons"])
    ledger.close()
    store.close()
    shutil.rmtree(clone)
    return Outcome(name, wrong, len(sent), dict(result["reviewed"]), str(result["gate"]), reasons, seen)


def page(outcomes: Sequence[Outcome], seed: int) -> str:
    """Markdown: the table, what it shows, and what it does not."""
    lines = [
        "# Reviews that are wrong, and the gate",
        "",
        f"`python -m benchmarks.poisoned_reviews --seed {seed}`, {datetime.now(UTC):%Y-%m-%d}, "
        f"Python {platform.python_version()}. {outcomes[0].read} cells of {sum(PATIENTS.values())} new patients of the "
        "model's own site, read by one reader; `python -m training.retrain` with automatic approval. The gain: "
        f"balanced accuracy of the candidate less production's on {outcomes[0].seen.cells} cells of "
        f"{outcomes[0].seen.patients} patients that nobody read, by their true labels, with its 95 % interval "
        "over patients.",
        "",
        "| the reader | wrong labels | train / validate / test | production → candidate, points gained | gate |",
        "|---|---:|---:|---:|---|",
    ]
    for item in outcomes:
        low, high = (100 * end for end in item.seen.interval)
        sides = " / ".join(str(item.sides.get(side, 0)) for side in ("train", "validation", "test"))
        lines.append(
            f"| {item.reader} | {item.wrong} | {sides} | {100 * item.seen.before:.1f} → {100 * item.seen.after:.1f}: "
            f"{100 * item.seen.gain:+.1f} ({low:+.1f} to {high:+.1f}) | {item.gate} |"
        )
    lines += ["", "Why the gate refused:", ""]
    for item in outcomes:
        if item.reasons:
            more = f" (and {len(item.reasons) - 3} more)" if len(item.reasons) > 3 else ""
            lines.append(f"- *{item.reader}*: {'; '.join(item.reasons[:3])}{more}")
    worse = [item for item in outcomes if item.seen.gain < 0]
    refused = sum(item.gate == "refused" for item in worse)
    through = [item.reader for item in outcomes if item.harmful and item.gate == "passed"]
    lines += [
        "",
        f"Candidates that got fewer of these cells right than production, by balanced accuracy: {len(worse)}, of which "
        f"{refused} refused. "
        + (
            f"**Worse by the interval and let through: {', '.join(through)}.**"
            if through
            else "None that was let through is worse by the interval."
        ),
        "",
        "What this does not show: wrong labels for cells of a site that the test set does not know. There the frozen "
        "test patients say only what the old sites lose, and double reading is what stands before it "
        "(docs/operations.md).",
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 1 when a candidate that is worse by the interval came through, or the right reader's was refused."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.poisoned_reviews", description=__doc__.split("\n\n")[0])
    parser.add_argument("--cache", type=Path, metavar="DIR", help="a DVC cache to take finished stages from")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the wrong labels (default: %(default)s)")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS), metavar="NAME")
    arguments = parser.parse_args(argv)
    story, outcomes = Story(), []
    with tempfile.TemporaryDirectory(prefix="blastwatch-poisoned-") as folder:
        workspace = Workspace(Path(folder, "site"), PORTS)
        lay(workspace, ROOT)
        sent = answered(workspace, arguments.cache and arguments.cache.resolve(), story)
        for name in arguments.readers:
            outcomes.append(retrained(workspace, name, READERS[name], sent, arguments.seed))
            last = outcomes[-1]
            story.say(json.dumps({"reader": name, "gate": last.gate, "gain": last.seen.gain, "why": last.reasons}))
    write_atomic(PAGE, page(outcomes, arguments.seed))
    print(f"written: {PAGE}")
    wrongly = [item for item in outcomes if item.harmful and item.gate == "passed"]
    return 1 if wrongly or any(item.wrong == 0 and item.gate != "passed" for item in outcomes) else 0


if __name__ == "__main__":
    run_command(main)
