"""Stage `promote`: put a candidate that passed the gate in production, as far as the change plan lets a program do it.

The only stage with effects outside the pipeline: it imports the artifact into the BentoML model store and appends
ledger rows. Each step is done only where it is not done yet, so that it can be run again after an end at any point.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from service.contract.artifact import MODEL, Artifact, FolderModelStore, read_artifact
from service.contract.errors import CommandParser, ConfigError, Conflict, LedgerError, NotFound, run_command
from service.contract.ledger import Ledger, fence_of
from service.contract.shared_models import SharedModelStore
from training.change_plan import ChangePlan, load_plan
from training.io import read_json
from training.places import ARTIFACT, CHAMPION, GATE, MODEL_NAME, bentoml_home, models_url, store_url

AUTOMATIC = "change plan (automatic)"


@dataclass(frozen=True)
class Candidate:
    """What the pipeline made, what the gate said of it, and what it was compared with."""

    artifact: Artifact
    gate: Mapping[str, object]
    """reports/gate.json"""
    champion: str | None
    """The version that was in production when the gate ran."""


def promote(candidate: Candidate, plan: ChangePlan, ledger: Ledger, keep: Callable[[Artifact], None]) -> str:
    """Take the candidate as far towards production as gate, change plan and ledger allow; `keep` stores its artifact.

    Returns:
        What happened, for the person who reads the log.

    Raises:
        ConfigError: the gate's report is about another candidate or champion.
        LedgerError: the gate refused; the message lists every reason.
        Conflict: the model in production is not the one that the candidate was compared with.
        ArtifactError: the model store has damaged files under this version.
    """
    version = candidate.artifact.version
    _check_gate(candidate)
    reasons = _reasons(candidate.gate)
    if ledger.production() == version:
        keep(candidate.artifact)
        return f"model {version} is in production already" + _warning(reasons)
    if not ledger.is_registered(version):
        _register(candidate.artifact, ledger)
    _record_gate(candidate, reasons, ledger)
    if reasons:
        raise LedgerError(f"the gate refused model {version}: {'; '.join(reasons)}. Production is unchanged")
    _check_champion(candidate, ledger)
    keep(candidate.artifact)
    if not _approved(version, plan, ledger):
        return (
            f"model {version} passed the gate and waits for a person's approval{_by(plan)}. To give it:\n"
            f"  python -m service.contract.ledger approve {version} --by ROLE\n  dvc repro promote"
        )
    ledger.promote(version, candidate.champion)
    return f"model {version} is in production" + (f", in place of {candidate.champion}" if candidate.champion else "")


def keep(artifact: Artifact, home: Path, url: str) -> None:
    """Import the artifact into this host's model store, and put it where hosts share models if there is such a place.

    Before the ledger names a model every host can have it. Raises ArtifactError, StoreUnavailable.
    """
    import_model(artifact, home)
    if url:
        SharedModelStore(home / "models" / MODEL_NAME, url).share(artifact.version)


def import_model(artifact: Artifact, home: Path) -> None:
    """Import the artifact into BentoML's model store below `home`, named by its version, unless it is there already.

    Raises:
        ArtifactError: something else is there under this version.
    """
    store = FolderModelStore(home / "models" / MODEL_NAME)
    with contextlib.suppress(NotFound):
        read_artifact(store.path(artifact.version), expect_version=artifact.version)
        return
    # BentoML reads its home folder when it is imported, which takes seconds that a no-op should not pay.
    os.environ["BENTOML_HOME"] = str(home)
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")
    import bentoml

    manifest = artifact.manifest
    labels = {"dataset_revision": manifest.dataset_revision, "code_revision": manifest.code_revision}
    with bentoml.models.create(f"{MODEL_NAME}:{artifact.version}", labels=labels) as model:
        shutil.copytree(artifact.path, model.path, dirs_exist_ok=True)
    read_artifact(store.path(artifact.version), expect_version=artifact.version)


def _check_gate(candidate: Candidate) -> None:
    judged, packaged = candidate.gate.get("candidate"), candidate.artifact.manifest.files[MODEL]
    if judged != packaged:
        raise ConfigError(f"the gate judged {judged}, but {packaged} was packaged: run `dvc repro`")
    if candidate.gate.get("champion") != candidate.champion:
        raise ConfigError(f"{GATE} and {CHAMPION} name different models in production: run `dvc repro`")


def _reasons(gate: Mapping[str, object]) -> list[str]:
    """Why the gate refused; empty when it passed. An unknown decision is a refusal."""
    if gate.get("decision") == "passed":
        return []
    reasons = gate.get("reasons")
    return [str(reason) for reason in reasons] if isinstance(reasons, list) and reasons else ["no reason given"]


def _warning(reasons: list[str]) -> str:
    return f", but the gate would refuse it now: {'; '.join(reasons)}" if reasons else ""


def _register(artifact: Artifact, ledger: Ledger) -> None:
    manifest = artifact.manifest
    ledger.append(
        "registered",
        version=artifact.version,
        model_sha256=manifest.files[MODEL],
        dataset_revision=manifest.dataset_revision,
        code_revision=manifest.code_revision,
        created=manifest.created,
    )


def _record_gate(candidate: Candidate, reasons: list[str], ledger: Ledger) -> None:
    kind = "gate_refused" if reasons else "gate_passed"
    body = {"version": candidate.artifact.version, "champion": candidate.champion, "reasons": reasons}
    if body not in [row.body for row in ledger.rows(kind)]:
        ledger.append(kind, **body)


def _check_champion(candidate: Candidate, ledger: Ledger) -> None:
    production = ledger.production()
    if production != candidate.champion:
        raise Conflict(
            f"production is {production or 'empty'}, but model {candidate.artifact.version} was compared with "
            f"{candidate.champion or 'no model'}: run `dvc repro` to compare it with what is in production now"
        )


def _approved(version: str, plan: ChangePlan, ledger: Ledger) -> bool:
    """Whether the approval that the change plan asks for is there; an automatic one is given here.

    A rollback was a person's decision: only a person takes it back, whatever the plan says. Where the plan asks for a
    person, an automatic approval of earlier days is none.
    """
    rows = [row for row in ledger.rows() if row.version == version and row.kind in ("approved", "rolled_back")]
    since_rollback = takewhile(lambda row: row.kind == "approved", reversed(rows))
    given = {str(row.body["by"]) for row in since_rollback}
    if any(role != AUTOMATIC and (not plan.approvers or role in plan.approvers) for role in given):
        return True
    if plan.approval == "person" or ledger.needs_approval(version):
        return False
    if AUTOMATIC in given:
        return True
    ledger.approve(version, by=AUTOMATIC)
    return True


def _by(plan: ChangePlan) -> str:
    return f", as {' or '.join(plan.approvers)}" if plan.approvers else ""


def main(argv: list[str] | None = None) -> int:
    """Promote build/artifact if reports/gate.json and change_plan.yaml allow it; does nothing twice."""
    parser = CommandParser(prog="python -m training.promote", description=main.__doc__)
    parser.add_argument("--candidate", action="store_true", help="only print the version of build/artifact")
    if parser.parse_args(argv).candidate:
        print(read_artifact(ARTIFACT).version)
        return 0
    if experiment := os.environ.get("DVC_EXP_NAME"):
        print(f"an experiment promotes nothing: `dvc exp apply {experiment}`, then `dvc repro`")
        return 0
    champion = read_json(CHAMPION).get("version")
    candidate = Candidate(read_artifact(ARTIFACT), read_json(GATE), None if champion is None else str(champion))
    home = bentoml_home()
    ledger = Ledger(store_url()).fenced(fence_of(os.environ))
    print(promote(candidate, load_plan(), ledger, lambda artifact: keep(artifact, home, models_url())))
    return 0


if __name__ == "__main__":
    run_command(main)
