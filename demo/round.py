"""Once round the loop. The demo sends cells and reviews; everything else happens by itself."""

import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle

from demo import cells, watch
from demo.compare import compare
from demo.outcome import Outcome
from demo.processes import Processes, ProcessFailed
from demo.story import STAGES, Story, probabilities
from demo.traffic import Sender, Sent, Tally, Trickle
from demo.workspace import Workspace
from service.client import Client, HttpClient
from service.contract.ledger import Ledger
from service.contract.store import Store
from training.datasets import SourceCell

REVIEWED_CELLS = 600
TRAIN_S = 2400.0
START_S = 60.0
WINDOW_S = 180.0


def go_round(workspace: Workspace, story: Story) -> Outcome:
    """The whole loop.

    Raises:
        BlastwatchError: a part ended early, or something waited for did not happen.
    """
    store = Store(workspace.store_url)
    ledger = Ledger(workspace.store_url)
    tally = Tally()
    with Processes(
        workspace.environment(), workspace.repo, workspace.logs, workspace.root / "processes.json"
    ) as processes:
        story.step(1, "A first model: dvc repro on the default data")
        before = first_model(workspace, processes, ledger, story)

        story.step(2, "The service and the monitor")
        serve(workspace, processes, story)
        ask_both_ways(workspace, tally, story)

        story.step(3, "A quiet day at the old site, then a stream from a new one with another scanner")
        with Sender(workspace.grpc_target, tally) as sender:
            sender.send(cells.old_site_cells())
            seen_by_monitor(workspace, store, processes)
            story.say("the old site's windows: " + windows_in_words(workspace))
            sent = sender.send(cells.new_site_cells())
        seen_by_monitor(workspace, store, processes)
        story.say("with the new site's: " + windows_in_words(workspace))
        if not watch.pending(workspace.monitor_url):
            raise ProcessFailed("the monitor saw no reason to retrain: " + windows_in_words(workspace))
        story.say("the policy fires; it waits for reviewed cells before it retrains")

        story.step(4, f"Haematologists review {REVIEWED_CELLS} of those cells; the rest is the product's own doing")
        with Trickle(workspace.grpc_target, tally, cycle_cells(), per_second=4) as trickle:
            review(workspace, of_first_patients(sent, REVIEWED_CELLS), story)
            after = retrained(workspace, processes, ledger, before, story)
            swapped(store, processes, after, story)
            time.sleep(2)  # a little traffic on the new model before the trickle ends
        story.say(f"{len(trickle.sent)} cells were answered meanwhile, {len(tally.failures)} requests failed")

        story.step(5, "Both models on patients that neither has seen")
        new_site, old_site = (
            compare(
                workspace.models_dir / before, workspace.models_dir / after, cells.judging_cells(site, seed), seed=seed
            )
            for site, seed in ((cells.NEW_SITE, 201), (cells.OLD_SITE, 202))
        )

        story.step(6, "What happened")
        ledger.verify()
        lost = missing_records(store, tally, processes)
    return Outcome(before, after, new_site, old_site, tally, lost, story.seconds, report_addresses(workspace))


def first_model(workspace: Workspace, processes: Processes, ledger: Ledger, story: Story) -> str:
    """Run the pipeline and return the version that it promoted.

    Raises:
        ProcessFailed: a stage failed, or nothing was promoted.
    """
    pipeline = processes.start("pipeline", ["dvc", "repro"])
    follow_stages(pipeline, processes, story)
    version = ledger.production()
    if pipeline.returncode or version is None:
        raise ProcessFailed(f"the pipeline ended with {pipeline.returncode}; {processes.tail('pipeline')}")
    processes.forget("pipeline")
    story.say(f"in production: {version}")
    return version


def follow_stages(pipeline: "subprocess.Popen[bytes]", processes: Processes, story: Story) -> None:
    """Say each stage as DVC starts it, until the pipeline ends."""
    said = 0
    while True:
        ended = pipeline.poll() is not None
        lines = processes.log("pipeline").read_text(errors="replace").splitlines()
        for line in lines[said:]:
            if line.startswith("Running stage '"):
                stage = line.split("'")[1]
                story.say(f"{stage}: {STAGES.get(stage, 'runs')}")
        said = len(lines)
        if ended:
            return
        time.sleep(0.2)


def serve(workspace: Workspace, processes: Processes, story: Story) -> None:
    """Start both servers and wait until they are ready."""
    processes.start("service", [sys.executable, "-m", "service"])
    processes.start("monitor", [sys.executable, "-m", "monitoring"])
    for name, url in (("service", f"{workspace.http_url}/readyz"), ("monitor", f"{workspace.monitor_url}/healthz")):
        watch.until(f"the {name} to be ready", START_S, lambda url=url: watch.answers(url), check=processes.check)  # type: ignore[misc]
    story.say(f"HTTP {workspace.http_url}, gRPC {workspace.grpc_target}, monitor {workspace.monitor_url}")


def ask_both_ways(workspace: Workspace, tally: Tally, story: Story) -> None:
    """A cell of each class over gRPC and over HTTP."""
    one_each = {cell.label: cell for cell in cells.judging_cells(cells.OLD_SITE, 100)}
    with Client(workspace.grpc_target) as grpc, HttpClient(workspace.http_url) as http:
        for label, cell in sorted(one_each.items()):
            for name, client in (("gRPC", grpc), ("HTTP", http)):
                answer = client.classify(
                    cell.image, patient_id=cell.patient, site=cell.site, pixel_size_um=cell.pixel_size_um
                )
                tally.answered(answer.record_id)
                refer = f"  refer: {', '.join(answer.refer_reasons)}" if answer.refer else ""
                story.say(
                    f"{name}  drawn as {label:7} → {answer.label:7}  {probabilities(answer.probabilities)}{refer}"
                )
    story.say(f"answered by model {answer.model_version}")


def seen_by_monitor(workspace: Workspace, store: Store, processes: Processes) -> None:
    """Wait until the monitor has read everything that is in the store, and judged what that closed."""
    quiet_since: list[int] = []

    def read_up() -> bool:
        quiet_since.append(store.latest_seq())
        settled = len(quiet_since) > 2 and quiet_since[-1] == quiet_since[-3]
        return settled and watch.last_seen(workspace.monitor_url) >= quiet_since[-1]

    watch.until("the monitor to judge the stream", WINDOW_S, read_up, check=processes.check)


def windows_in_words(workspace: Workspace) -> str:
    """'3 drift, 2 ok', from the monitor's own counters."""
    counted = watch.windows(workspace.monitor_url)
    return ", ".join(f"{int(n)} {state}" for state, n in sorted(counted.items()) if n) or "none closed"


def of_first_patients(sent: list[Sent], cells_wanted: int) -> list[Sent]:
    """All cells of as many patients as it takes to have `cells_wanted`: a reader looks at a patient, not at a cell."""
    by_patient: dict[str, list[Sent]] = {}
    for cell, record in sent:
        by_patient.setdefault(cell.patient, []).append((cell, record))
    chosen: list[Sent] = []
    for name in by_patient:
        if len(chosen) >= cells_wanted:
            break
        chosen += by_patient[name]
    return chosen


def review(workspace: Workspace, sent: list[Sent], story: Story) -> None:
    """The reader's label of each cell, as a haematologist would send it."""
    with Client(workspace.grpc_target) as client:
        for n, (cell, record) in enumerate(sent, 1):
            client.review(record, cell.label, role="haematologist")
            story.progress(f"{n} of {len(sent)} cells reviewed")
    story.say(f"{len(sent)} cells of {len({cell.patient for cell, _ in sent})} patients reviewed")


def retrained(workspace: Workspace, processes: Processes, ledger: Ledger, before: str, story: Story) -> str:
    """Wait until the ledger names another model; say each of its rows on the way.

    Raises:
        ProcessFailed: the retraining failed, or the gate refused the candidate.
    """
    said = len(ledger.rows())
    sentences = {
        "trigger_fired": "the trigger fired",
        "retraining_started": "dvc repro runs in a clone of its own, on the old cells and the reviewed ones",
        "gate_passed": "the candidate passed the gate",
        "gate_refused": "the gate refused the candidate",
        "retraining_failed": "the retraining failed",
    }

    def moved() -> str | None:
        nonlocal said
        rows = ledger.rows()
        for row in rows[said:]:
            if row.kind in sentences:
                story.say(sentences[row.kind])
            if row.kind in ("gate_refused", "retraining_failed"):
                raise ProcessFailed(f"{sentences[row.kind]}: {row.body}; see {workspace.root / 'work'}")
        said = len(rows)
        version = ledger.production()
        return version if version != before else None

    return watch.until("the retrained model", TRAIN_S, moved, check=processes.check)


def swapped(store: Store, processes: Processes, version: str, story: Story) -> None:
    """Wait until every worker says that it serves `version`."""

    def all_report() -> bool:
        workers = store.workers(since=time.time() - 5)
        return bool(workers) and set(workers.values()) == {version}

    watch.until("all workers to serve the new model", START_S, all_report, check=processes.check)
    story.say(f"every worker serves {version}")


def missing_records(store: Store, tally: Tally, processes: Processes) -> frozenset[str]:
    """Answered record ids that the store does not have, once the journal has had time to ship."""

    def missing() -> frozenset[str]:
        return frozenset(tally.records - {stored.record.record_id for stored in store.predictions(include_test=True)})

    deadline = time.monotonic() + 20
    while (lost := missing()) and time.monotonic() < deadline:
        processes.check()
        time.sleep(0.5)
    return lost


def cycle_cells() -> Iterator[SourceCell]:
    """The trickle never runs dry."""
    return cycle(cells.trickle_cells())


def report_addresses(workspace: Workspace) -> tuple[tuple[str, str], ...]:
    """Where a person looks next."""
    repo = workspace.repo
    windows = sorted((workspace.root / "reports").rglob("*.html"))
    return (
        ("evaluation plots", str(repo / "reports" / "plots")),
        ("Great Expectations Data Docs", str(repo / "reports" / "data_docs" / "index.html")),
        ("Evidently, last window", str(windows[-1]) if windows else "none was written"),
        ("logs", str(workspace.logs)),
    )
