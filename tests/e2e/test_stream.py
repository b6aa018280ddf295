"""The demo's stream without the shift ends with no retraining; with it, the same monitor wants one.

Real service, real monitor, and the model of a middling pipeline run, which tells cells apart well enough.
"""

import sys
from pathlib import Path
from typing import Any

import pytest

from demo import cells, watch
from demo.processes import Processes
from demo.round import seen_by_monitor, serve
from demo.story import Story
from demo.traffic import Sender, Tally
from demo.workspace import Ports, Workspace
from service.contract.ledger import Ledger
from service.contract.store import Store
from tests.service.running import free_ports
from tests.support.pipeline import LABELS, Repository, lenient

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("stream")]


def middling(parameters: dict[str, Any]) -> None:
    """The default network on a fifth of the default cells."""
    parameters["data"]["sources"] = [
        {
            "kind": "synthetic",
            "site": "site-a",
            "seed": 7,
            "patients": {"healthy": 16, "L1": 16, "L2": 16, "L3": 14},
            "cells_per_patient": dict.fromkeys(LABELS, 10),
        }
    ]
    parameters["split"] |= {"test": 0.4}
    parameters["train"] |= {"epochs": 24, "batch": 32, "device": "cpu"}
    parameters["evaluate"] |= {"bootstrap": 50}
    parameters["audit"] |= {"pictures": 12, "bootstrap": 50, "trees": 10}
    parameters["calibrate"] |= {"picture_slack": 1.0}  # few validation patients


def automatic(plan: dict[str, Any]) -> None:
    """As in the demo: the site agreed that passing the gate is enough."""
    lenient(plan)
    plan["approval"] = "automatic"


def rows(workspace: Workspace) -> set[str]:
    return {row.kind for row in Ledger(workspace.store_url).rows()}


def test_the_stream_without_the_shift_ends_with_no_retraining_and_with_it_one_is_due(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "demo", Ports(*free_ports(4)))
    workspace.logs.mkdir(parents=True)
    repository = Repository.copy(workspace.repo, {"params.yaml": middling, "change_plan.yaml": automatic})
    roll = workspace.root / "processes.json"
    with Processes(
        repository.environment() | workspace.environment(), workspace.repo, workspace.logs, roll
    ) as processes:
        pipeline = processes.start("pipeline", [sys.executable, "-m", "dvc", "repro"])
        assert pipeline.wait() == 0, processes.tail("pipeline", 40)
        processes.forget("pipeline")
        serve(workspace, processes, Story())
        store, tally = Store(workspace.store_url), Tally()
        with Sender(workspace.grpc_target, tally) as sender:
            sender.send(cells.new_site_cells(cells.OLD_SITE))
            seen_by_monitor(workspace, store, processes)
            quiet = watch.windows(workspace.monitor_url)
            assert sum(quiet.values()) >= 5, quiet
            assert not watch.pending(workspace.monitor_url), (quiet, watch.findings(workspace.monitor_url))
            assert not rows(workspace) & {"trigger_fired", "retraining_started"}

            sender.send(cells.new_site_cells())
            seen_by_monitor(workspace, store, processes)
        assert watch.pending(workspace.monitor_url), watch.findings(workspace.monitor_url)
        # Nothing was reviewed, so nothing could be learned: due, not started.
        assert "retraining_started" not in rows(workspace)
        assert tally.failures == []
