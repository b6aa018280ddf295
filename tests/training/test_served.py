"""The gate runs the graph that is served, and takes nobody's word for what it says."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from service.contract.artifact import MODEL
from service.contract.errors import ConfigError
from service.contract.predictor import Predictor
from tests.support.artifacts import tiny_artifact, tiny_graph
from tests.support.images import smear
from training.served import BATCH, serve


def test_it_says_what_the_service_would_say_whatever_the_number_of_cells(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path / "model")
    pixels = np.stack([smear(seed=i, size=32) for i in range(BATCH + 3)])
    wanted = Predictor(artifact).predict(pixels)
    found = serve(artifact.path / MODEL, pixels)
    np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-6)
    np.testing.assert_allclose(found.ood_score, wanted.ood_score, rtol=1e-5)
    assert found.row_checks_exact


@pytest.mark.parametrize("damage", ["no graph", "another size"])
def test_a_graph_that_cannot_answer_about_these_cells_is_one_clear_line(tmp_path: Path, damage: str) -> None:
    model = tiny_artifact(tmp_path / "model").path / MODEL
    size = 32
    if damage == "no graph":
        model = tmp_path / "other.onnx"
        model.write_bytes(b"no graph")
    else:
        size = 33
    with pytest.raises(ConfigError, match="dvc repro --force export") as caught:
        serve(model, np.zeros((2, size, size, 3), dtype=np.uint8))
    assert "\n" not in str(caught.value)


def test_answers_that_are_no_numbers_are_no_answers(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(tiny_graph(4, bias=[0, float("nan"), 0, 0]))
    with pytest.raises(ConfigError, match="finite"):
        serve(model, np.zeros((2, 32, 32, 3), dtype=np.uint8))


def test_a_graph_that_mixes_its_rows_up_is_seen(tmp_path: Path) -> None:
    graph = onnx.load_from_string(tiny_graph(4))
    (positions,) = (value for value in graph.graph.initializer if value.name == "positions")
    positions.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(positions)[::-1].copy(), "positions"))
    model = tmp_path / "model.onnx"
    model.write_bytes(graph.SerializeToString())
    assert not serve(model, np.stack([smear(seed=i, size=32) for i in range(3)])).row_checks_exact
