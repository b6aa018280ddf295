"""The job that a trigger starts: reviewed cells become data, the pipeline runs, a branch and the ledger keep it.

    python -m training.retrain --run ID --repo PATH --work DIR [--priors JSON]

1. A clone of the repository in DIR/ID/repo, on a branch retrain/ID, with the repository's DVC cache. It starts from the
   commit that made the model in production, if a retraining made it and HEAD does not have it, else from HEAD.
2. The test set of that commit is frozen before anything is added, and the new patients' part of it right after.
3. `dvc repro`: train, gate, promote, as far as the change plan lets a program go.
4. The branch goes back into the repository, whose work tree is never touched, and the ledger gets the result.

With --priors nothing is added and nothing trained: `calibrate.priors` in params.yaml becomes the case mix that is
given, and the same gate judges the same network's answers for it.

Exit code: 0 the candidate passed or was refused, 1 the retraining failed, 2 bad input. With --promote, the candidate of
an earlier run is promoted that waited for a person's approval.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from service.contract.artifact import read_artifact
from service.contract.errors import ConfigError, run_command
from service.contract.files import write_atomic
from service.contract.ledger import Ledger
from training.io import read_json, read_params
from training.pixels import PREPARED
from training.places import ARTIFACT, GATE
from training.priors import with_priors
from training.reviewed_sides import said, sides
from training.sources import add_source
from training.workspace import RetrainingFailed, Workspace

REVIEWED = "data/reviewed/cells"
SOURCE = {"kind": "reviewed", "root": REVIEWED}
KEPT = ("params.yaml", f"{REVIEWED}.dvc", "data/reviewed/.gitignore", "dvc.lock", "splits/frozen_test.json")
ATTEMPTS = 2


@dataclass(frozen=True)
class Result:
    """What a retraining that came to its end is on record with.

    gate is passed, or refused with `reasons`; promoted says whether the candidate is in production now, or waits for a
    person; reviewed says how many cells that readers labelled are on which side of the split.
    """

    run: str
    branch: str
    commit: str
    base: str
    gate: str
    reasons: list[str]
    version: str
    promoted: bool
    seconds: float
    priors: dict[str, float] | None = None
    """The case mix that the answers were calibrated for; None: the candidate learned from reviewed cells."""
    reviewed: dict[str, int] = field(default_factory=dict)


def retrain(
    run: str,
    workspace: Workspace,
    ledger: Ledger,
    environment: Mapping[str, str],
    priors: Mapping[str, float] | None = None,
) -> Result:
    """Run the whole job in a workspace that is not there yet: on reviewed cells, or for another case mix.

    Raises RetrainingFailed, and ConfigError for priors that are no shares.
    """
    started = time.monotonic()
    workspace.clone()
    base = workspace.start_branch(base_commit(ledger))
    workspace.share_cache()
    freeze_test_set(workspace)
    if priors is None:
        add_reviewed_cells(workspace, environment)
        workspace.commit(f"Data: cells reviewed until retraining {run}", KEPT)
    else:
        set_priors(workspace, priors)
        workspace.commit(f"Priors: the case mix that recalibration {run} is for", KEPT)
    freeze_test_set(workspace)
    if reviewed := sides(workspace.path / PREPARED):
        print(said(reviewed), flush=True)
    gate = run_pipeline(workspace, ledger)
    commit = workspace.commit(f"Retraining {run}: {gate['decision']}", KEPT)
    workspace.push()
    version = read_artifact(workspace.path / ARTIFACT).version
    return Result(
        run=run,
        branch=workspace.branch,
        commit=commit,
        base=base,
        gate=str(gate["decision"]),
        reasons=[str(reason) for reason in gate.get("reasons", [])],  # type: ignore[attr-defined]
        version=version,
        promoted=ledger.production() == version,
        seconds=round(time.monotonic() - started, 1),
        priors=None if priors is None else dict(priors),
        reviewed=reviewed,
    )


def base_commit(ledger: Ledger) -> str | None:
    """The commit of the retraining that made the model in production; None when no retraining made it."""
    production = ledger.production()
    made = [row.body for row in ledger.rows("retraining_finished") if production and row.version == production]
    return str(made[-1]["commit"]) if made else None


def freeze_test_set(workspace: Workspace) -> None:
    """Store the split's decisions as they are now.

    Before anything is added these are those that the model in production was trained and measured under: new patients
    would change the draw among those that are not decided yet.
    """
    workspace.dvc("repro", "split")
    workspace.python("-m", "training.split", "freeze")


def add_reviewed_cells(workspace: Workspace, environment: Mapping[str, str]) -> None:
    """Export the reviewed cells into the clone, version them with DVC, and name them in params.yaml."""
    params = workspace.path / "params.yaml"
    workspace.python(
        *("-m", "training.datasets.reviewed", "export", "--out", REVIEWED),
        *("--store", environment["BLASTWATCH_STORE_URL"], "--pixels", environment["BLASTWATCH_PIXELS_DIR"]),
        *("--field-um", str(read_params("field", "field_um", path=params))),
    )
    workspace.dvc("add", "--quiet", REVIEWED)
    write_atomic(params, add_source(params.read_text(encoding="utf-8"), SOURCE))


def set_priors(workspace: Workspace, priors: Mapping[str, float]) -> None:
    """Name the case mix in the clone's params.yaml. Raises ConfigError."""
    params = workspace.path / "params.yaml"
    write_atomic(params, with_priors(params.read_text(encoding="utf-8"), priors))


def run_pipeline(workspace: Workspace, ledger: Ledger) -> dict[str, object]:
    """`dvc repro`; → the gate's report. A refusal is a result. Raises RetrainingFailed for anything else that ends it.

    When another model was promoted meanwhile, the candidate is compared once more, with that one.
    """
    path = workspace.path / GATE
    for attempt in range(ATTEMPTS):
        path.unlink(missing_ok=True)  # a report of an earlier run must not be taken for this one's
        before = ledger.production()
        try:
            workspace.dvc("repro")
        except RetrainingFailed:
            gate = _gate(path)
            if gate is None or (gate["decision"] == "passed" and attempt + 1 == ATTEMPTS):
                raise
            if gate["decision"] != "passed":
                return gate
            if ledger.production() == before:
                raise
            continue
        gate = _gate(path)
        if gate is None:
            raise RetrainingFailed(f"the pipeline ended well, but left no {GATE}")
        return gate
    raise AssertionError("unreachable")


def promote_approved(workspace: Workspace, ledger: Ledger) -> str:
    """Run the stage `promote` in the clone that was kept for it; → the version. Raises RetrainingFailed."""
    if not workspace.path.is_dir():
        raise ConfigError(f"{workspace.path} is not there: only a run whose candidate waits for approval keeps it")
    workspace.dvc("repro", "promote")
    version = read_artifact(workspace.path / ARTIFACT).version
    if ledger.production() != version:
        raise RetrainingFailed(
            f"model {version} waits: `python -m service.contract.ledger approve {version} --by ROLE`"
        )
    return version


def _gate(path: Path) -> dict[str, object] | None:
    if not path.is_file():
        return None
    gate = read_json(path)
    if not isinstance(gate, dict) or gate.get("decision") not in ("passed", "refused"):
        raise RetrainingFailed(f"{GATE} has no decision")
    return gate


if __name__ == "__main__":
    from training.retrain_command import main

    run_command(main)
