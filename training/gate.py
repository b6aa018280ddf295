"""Stage `gate`: hold the candidate against the change plan and the model in production.

A refusal is an answer, not a failure: the stage ends with 0 and `promote` acts on the decision.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from service.contract.artifact import read_artifact
from service.contract.errors import CommandParser, NotFound, run_command
from service.contract.files import sha256_file
from service.contract.image import Pixels
from service.contract.predictor import Predictor
from service.contract.shared_models import model_store
from training.arrays import read_npz
from training.change_plan import load_plan
from training.evidence import Evidence, Outcome
from training.gate_checks import CHECKS, Check
from training.io import read_json, read_params, read_parquet, write_json
from training.pixels import PREPARED, cells, load_pixels
from training.places import CHAMPION, GATE, models_dir, models_url
from training.priors import priors_of
from training.served import serve

Floats = npt.NDArray[np.float32]

BATCH = 64


def judge(evidence: Evidence, checks: Sequence[Check] = CHECKS) -> list[Outcome]:
    """Every outcome of every check, in their order."""
    return [outcome for check in checks for outcome in check(evidence)]


def report(outcomes: Sequence[Outcome], *, candidate: str, champion: str | None) -> dict[str, object]:
    """The content of reports/gate.json: passed only if no check refused."""
    reasons = [f"{outcome.name}: {outcome.reason}" for outcome in outcomes if outcome.state == "refused"]
    return {
        "decision": "refused" if reasons else "passed",
        "candidate": candidate,
        "champion": champion,
        "checks": [asdict(outcome) for outcome in outcomes],
        "reasons": reasons,
    }


def rescore(
    champion: Predictor, pixels: Pixels, labels: Sequence[str], field: Mapping[str, object]
) -> tuple[Floats | None, str]:
    """Probabilities [n, C] of the champion for the test cells uint8 [n, H, W, 3], in the order of `labels`.

    Returns:
        None and the reason where the champion answers another question than the candidate: other labels or field.
    """
    manifest = champion.manifest
    if set(manifest.labels) != set(labels):
        return None, f"the model in production answers {', '.join(manifest.labels)}: absolute floors only"
    theirs = asdict(manifest.field)
    if theirs != {"crop": 1.0, "reduced": False, **field}:
        return None, f"the model in production sees another field ({theirs}): absolute floors only"
    batches = [champion.predict(pixels[i : i + BATCH]).probabilities for i in range(0, len(pixels), BATCH)]
    order = [manifest.labels.index(label) for label in labels]
    return np.concatenate(batches)[:, order], ""


def load_champion(version: str, root: Path) -> Predictor:
    """The model in production, verified.

    Raises:
        NotFound: the ledger names it, but the model store does not have it.
        ArtifactError: it is damaged.
    """
    try:
        path = model_store(root, models_url()).path(version)
    except NotFound:
        raise NotFound(
            f"the ledger has model {version} in production, but {root} does not: point BLASTWATCH_MODELS_DIR (or "
            "BENTOML_HOME) at the model store that has it, or roll back"
        ) from None
    return Predictor(read_artifact(path, expect_version=version))


def cells_of_splits(prepared: Path, labels: tuple[str, ...]) -> pd.DataFrame:
    """Every cell: split, unit, member, patient, near-duplicates, and the stored picture's hash, from the file itself.

    Raises:
        ConfigError: the split is of another manifest.
    """
    manifest, split = (read_parquet(prepared / f"{name}.parquet") for name in ("manifest", "split"))
    table = cells(manifest, split, labels).table
    known = [name for name in ("near", "member") if name in table]
    table = table[["path", "split", "unit", "patient", *known]]
    hashes = {path: sha256_file(prepared / path) for path in table["path"].unique()}
    return table.assign(picture=table["path"].map(hashes))


def main(argv: list[str] | None = None) -> int:
    """Judge build/onnx/model.onnx and write reports/gate.json; a refusal is a decision, not an error."""
    CommandParser(prog="python -m training.gate", description=main.__doc__).parse_args(argv)
    parameters, dataset = read_params(), read_json(PREPARED / "dataset.json")
    outputs = read_npz(Path("build/test_outputs.npz"))
    labels = tuple(dataset["labels"])
    version = read_json(CHAMPION)["version"]
    pixels, model = load_pixels([PREPARED / path for path in outputs["path"]]), Path("build/onnx/model.onnx")
    served = serve(model, pixels)
    probabilities, why = None, "no model is in production yet: absolute floors only"
    champion_priors = None
    if version is not None:
        champion = load_champion(version, models_dir())
        probabilities, why = rescore(champion, pixels, labels, parameters["field"])
        if probabilities is not None:
            champion_priors = priors_of(champion.manifest.parameters, labels)
    stored, chosen = (frozenset(read_json(Path(at, "frozen_test.json"))["units"]) for at in ("splits", "prepared"))
    evidence = Evidence(
        plan=load_plan(),
        parameters=parameters,
        labels=labels,
        malignant=tuple(dataset["malignant"]),
        cells=cells_of_splits(PREPARED, labels),
        frozen=stored | chosen,
        stored=stored,
        label=outputs["label"],
        unit=outputs["unit"],
        slices={kind: outputs[kind] for kind in ("site", "stain", "scanner")},
        candidate=served.probabilities,
        ood_score=served.ood_score,
        row_checks_exact=served.row_checks_exact,
        trained=outputs["probabilities"],
        thresholds=read_json(Path("build/calibration.json")),
        champion=probabilities,
        no_champion=why,
        shortcut=outputs["shortcut"],
        export=read_json(Path("reports/export.json")),
        model_sha256=sha256_file(model),
        draws=parameters["gate"]["bootstrap"],
        seed=parameters["gate"]["seed"],
        priors=priors_of(parameters, labels),
        champion_priors=champion_priors,
    )
    outcomes = judge(evidence)
    result = report(outcomes, candidate=evidence.model_sha256, champion=version)
    write_json(GATE, result)
    for outcome in outcomes:
        print(f"{outcome.state:<14}  {outcome.name}" + (f": {outcome.reason}" if outcome.reason else ""))
    print(f"the gate: {result['decision']}")
    return 0


if __name__ == "__main__":
    run_command(main)
