"""A site to watch: a model with a reference made of patients, and seeded streams of answers by that model."""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.contract.artifact import Artifact, Manifest, Thresholds, read_artifact, write_artifact
from service.contract.records import PredictionRecord, ReviewRecord, record_id, review_id
from service.contract.reference import Reference
from service.contract.statistics import STATISTICS
from tests.support.artifacts import EMBEDDING_SIZE, run_graph, tiny_graph
from tests.support.images import smear

LABELS = ("healthy", "L1", "L2", "L3")
MIX = (0.4, 0.3, 0.2, 0.1)
START = datetime(2026, 1, 5, 8, tzinfo=UTC).timestamp()

Floats = npt.NDArray[np.float64]


def watched_artifact(models: Path, *, seed: int = 0, patients: int = 60, cells: int = 20) -> Artifact:
    """A model in `models` (by version) whose reference is drawn as `stream` draws its cells without a shift."""
    graph = tiny_graph(len(LABELS), size=32, seed=seed)
    pictures = np.stack([smear(seed=number, size=32) for number in range(4)])
    outputs = run_graph(graph, pictures)
    rng = np.random.default_rng(seed)
    label, patient = _labels(rng, patients, cells)
    embedding, statistics, probabilities = _cells(rng, label, patient, 0.0)
    confusion = np.zeros((len(LABELS), len(LABELS)))
    np.add.at(confusion, (label, probabilities.argmax(axis=1)), 1.0)
    manifest = Manifest(
        labels=LABELS,
        malignant=LABELS[1:],
        height=32,
        width=32,
        field_um=20.0,
        scale_known=True,
        embedding_size=EMBEDDING_SIZE,
        thresholds=Thresholds(abstain=0.0, ood=100.0),
    )
    reference = Reference(
        embedding=embedding.astype(np.float32),
        statistics=statistics.astype(np.float32),
        probabilities=probabilities.astype(np.float32),
        label=label,
        site=("site-a",) * len(label),
        patient=patient,
        confusion=confusion,
    )
    with tempfile.TemporaryDirectory() as folder:
        model, warmup = Path(folder, "model.onnx"), Path(folder, "warmup.npz")
        model.write_bytes(graph)
        np.savez(warmup, image=pictures, **outputs)  # type: ignore[arg-type]
        made = write_artifact(
            models / "new",
            model=model,
            warmup=warmup,
            manifest_fields=manifest,
            reference=reference,
            model_card="# A model to watch\n",
        )
    made.path.rename(models / made.version)
    return read_artifact(models / made.version)


def stream(
    version: str,
    *,
    seed: int,
    patients: int = 20,
    cells: int = 10,
    shift: float = 0.0,
    mix: Sequence[float] = MIX,
    site: str = "site-a",
    start: float = START,
    test: bool = False,
) -> list[PredictionRecord]:
    """patients × cells answers, a patient's cells together, one a second from `start` (seconds since the epoch).

    `shift` moves every cell's embedding and image statistics by that many standard deviations between patients.
    """
    rng = np.random.default_rng([seed, 1])
    label, patient = _labels(rng, patients, cells, mix)
    embedding, statistics, probabilities = _cells(rng, label, patient, shift)
    records = []
    for number in range(len(label)):
        request = f"{site}-{seed}-{number}"
        pixels = hashlib.sha256(request.encode()).hexdigest()
        answer = LABELS[int(probabilities[number].argmax())]
        records.append(
            PredictionRecord(
                record_id=record_id("local", request, pixels, version),
                time=datetime.fromtimestamp(start + number, UTC).isoformat(timespec="microseconds"),
                request_id=request,
                model_version=version,
                runtime="test",
                batch_size=1,
                transport="grpc",
                client="local",
                test=test,
                site=site,
                stain="",
                scanner="",
                pixel_size_um=0.15625,
                patient=f"{site}-{seed}-{patient[number]}",
                key_id="test",
                specimen_id="",
                image_sha256=pixels,
                pixels_sha256=pixels,
                label=answer,
                probabilities=dict(zip(LABELS, probabilities[number].tolist(), strict=True)),
                malignant_probability=float(probabilities[number][1:].sum()),
                refer=False,
                refer_reasons=(),
                ood_score=0.0,
                embedding=tuple(embedding[number].astype(np.float32).tolist()),
                statistics=dict(zip(STATISTICS, statistics[number].tolist(), strict=True)),
                latency_ms={"total": 1.0},
                pixels_kept=False,
            )
        )
    return records


def reviews(records: Sequence[PredictionRecord], *, time: str, sampled: bool = True) -> list[ReviewRecord]:
    """Readers who agree with every answer."""
    return [
        ReviewRecord(
            review_id=review_id(record.record_id, "haematologist", record.label, time),
            record_id=record.record_id,
            label=record.label,
            role="haematologist",
            time=time,
            client="local",
            sampled=sampled,
        )
        for record in records
    ]


def with_pixels(records: Sequence[PredictionRecord], names: Sequence[str]) -> list[PredictionRecord]:
    """The same answers, about kept pixels of these names."""
    return [replace(record, pixels_sha256=name, pixels_kept=True) for record, name in zip(records, names, strict=True)]


def _labels(
    rng: np.random.Generator, patients: int, cells: int, mix: Sequence[float] = MIX
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    patient = np.repeat(np.arange(patients), cells)
    return rng.choice(len(mix), size=len(patient), p=np.asarray(mix)).astype(np.int64), patient.astype(np.int64)


def _cells(
    rng: np.random.Generator, label: npt.NDArray[np.int64], patient: npt.NDArray[np.int64], shift: float
) -> tuple[Floats, Floats, Floats]:
    number, people = len(label), int(patient.max()) + 1
    effect = rng.normal(0, 1, (people, EMBEDDING_SIZE))[patient]
    embedding = 3.0 * np.eye(len(LABELS), EMBEDDING_SIZE)[label] + effect + rng.normal(0, 0.5, (number, EMBEDDING_SIZE))
    between = rng.normal(0, 0.05, (people, len(STATISTICS)))[patient]
    statistics = 0.5 + between + rng.normal(0, 0.02, (number, len(STATISTICS)))
    probabilities = np.full((number, len(LABELS)), 0.03)
    answered = np.where(rng.random(number) < 0.9, label, rng.integers(0, len(LABELS), number))
    probabilities[np.arange(number), answered] = 1 - 0.03 * (len(LABELS) - 1)
    return embedding + shift, statistics + 0.05 * shift, probabilities
