"""The artifact's parts from the pipeline's outputs, the requirements of the Bento, and a Bento that really serves."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from packaging.requirements import Requirement

from service.client import Client
from service.contract.artifact import Artifact
from service.contract.errors import BlastwatchError, ConfigError
from service.contract.image import Field, decode
from service.contract.predictor import Predictor
from tests.support.artifacts import tiny_artifact
from tests.support.images import png
from training.bento import build_bento
from training.model_card import model_card
from training.package import code_revision, dataset_revision, manifest, reference
from training.requirements import canonical, parse_lock, pins_of_extra, roots

REPO = Path(__file__).parents[2]
LOCK, PROJECT = (REPO / "requirements.lock").read_text(), (REPO / "pyproject.toml").read_text()
N, CLASSES = 40, 4


@pytest.fixture(scope="module")
def outputs() -> dict[str, npt.NDArray[np.generic]]:
    """What evaluate leaves of 40 test cells of 8 patients."""
    rng = np.random.default_rng(3)
    label = np.arange(N) % CLASSES
    probabilities = rng.dirichlet(np.ones(CLASSES), N).astype(np.float32)
    return {
        "unit": np.array([f"pseudonym-{i % 8}" for i in range(N)]),
        "site": np.array(["site-a", "site-b"])[np.arange(N) % 2],
        "label": label,
        "probabilities": probabilities,
        "embedding": np.arange(N * 3, dtype=np.float32).reshape(N, 3),
        "ood_score": np.ones(N, np.float32),
        "statistics": np.ones((N, 5), np.float32) * np.arange(N, dtype=np.float32)[:, None],
    }


def test_the_reference_keeps_rows_together_and_counts_true_against_called(
    outputs: dict[str, npt.NDArray[np.generic]],
) -> None:
    made = reference(outputs, CLASSES, seed=5)
    row = made.embedding[:, 0].astype(int) // 3  # the row it came from
    assert sorted(row.tolist()) == list(range(N))
    np.testing.assert_array_equal(made.probabilities, outputs["probabilities"][row])
    np.testing.assert_array_equal(made.label, outputs["label"][row])
    np.testing.assert_array_equal(made.statistics, outputs["statistics"][row])
    assert list(made.site) == outputs["site"][row].tolist()
    expected = np.zeros((CLASSES, CLASSES))
    for true, called in zip(outputs["label"], np.argmax(outputs["probabilities"], axis=1), strict=True):
        expected[true, called] += 1
    np.testing.assert_array_equal(made.confusion, expected)


def test_patients_of_the_reference_are_ordinals_in_an_order_that_names_do_not_give(
    outputs: dict[str, npt.NDArray[np.generic]],
) -> None:
    made = reference(outputs, CLASSES, seed=5)
    units = outputs["unit"][made.embedding[:, 0].astype(int) // 3]
    pairs = set(zip(units.tolist(), made.patient.tolist(), strict=True))
    assert len(pairs) == 8
    assert {ordinal for _, ordinal in pairs} == set(range(8))
    assert [ordinal for _, ordinal in sorted(pairs)] != list(range(8))
    again = reference(outputs, CLASSES, seed=5)
    np.testing.assert_array_equal(made.patient, again.patient)
    assert not np.array_equal(made.patient, reference(outputs, CLASSES, seed=6).patient)


EVALUATION: dict[str, object] = {
    "sensitivity": 0.95,
    "specificity": None,
    "balanced_accuracy": 0.9,
    "not_applicable": {"specificity": "no healthy cells"},
    "intervals": {"sensitivity": [0.9, 0.99], "specificity": None},
    "per_class": {"healthy": {"recall": 0.91, "cells": 20}, "L1": {"recall": 0.92, "cells": 20}},
    "per_site": {"site-a": {"balanced_accuracy": 0.9, "cells": 40}},
}
DATASET: dict[str, object] = {"labels": ["healthy", "L1"], "malignant": ["L1"], "scale_known": True}
FIELD = {"height": 32, "width": 32, "field_um": 20.0}


def test_the_manifest_says_what_the_stages_before_found_and_the_card_shows_it() -> None:
    made = manifest(
        DATASET,
        {"field": FIELD, "train": {"epochs": 3}},
        {"temperature": 1.1, "abstain": 0.6, "ood": 12.5},
        EVALUATION,
        24,
        dataset_revision="d" * 32,
        code_revision="c" * 40,
        created="2026-01-01T00:00:00+00:00",
    )
    assert (made.labels, made.malignant, made.field.pixel_size_um) == (("healthy", "L1"), ("L1",), 0.625)
    assert (made.thresholds.abstain, made.thresholds.ood, made.embedding_size) == (0.6, 12.5, 24)
    assert made.metrics["sensitivity"] == 0.95
    assert made.files == {}
    card = model_card(made, EVALUATION, intended_use="Decision support.", notes=["12 cells dropped"], cells=40, units=8)
    for shown in (
        "Decision support.",
        "L1 (malignant)",
        "0.950 | 0.900 – 0.990",
        "not applicable: no healthy cells",
        "40 unseen cells of 8 patients",
        "12 cells dropped",
        "| L1 | 0.920 | 20 |",
        "c" * 40,
        "d" * 32,
    ):
        assert shown in card


def test_a_reduced_decoding_goes_into_the_manifest_and_onto_the_card() -> None:
    made = manifest(
        DATASET,
        {"field": {**FIELD, "reduced": True}},
        {"temperature": 1.1, "abstain": 0.6, "ood": 12.5},
        EVALUATION,
        24,
        dataset_revision="",
        code_revision="",
        created="",
    )
    assert made.field == Field(32, 32, 20.0, reduced=True)
    card = model_card(made, EVALUATION, intended_use="x", notes=[], cells=40, units=8)
    assert "decoded at 1/2, 1/4 or 1/8" in card


def test_a_crop_goes_into_the_manifest_and_onto_the_card() -> None:
    made = manifest(
        {**DATASET, "scale_known": False},
        {"field": {**FIELD, "crop": 0.75}},
        {"temperature": 1.1, "abstain": 0.6, "ood": 12.5},
        EVALUATION,
        24,
        dataset_revision="",
        code_revision="",
        created="",
    )
    assert made.field == Field(32, 32, 20.0, 0.75)
    card = model_card(made, EVALUATION, intended_use="x", notes=[], cells=40, units=8)
    assert "no known scale; of a picture without a scale the central 75%" in card


def test_what_only_informs_does_not_change_the_version(tmp_path: Path) -> None:
    one = tiny_artifact(tmp_path / "one")
    assert one.manifest.created
    assert tiny_artifact(tmp_path / "two").version == one.version


def test_the_data_revision_is_dvcs_hash_of_the_manifest(tmp_path: Path) -> None:
    file = tmp_path / "manifest.parquet"
    file.write_bytes(b"hello")
    assert dataset_revision(file) == "5d41402abc4b2a76b9719d911017c592"


def git(repo: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    done = subprocess.run(["git", *identity, *arguments], cwd=repo, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_code_revision_is_the_commit_and_says_when_code_differs_from_it(tmp_path: Path) -> None:
    assert code_revision(tmp_path) == ""
    git(tmp_path, "init", "-q")
    (tmp_path / "training").mkdir()
    code, other = tmp_path / "training" / "x.py", tmp_path / "dvc.lock"
    for file in (code, other):
        file.write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert code_revision(tmp_path) == commit
    other.write_text("2")
    assert code_revision(tmp_path) == commit
    code.write_text("2")
    assert code_revision(tmp_path) == f"{commit}-dirty"


def test_the_bento_needs_no_training_or_monitoring_package() -> None:
    names = {canonical(line.split("==")[0]) for line in pins_of_extra(LOCK, PROJECT, "service")}
    assert {"bentoml", "grpcio", "onnxruntime", "numpy", "pillow", "sqlalchemy", "pydantic-settings"} <= names
    assert not names & {"torch", "dvc", "evidently", "great-expectations", "scikit-learn", "pandas", "onnx", "pytest"}


def test_the_bentos_pins_are_complete_by_what_the_installed_packages_ask_for() -> None:
    """Held against the packages' own metadata, which the `# via` notes of the lock come from."""
    names = {canonical(line.split("==")[0]) for line in pins_of_extra(LOCK, PROJECT, "service")}
    pinned = set(parse_lock(LOCK)[0])
    for name in names:
        for text in requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted = canonical(requirement.name)
                assert wanted in names or wanted not in pinned, f"{name} asks for {requirement.name}"


def test_a_lock_that_lacks_something_is_refused() -> None:
    assert "bentoml" in roots(PROJECT, "service")
    with pytest.raises(ConfigError, match="bentoml"):
        pins_of_extra(LOCK.replace("bentoml==", "bentofml=="), PROJECT, "service")
    with pytest.raises(ConfigError, match="extra"):
        pins_of_extra(LOCK, PROJECT, "servce")
    with pytest.raises(ConfigError, match="line 1"):
        parse_lock("bentoml>=1\n")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Path]:
    """A real Bento with a tiny model in it, built below a hidden folder, which BentoML itself would refuse."""
    root = tmp_path_factory.mktemp("packed") / ".hidden"
    artifact = tiny_artifact(root / "artifact")
    build_bento(artifact, REPO / "service", pins_of_extra(LOCK, PROJECT, "service"), root / "build" / "bento")
    return artifact, root / "build" / "bento"


def test_a_bento_holds_service_seed_and_pins_and_nothing_else_is_left(packed: tuple[Artifact, Path]) -> None:
    artifact, bento = packed
    assert (bento / "bento.yaml").is_file()
    assert (bento / "src" / "service" / "bento.py").is_file()
    assert (bento / "src" / "seed" / "serve" / "model.onnx").read_bytes() == artifact.read("serve/model.onnx")
    assert not (bento / "src" / "training").exists()
    assert not list(bento.rglob("__pycache__"))
    pins = (bento / "env" / "python" / "requirements.txt").read_text()
    assert "onnxruntime==" in pins and "torch" not in pins
    assert [path.name for path in bento.parent.iterdir()] == ["bento"]


def test_a_build_that_fails_says_why_and_leaves_what_was_there(packed: tuple[Artifact, Path], tmp_path: Path) -> None:
    broken = tmp_path / "service"
    broken.mkdir()
    (broken / "__init__.py").write_text("")
    (broken / "bento.py").write_text("raise RuntimeError('broken on purpose')")
    (tmp_path / "bento").mkdir()
    (tmp_path / "bento" / "old").write_text("old")
    with pytest.raises(ConfigError, match="broken on purpose"):
        build_bento(packed[0], broken, [], tmp_path / "bento")
    assert (tmp_path / "bento" / "old").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bento", "service"]


@contextlib.contextmanager
def served(bento: Path, state: Path) -> Iterator[str]:
    """`bentoml serve` of a Bento with an empty store; its gRPC address."""
    sockets = [socket.socket() for _ in range(3)]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    http, grpc, health = (str(free.getsockname()[1]) for free in sockets)
    for free in sockets:
        free.close()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("BLASTWATCH_", "BENTOML_", "PYTHONPATH"))}
    environment |= {
        "BENTOML_HOME": str(state / "home"),
        "BENTOML_DO_NOT_TRACK": "true",
        "BLASTWATCH_HTTP_PORT": http,
        "BLASTWATCH_GRPC_PORT": grpc,
        "BLASTWATCH_HEALTH_PORT": health,
    }
    state.mkdir()
    with (state / "log").open("w") as log:
        command = [sys.executable, "-m", "bentoml", "serve", str(bento), "--host", "127.0.0.1", "--port", http]
        process = subprocess.Popen(command, cwd=state, env=environment, stdout=log, stderr=log)
        try:
            yield f"127.0.0.1:{grpc}"
        finally:
            process.terminate()
            process.wait(30)


def test_a_bento_answers_over_grpc_with_the_model_it_was_built_with(
    packed: tuple[Artifact, Path], tmp_path: Path
) -> None:
    artifact, bento = packed
    image = png(seed=4, size=32)
    deadline = time.monotonic() + 60
    with served(bento, tmp_path / "state") as target, Client(target) as client:
        while True:
            try:
                answer = client.classify(image, pixel_size_um=20 / 32)
                break
            except BlastwatchError:
                assert time.monotonic() < deadline, (tmp_path / "state" / "log").read_text()[-3000:]
                time.sleep(0.2)
    assert answer.model_version == artifact.version
    expected = Predictor(artifact).predict(decode(image)[None]).probabilities[0]
    found = [answer.probabilities[label] for label in artifact.manifest.labels]
    np.testing.assert_allclose(found, expected, atol=1e-6)
