"""Stage `package`: the candidate as the artifact that the service loads, its model card, and a Bento."""

import hashlib
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.contract.artifact import Manifest, Reference, Thresholds, write_artifact
from service.contract.errors import CommandParser, run_command
from training import figures
from training.arrays import read_npz
from training.bento import build_bento
from training.figures import Floats
from training.io import read_json, read_params
from training.model_card import FIGURES, model_card
from training.places import ARTIFACT, BENTO
from training.priors import priors_of
from training.requirements import pins_of_extra

Arrays = Mapping[str, npt.NDArray[Any]]


def reference(outputs: Arrays, classes: int, seed: int, priors: Floats | None = None) -> Reference:
    """What monitoring holds production against, from the candidate's outputs on the test cells (test_outputs.npz).

    priors: shares of the labels [C] that the probabilities are for, where those are not the data's.

    Patients become ordinals in a random order and cells are shuffled, so that neither leads back to a patient.
    """
    rng = np.random.default_rng(seed)
    unit, label = outputs["unit"].astype(np.str_), outputs["label"].astype(np.int64)
    probabilities = outputs["probabilities"].astype(np.float32)
    called = probabilities.argmax(axis=1).astype(np.int64)
    names, ordinal = np.unique(unit, return_inverse=True)
    patient = rng.permutation(len(names))[ordinal]
    order = rng.permutation(len(label))
    return Reference(
        embedding=outputs["embedding"][order],
        statistics=outputs["statistics"][order],
        probabilities=probabilities[order],
        label=label[order],
        site=tuple(outputs["site"][order].tolist()),
        patient=patient[order],
        confusion=figures.confusion_matrix(label, called, classes).astype(np.float64),
        **({} if priors is None else {"priors": priors}),
    )


def manifest(
    dataset: Mapping[str, object],
    parameters: Mapping[str, Any],
    calibration: Mapping[str, float],
    evaluation: Mapping[str, object],
    embedding_size: int,
    *,
    dataset_revision: str,
    code_revision: str,
    created: str,
) -> Manifest:
    """The manifest without `files`, from dataset.json, params.yaml, calibration.json and evaluation.json."""
    return Manifest.model_validate(
        {
            "labels": dataset["labels"],
            "malignant": dataset["malignant"],
            "scale_known": dataset["scale_known"],
            **parameters["field"],
            "embedding_size": embedding_size,
            "thresholds": Thresholds(abstain=calibration["abstain"], ood=calibration["ood"]),
            "metrics": {name: evaluation[name] for name in FIGURES if name in evaluation},
            "dataset_revision": dataset_revision,
            "code_revision": code_revision,
            "parameters": parameters,
            "created": created,
        }
    )


def dataset_revision(manifest_file: Path) -> str:
    """DVC's hash of the manifest, which names the hash of every cell: as in dvc.lock."""
    return hashlib.md5(manifest_file.read_bytes(), usedforsecurity=False).hexdigest()


def code_revision(repo: Path = Path()) -> str:
    """The git commit, with `-dirty` when code or parameters differ from it; "" outside git."""

    def git(*arguments: str) -> str | None:
        done = subprocess.run(["git", *arguments], cwd=repo, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if not commit:
        return ""
    changed = git(
        "status", "--porcelain", "--untracked-files=no", "--", "service", "training", "dvc.yaml", "params.yaml"
    )
    return f"{commit}-dirty" if changed else commit


def main(argv: list[str] | None = None) -> int:
    """Write build/artifact and build/bento from what the stages before made."""
    CommandParser(prog="python -m training.package", description=main.__doc__).parse_args(argv)
    parameters, dataset = read_params(), read_json(Path("prepared/dataset.json"))
    evaluation, outputs = read_json(Path("reports/evaluation.json")), read_npz(Path("build/test_outputs.npz"))
    fields = manifest(
        dataset,
        parameters,
        read_json(Path("build/calibration.json")),
        evaluation,
        outputs["embedding"].shape[1],
        dataset_revision=dataset_revision(Path("prepared/manifest.parquet")),
        code_revision=code_revision(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    card = model_card(
        fields,
        evaluation,
        intended_use=parameters["package"]["intended_use"],
        notes=dataset["notes"],
        cells=len(outputs["label"]),
        units=len(np.unique(outputs["unit"])),
        evidence=read_json(Path("reports/evidence.json")),
        shortcuts=read_json(Path("reports/shortcuts.json")),
    )
    artifact = write_artifact(
        ARTIFACT,
        model=Path("build/onnx/model.onnx"),
        warmup=Path("build/onnx/warmup.npz"),
        manifest_fields=fields,
        reference=reference(
            outputs, len(fields.labels), parameters["package"]["seed"], priors_of(parameters, fields.labels)
        ),
        model_card=card,
    )
    lock, project = Path("requirements.lock").read_text(), Path("pyproject.toml").read_text()
    build_bento(artifact, Path("service"), pins_of_extra(lock, project, "service"), BENTO)
    print(f"packaged model {artifact.version}: {ARTIFACT}, {BENTO}")
    return 0


if __name__ == "__main__":
    run_command(main)
