"""The serving graph as ONNX bytes that depend on the weights alone: not on the path, the time or who exported it."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch

from training.models.serving import Serving
from training.runtime import INPUT, OUTPUTS

MAX_BATCH = 1024


def to_onnx(graph: Serving, opset: int) -> bytes:
    """Export for batches of 1 to MAX_BATCH; stripped of the exporter's notes, which carry stack traces and paths."""
    config = graph.network.config
    example = torch.zeros((2, config.height, config.width, 3), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            graph,
            (example,),
            path,
            dynamo=True,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes={INPUT: {0: torch.export.Dim("n", min=1, max=MAX_BATCH)}},
            external_data=False,
            opset_version=opset,
        )
        model = onnx.load(path)
    strip(model)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def strip(model: onnx.ModelProto) -> None:
    """Remove in place what says how and where the model was exported, and nothing that computes."""
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    model.producer_name, model.producer_version = "blastwatch", ""
    for graph in (model.graph, *(function for function in model.functions)):
        graph.ClearField("metadata_props")
        graph.ClearField("doc_string")
        for part in (*graph.node, *graph.value_info, *getattr(graph, "initializer", ()), *_ends(graph)):
            part.ClearField("doc_string")
            part.ClearField("metadata_props")
    # Value infos repeat what shape inference finds, under names that the exporter numbers as it likes.
    model.graph.ClearField("value_info")


def _ends(graph: onnx.GraphProto | onnx.FunctionProto) -> list[onnx.ValueInfoProto]:
    return [*graph.input, *graph.output] if isinstance(graph, onnx.GraphProto) else []


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its progress on stdout and warns of what it does itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
