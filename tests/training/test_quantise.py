"""int8 convolutions: what they change, and that a graph is only taken for a reason."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from service.contract.errors import ConfigError
from service.contract.image import row_check
from tests.support.networks import calibration, network, smears
from training.models.initial import start_from
from training.models.serving import Serving, answers
from training.onnx_file import to_onnx
from training.quantise import Bounds, choose, quantise
from training.runtime import Runtime

pytestmark = pytest.mark.xdist_group("export")
CELLS = 12


@pytest.fixture(scope="module")
def graph() -> Serving:
    return Serving(network(scale=1.5), calibration())


@pytest.fixture(scope="module")
def fp32(graph: Serving) -> bytes:
    return to_onnx(graph, 20)


@pytest.fixture(scope="module")
def int8(fp32: bytes) -> bytes:
    return quantise(fp32, smears(CELLS))


def test_only_the_convolutions_are_in_integers(fp32: bytes, int8: bytes) -> None:
    before, after = (onnx.load_from_string(model).graph for model in (fp32, int8))
    convolutions = [node for node in after.node if node.op_type == "Conv"]
    assert len(convolutions) == 3
    integers = {part.name for part in after.initializer if part.data_type == onnx.TensorProto.INT8}
    made_by = {output: node for node in after.node for output in node.output}
    assert all(made_by[node.input[1]].input[0] in integers for node in convolutions)
    for kind in ("GRU", "Gemm", "Softmax", "Log"):
        assert [node.op_type for node in after.node].count(kind) == [node.op_type for node in before.node].count(kind)
    assert [part.name for part in after.output] == [part.name for part in before.output]
    assert sum(node.op_type == "DequantizeLinear" for node in before.node) == 0


def test_an_int8_graph_answers_nearly_the_same_and_checks_rows_exactly(graph: Serving, int8: bytes) -> None:
    images = smears(CELLS, seed=40)
    wanted, found = answers(graph, images), Runtime(int8).say(images, batch=5)
    assert 0 < np.abs(wanted.probabilities - found.probabilities).max() < 0.1
    assert np.array_equal(found.row_check, row_check(images))


def test_the_same_cells_give_the_same_bytes_without_a_note_of_the_machine(fp32: bytes, int8: bytes) -> None:
    assert quantise(fp32, smears(CELLS)) == int8
    assert b"/tmp" not in int8 and b"onnx.quantize" not in int8
    assert quantise(fp32, smears(CELLS, seed=90)) != int8  # the ranges are those of the cells


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [(Bounds(1e-9, -9.0), "a probability differs by"), (Bounds(1.0, 0.999), "of the time, 100% is asked for")],
)
def test_an_int8_graph_that_breaks_a_bound_is_not_taken(fp32: bytes, int8: bytes, bounds: Bounds, reason: str) -> None:
    choice = choose(fp32, int8, smears(CELLS), bounds)
    assert choice.model == fp32 and choice.figures["taken"] is False
    assert reason in choice.figures["because"]


def test_an_int8_graph_within_its_bounds_is_taken(fp32: bytes, int8: bytes) -> None:
    choice = choose(fp32, int8, smears(CELLS), Bounds(1.0, -9.0))
    assert choice.figures["labels_changed"] == 0  # of this seed, else the next assertion is about nothing
    assert choice.model == int8 and choice.figures["taken"] is True
    assert choice.figures["cells"] == CELLS
    assert choice.figures["model_bytes"] == {"fp32": len(fp32), "int8": len(int8)}
    assert 0 < choice.figures["max_abs_probability_difference"] < 1
    assert all(value > 0 for value in choice.figures["latency_ms_p50_batch1"].values())


def test_a_graph_that_calls_cells_by_other_labels_is_not_taken(fp32: bytes) -> None:
    """However wide the bound on probabilities: the last layer's rows are swapped."""
    other = onnx.load_from_string(fp32)
    for part in other.graph.initializer:
        if part.name.startswith("network.classify"):
            part.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(part)[::-1].copy(), part.name))
    choice = choose(fp32, other.SerializeToString(), smears(CELLS), Bounds(1.0, -9.0))
    assert choice.model == fp32 and f"{choice.figures['labels_changed']} labels differ" == choice.figures["because"]


def test_training_does_not_start_from_integers(int8: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(int8)
    with pytest.raises(ConfigError, match="in 8 bits: start from the"):
        start_from(network(), tmp_path / "model.onnx")
