"""Tiny but real models: an ONNX graph in the artifact's format, loaded by the real runtime in milliseconds."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from service.contract.artifact import Artifact, Manifest, Thresholds, write_artifact
from service.contract.image import CHECK_MODULUS, CHECK_MULTIPLIER, Pixels
from service.contract.reference import Reference
from service.contract.statistics import statistics_array
from tests.support.images import smear

EMBEDDING_SIZE = 4
CELLS = 60


def tiny_artifact(
    dest: Path,
    *,
    labels: Sequence[str] = ("healthy", "L1", "L2", "L3"),
    bias: Sequence[float] | None = None,
    size: int = 32,
    seed: int = 0,
    malignant: Sequence[str] | None = None,
    thresholds: Thresholds | None = None,
    scale_known: bool = True,
    crop: float = 1.0,
) -> Artifact:
    """Write an artifact whose graph reads mean colours: softmax(colour · W + bias). Other bias or seed: other version.

    `malignant` is every label but the first by default; the default thresholds refer nothing.
    """
    manifest = Manifest(
        labels=tuple(labels),
        malignant=tuple(labels[1:] if malignant is None else malignant),
        height=size,
        width=size,
        field_um=20.0,
        crop=crop,
        scale_known=scale_known,
        embedding_size=EMBEDDING_SIZE,
        thresholds=thresholds or Thresholds(abstain=0.0, ood=100.0),
        dataset_revision="tiny",
        code_revision="tiny",
        created="2020-01-01T00:00:00.000000+00:00",
    )
    graph = tiny_graph(len(labels), bias=bias, size=size, seed=seed)
    cells = np.stack([smear(seed=1000 + number, size=size) for number in range(CELLS)])
    outputs = run_graph(graph, cells)
    with tempfile.TemporaryDirectory() as folder:
        model, warmup = Path(folder, "model.onnx"), Path(folder, "warmup.npz")
        model.write_bytes(graph)
        recorded: dict[str, Any] = {name: value[:4] for name, value in outputs.items()}
        np.savez(warmup, image=cells[:4], **recorded)
        return write_artifact(
            dest,
            model=model,
            warmup=warmup,
            manifest_fields=manifest,
            reference=_reference(cells, outputs, len(labels), seed),
            model_card="# A tiny model for tests\n",
        )


def tiny_graph(classes: int, *, bias: Sequence[float] | None = None, size: int = 32, seed: int = 0) -> bytes:
    """The graph's bytes; input and outputs as the artifact's format has them."""
    rng = np.random.default_rng(seed)
    length = size * size * 3
    constants = {
        "weight": rng.normal(0, 8, (3, classes)).astype(np.float32),
        "bias": np.zeros(classes, np.float32) if bias is None else np.asarray(bias, np.float32),
        "projection": rng.normal(0, 1, (3, EMBEDDING_SIZE)).astype(np.float32),
        "scale": np.float32(1 / (255 * size * size)),
        "middle": np.full(3, 0.7, np.float32),
        "rows": np.array([-1, length], np.int64),
        "positions": np.arange(length, dtype=np.int64) * CHECK_MULTIPLIER % CHECK_MODULUS + 1,
        "pixels": np.array([-1, size * size, 3], np.int64),
        "last": np.array([1], np.int64),
    }
    nodes = [
        # Summed as integers: a cell's mean colour is then the same to the last bit in any batch.
        helper.make_node("Reshape", ["image", "pixels"], ["list"]),
        helper.make_node("Cast", ["list"], ["counts"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["counts", "last"], ["sums"], keepdims=0),
        helper.make_node("Cast", ["sums"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["values", "scale"], ["mean"]),
        helper.make_node("Sub", ["mean", "middle"], ["colour"]),
        helper.make_node("MatMul", ["colour", "weight"], ["weighted"]),
        helper.make_node("Add", ["weighted", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("MatMul", ["colour", "projection"], ["embedding"]),
        helper.make_node("ReduceSumSquare", ["colour", "last"], ["ood_score"], keepdims=0),
        helper.make_node("Reshape", ["image", "rows"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["integers"], to=TensorProto.INT64),
        helper.make_node("Mul", ["integers", "positions"], ["products"]),
        helper.make_node("ReduceSum", ["products", "last"], ["row_check"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", size, size, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", classes]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", EMBEDDING_SIZE]),
            helper.make_tensor_value_info("ood_score", TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("row_check", TensorProto.INT64, ["n"]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def run_graph(graph: bytes, images: Pixels) -> dict[str, npt.NDArray[np.generic]]:
    """{output name: value} of a graph's bytes for uint8 [n, H, W, 3]."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images}), strict=True))


def _reference(cells: Pixels, outputs: dict[str, npt.NDArray[np.generic]], classes: int, seed: int) -> Reference:
    rng = np.random.default_rng(seed)
    label = np.arange(len(cells)) % classes
    predicted = np.asarray(outputs["probabilities"]).argmax(axis=1)
    confusion = np.eye(classes)
    np.add.at(confusion, (label, predicted), 1.0)
    return Reference(
        embedding=np.asarray(outputs["embedding"], dtype=np.float32),
        statistics=np.stack([statistics_array(cell) for cell in cells]),
        probabilities=np.asarray(outputs["probabilities"], dtype=np.float32),
        label=label.astype(np.int64),
        site=("site-a",) * len(cells),
        patient=rng.integers(0, 12, len(cells)),
        confusion=confusion,
    )
