"""Records that are complete and plausible, one line each in a test."""

from typing import Any

from service.contract.records import PredictionRecord, ReviewRecord, record_id, review_id


def prediction(number: int = 0, **changes: Any) -> PredictionRecord:
    """A record of request `number`; its id follows from client, request id, pixels and model unless given."""
    values: dict[str, Any] = {
        "time": f"2026-01-01T00:00:00.{number % 1_000_000:06d}+00:00",
        "request_id": f"request-{number}",
        "model_version": "a" * 32,
        "runtime": "onnxruntime",
        "batch_size": 1,
        "transport": "grpc",
        "client": "ward-1",
        "test": False,
        "site": "site-a",
        "stain": "may-grünwald",
        "scanner": "scanner-1",
        "pixel_size_um": 0.15625,
        "patient": f"{number % 12:032x}",
        "key_id": "0123456789ab",
        "specimen_id": "",
        "image_sha256": f"{number:064x}",
        "pixels_sha256": f"{number + 1:064x}",
        "label": "L1",
        "probabilities": {"healthy": 0.25, "L1": 0.75},
        "malignant_probability": 0.75,
        "refer": False,
        "refer_reasons": (),
        "ood_score": 1.5,
        "embedding": (0.5, -0.25, 3.0),
        "statistics": {"brightness": 0.7},
        "latency_ms": {"compute": 3.0},
        "pixels_kept": False,
    } | changes
    key = (values["client"], values["request_id"], values["pixels_sha256"], values["model_version"])
    return PredictionRecord(**{"record_id": record_id(*key)} | values)


def review(record: PredictionRecord, label: str = "L2", **changes: Any) -> ReviewRecord:
    """A review of the record; its id follows from its content unless given."""
    values: dict[str, Any] = {
        "record_id": record.record_id,
        "label": label,
        "role": "haematologist",
        "time": "2026-02-01T00:00:00.000000+00:00",
        "client": "ward-1",
        "sampled": False,
    } | changes
    key = (values["record_id"], values["role"], values["label"], values["time"])
    return ReviewRecord(**{"review_id": review_id(*key)} | values)
