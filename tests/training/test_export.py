"""The exported graph: the same answers as torch in onnxruntime, the same bytes anywhere, and a difference is
reported.
"""

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import torch

from service.contract.errors import ConfigError
from service.contract.image import row_check
from tests.support.networks import SMALL, calibration, network, smears
from training.calibration import softmax
from training.export import WARMUP_CELLS, ExportConfig, assess, compare, warm_up
from training.models import inference
from training.models.cnn_gru import CnnGru
from training.models.initial import start_from
from training.models.serving import Serving, answers
from training.onnx_file import strip, to_onnx
from training.runtime import BATCH, OUTPUTS, Runtime

CELLS = 21
pytestmark = pytest.mark.xdist_group("export")


@dataclass(frozen=True)
class Exported:
    graph: Serving
    model: bytes
    report: dict[str, Any]


@pytest.fixture(scope="module")
def exported() -> Exported:
    """One export for all tests: it takes seconds."""
    graph = Serving(network(), calibration())
    model = to_onnx(graph, 20)
    return Exported(graph, model, assess(graph, model, smears(CELLS), ExportConfig()))


VARIANTS = {
    "lstm": replace(SMALL, rnn="lstm", directions=2, order="snake", pooling="attention"),
    "views": replace(SMALL, directions=2, order="columns", stem="deconvolution", views=8),
    "trunk": replace(SMALL, trunk="squeezenet1_0", trunk_layers=4, rnn="none", pooling="attention", views=2),
}
"""Every choice of the config that the default does not make, in as few exports as hold them."""


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Exported:
    config = VARIANTS[request.param]
    graph = Serving(network(config, scale=1.5), calibration(config))
    model = to_onnx(graph, 20)
    return Exported(graph, model, assess(graph, model, smears(CELLS), ExportConfig()))


def altered(model: bytes, by: float) -> bytes:
    """The same graph with every weight of the last layer changed a little."""
    found = onnx.load_from_string(model)
    (weight,) = [part for part in found.graph.initializer if part.name.endswith("classify.weight")]
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1 + by), weight.name))
    return bytes(found.SerializeToString(deterministic=True))


def test_onnxruntime_answers_as_torch_does_at_every_batch_size(exported: Exported) -> None:
    runtime = Runtime(exported.model)
    assert exported.report["passed"] is True
    assert exported.report["max_abs_probability_difference"] > 0  # it was measured
    assert answers(exported.graph, smears(CELLS)).probabilities.std(axis=0).max() > 0.05  # pictures are told apart
    for number in (1, 3, BATCH, BATCH + 5):
        images = smears(number, seed=50)
        wanted, found = answers(exported.graph, images), runtime.say(images, batch=number)
        assert found.probabilities == pytest.approx(wanted.probabilities, abs=1e-5)
        assert found.embedding == pytest.approx(wanted.embedding, abs=1e-4)
        assert found.ood_score == pytest.approx(wanted.ood_score, rel=1e-4)
        assert np.array_equal(found.row_check, row_check(images))


def test_every_variant_answers_in_onnxruntime_as_in_torch(variant: Exported) -> None:
    assert variant.report["passed"] is True and variant.report["row_check_exact"] is True
    wanted = answers(variant.graph, smears(CELLS))
    assert wanted.probabilities.std(axis=0).max() > 1e-3  # pictures are told apart
    # Evaluation and calibration see what is exported: the views are inside the network.
    seen = inference.outputs(variant.graph.network, smears(CELLS))
    assert wanted.probabilities == pytest.approx(softmax(seen.logits.astype(np.float64) / 1.5), abs=1e-6)
    found = Runtime(variant.model).say(smears(5, seed=9), batch=3)
    assert found.embedding == pytest.approx(answers(variant.graph, smears(5, seed=9)).embedding, abs=1e-4)


def test_a_variants_convolutions_start_another_training(variant: Exported, tmp_path: Path) -> None:
    check_start(variant, tmp_path)


def test_the_default_convolutions_start_another_training(exported: Exported, tmp_path: Path) -> None:
    check_start(exported, tmp_path)
    with pytest.raises(ConfigError, match="convolutions are not those"):
        start_from(CnnGru(replace(SMALL, channels=(4, 8))), tmp_path)
    with pytest.raises(ConfigError, match=r"blocks\.2\.0\.weight is \[8, 8, 3, 3\]"):
        start_from(CnnGru(replace(SMALL, channels=(4, 8, 9))), tmp_path)


def check_start(exported: Exported, artifact: Path) -> None:
    """From an artifact's folder the convolutions come back bit for bit, and the rest stays random."""
    (artifact / "serve").mkdir()
    (artifact / "serve" / "model.onnx").write_bytes(exported.model)
    old = exported.graph.network
    new = CnnGru(old.config)
    random = {name: value.clone() for name, value in new.state_dict().items()}
    taken = start_from(new, artifact)
    assert taken
    for name, value in new.state_dict().items():
        kind = name.split(".")[0]
        expected = old.state_dict() if kind in ("blocks", "trunk", "stem") and "num_batches" not in name else random
        assert torch.equal(value, expected[name]), name


def test_the_graph_is_what_the_contract_loads(exported: Exported) -> None:
    graph = onnx.load_from_string(exported.model).graph
    (image,) = graph.input
    assert image.name == "image" and image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    shape = [part.dim_param or part.dim_value for part in image.type.tensor_type.shape.dim]
    assert isinstance(shape[0], str) and shape[1:] == [32, 32, 3]
    assert [(part.name, part.type.tensor_type.elem_type) for part in graph.output] == [
        *((name, onnx.TensorProto.FLOAT) for name in OUTPUTS[:3]), ("row_check", onnx.TensorProto.INT64),
    ]  # fmt: skip


def test_the_warm_up_cells_are_from_all_over() -> None:
    images = warm_up(smears(CELLS))
    assert len(images) == WARMUP_CELLS
    assert np.array_equal(images[0], smears(CELLS)[0]) and np.array_equal(images[-1], smears(CELLS)[-1])
    assert len(warm_up(smears(3))) == 3


def test_the_report_has_size_and_speed(exported: Exported) -> None:
    report = exported.report
    assert report["model_bytes"] == len(exported.model)
    assert report["onnx_sha256"] == hashlib.sha256(exported.model).hexdigest()
    assert report["parameters"] == sum(weight.numel() for weight in exported.graph.network.parameters())
    assert report["latency_ms_p50_batch1"] > 0
    assert report["cells"] == CELLS and report["tolerance"] == 1e-4


def test_an_exported_graph_that_differs_does_not_pass(exported: Exported) -> None:
    other = altered(exported.model, 0.01)
    found = assess(exported.graph, other, smears(CELLS), ExportConfig())
    assert found["passed"] is False and found["max_abs_probability_difference"] > 1e-4
    assert found["row_check_exact"]
    # As much as that may be tolerated by a parameter, not by chance.
    assert assess(exported.graph, other, smears(CELLS), ExportConfig(tolerance=0.5))["passed"] is True


def test_row_checks_must_be_exact(exported: Exported) -> None:
    images = smears(CELLS)
    good = answers(exported.graph, images)
    moved = good._replace(row_check=np.roll(good.row_check, 1))
    assert compare(good, moved, images) == {
        "max_abs_probability_difference": 0.0,
        "max_abs_embedding_difference": 0.0,
        "max_abs_ood_score_difference": 0.0,
        "row_check_exact": False,
    }


def test_nothing_of_the_exporting_machine_is_in_the_file(exported: Exported) -> None:
    model = exported.model
    repository = str(Path(__file__).parents[2])
    for trace in (repository, "site-packages", "stack_trace", "pkg.torch", "pytorch", ".py"):
        assert trace.encode() not in model
    noted = onnx.load_from_string(model)
    noted.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/somebody")
    noted.graph.doc_string = noted.graph.node[1].doc_string = "/home/somebody"
    noted.producer_version = "9"
    strip(noted)
    assert noted.SerializeToString(deterministic=True) == model


def test_another_process_at_another_path_writes_the_same_bytes(exported: Exported, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from training.models.serving import Serving; from training.onnx_file "
        "import to_onnx\nfrom tests.support.networks import calibration, network\n"
        "Path(sys.argv[1]).write_bytes(to_onnx(Serving(network(), calibration()), 20))"
    )
    far = tmp_path / "another place"
    far.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONHASHSEED": "7",
        "TMPDIR": str(far),
    }
    subprocess.run([sys.executable, "-c", script, str(far / "model.onnx")], cwd=far, env=environment, check=True)
    assert (far / "model.onnx").read_bytes() == exported.model


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="opset"):
        ExportConfig(opset=11)
    with pytest.raises(ValueError, match="tolerance"):
        ExportConfig(tolerance=0)
    with pytest.raises(ValueError, match="in quotes"):
        ExportConfig(int8=False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="int8_tolerance"):
        ExportConfig(int8_tolerance=0)
    with pytest.raises(ValueError, match="int8_gain"):
        ExportConfig(int8_gain=1)
