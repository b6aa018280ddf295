from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from service.contract.artifact import Artifact, write_artifact
from service.contract.errors import ArtifactError
from service.contract.image import row_check
from service.contract.predictor import Predictor
from tests.support.artifacts import tiny_artifact
from tests.support.images import smear

BATCH = np.stack([smear(seed) for seed in range(9)])


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_artifact(tmp_path_factory.mktemp("predictor") / "tiny")


@pytest.fixture(scope="module")
def predictor(artifact: Artifact) -> Predictor:
    return Predictor(artifact)


def _rewritten(artifact: Artifact, dest: Path, *, model: bytes | None = None, **warmup: Any) -> Artifact:
    """The artifact with another graph or other recorded warm-up values, hashes made right again."""
    source = dest.with_suffix(".parts")
    source.mkdir()
    (source / "model.onnx").write_bytes(model or artifact.read("serve/model.onnx"))
    with np.load(artifact.path / "serve/warmup.npz") as recorded:
        np.savez(source / "warmup.npz", **{**recorded, **warmup})
    return write_artifact(
        dest,
        model=source / "model.onnx",
        warmup=source / "warmup.npz",
        manifest_fields=artifact.manifest.model_copy(update={"files": {}}),
        reference=artifact.reference(),
        model_card="",
    )


def _graph(artifact: Artifact) -> onnx.ModelProto:
    return onnx.load_from_string(artifact.read("serve/model.onnx"))


def test_outputs(predictor: Predictor) -> None:
    outputs = predictor.predict(BATCH)
    assert [value.shape for value in outputs] == [(9, 4), (9, 4), (9,), (9,)]
    assert [value.dtype for value in outputs] == [np.float32, np.float32, np.float32, np.int64]
    np.testing.assert_allclose(outputs.probabilities.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(outputs.row_check, row_check(BATCH))


def test_a_cell_gets_the_same_answer_in_any_batch(predictor: Predictor) -> None:
    together = predictor.predict(BATCH)
    for number in range(len(BATCH)):
        alone = predictor.predict(BATCH[number : number + 1])
        np.testing.assert_allclose(alone.probabilities[0], together.probabilities[number], atol=1e-6)
        assert alone.row_check[0] == together.row_check[number]


def test_other_models_answer_otherwise(predictor: Predictor, tmp_path: Path) -> None:
    other = Predictor(tiny_artifact(tmp_path / "other", bias=[5, 0, 0, 0]))
    assert other.version != predictor.version
    assert np.abs(other.predict(BATCH).probabilities - predictor.predict(BATCH).probabilities).max() > 0.01


def test_non_contiguous_input(predictor: Predictor) -> None:
    backwards = BATCH[::-1]
    np.testing.assert_array_equal(predictor.predict(backwards).row_check, row_check(BATCH)[::-1])


def test_several_threads_at_once(predictor: Predictor) -> None:
    wanted = predictor.predict(BATCH)
    with ThreadPoolExecutor(4) as pool:
        for outputs in pool.map(lambda _: predictor.predict(BATCH), range(40)):
            np.testing.assert_array_equal(outputs.row_check, wanted.row_check)
            np.testing.assert_array_equal(outputs.probabilities, wanted.probabilities)


@pytest.mark.parametrize(
    "batch",
    [
        BATCH[0],
        BATCH[:0],
        BATCH.astype(np.float32),
        BATCH[:, :31],
        BATCH[..., :2],
    ],
    ids=["one-picture", "empty", "float", "height", "channels"],
)
def test_refuses_another_shape(predictor: Predictor, batch: Any) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \['n', 32, 32, 3\]"):
        predictor.predict(batch)


def test_the_fingerprint_names_what_may_change_the_last_bit(artifact: Artifact) -> None:
    fingerprint = Predictor(artifact, threads=2).runtime_fingerprint
    assert fingerprint.startswith("onnxruntime 1.")
    assert "CPUExecutionProvider" in fingerprint
    assert fingerprint.endswith("threads=2")


def test_warm_up_passes_on_the_exporting_machine(predictor: Predictor) -> None:
    predictor.warm_up()


@pytest.mark.parametrize(
    ("name", "change"),
    [("probabilities", 2e-4), ("embedding", 0.1), ("ood_score", 0.1), ("row_check", 1)],
)
def test_warm_up_refuses_a_machine_that_computes_otherwise(
    artifact: Artifact, tmp_path: Path, name: str, change: float
) -> None:
    with np.load(artifact.path / "serve/warmup.npz") as recorded:
        values = recorded[name].copy()
    values[1] += values.dtype.type(change)
    changed = Predictor(_rewritten(artifact, tmp_path / "changed", **{name: values}))
    with pytest.raises(ArtifactError, match=f"does not reproduce the {name}"):
        changed.warm_up()


def test_warm_up_tolerates_another_machines_rounding(artifact: Artifact, tmp_path: Path) -> None:
    with np.load(artifact.path / "serve/warmup.npz") as recorded:
        values = recorded["probabilities"] + np.float32(5e-5)
    Predictor(_rewritten(artifact, tmp_path / "rounded", probabilities=values)).warm_up()


def test_warm_up_refuses_a_graph_with_another_row_check(artifact: Artifact, tmp_path: Path) -> None:
    """A graph and a recording that agree with each other, and not with what the batcher computes."""
    model = _graph(artifact)
    for constant in model.graph.initializer:
        if constant.name == "positions":
            constant.CopyFrom(onnx.numpy_helper.from_array(np.ones(32 * 32 * 3, np.int64), "positions"))
    images = BATCH[:4]
    graph = model.SerializeToString()
    sums = images.reshape(4, -1).sum(axis=1, dtype=np.int64)
    changed = Predictor(_rewritten(artifact, tmp_path / "changed", model=graph, image=images, row_check=sums))
    with pytest.raises(ArtifactError, match="another row check than this release"):
        changed.warm_up()


def test_warm_up_refuses_inputs_of_another_shape(artifact: Artifact, tmp_path: Path) -> None:
    changed = Predictor(_rewritten(artifact, tmp_path / "changed", image=np.zeros((4, 16, 16, 3), np.uint8)))
    with pytest.raises(ArtifactError, match="wrong shape"):
        changed.warm_up()


def test_a_graph_that_the_runtime_cannot_load(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be loaded") as error:
        Predictor(_rewritten(artifact, tmp_path / "broken", model=b"not a graph"))
    assert "\n" not in str(error.value)


def test_a_graph_without_one_of_the_outputs(artifact: Artifact, tmp_path: Path) -> None:
    model = _graph(artifact)
    del model.graph.output[2]
    with pytest.raises(ArtifactError, match="not this format"):
        Predictor(_rewritten(artifact, tmp_path / "less", model=model.SerializeToString()))


def test_a_graph_that_answers_nan(artifact: Artifact, tmp_path: Path) -> None:
    model = _graph(artifact)
    for constant in model.graph.initializer:
        if constant.name == "bias":
            constant.CopyFrom(onnx.numpy_helper.from_array(np.full(4, np.nan, np.float32), "bias"))
    broken = Predictor(_rewritten(artifact, tmp_path / "nan", model=model.SerializeToString()))
    with pytest.raises(ArtifactError, match="probabilities is not finite"):
        broken.predict(BATCH)


def test_a_graph_with_a_wrong_number_of_rows(artifact: Artifact, tmp_path: Path) -> None:
    model = _graph(artifact)
    ood = next(node for node in model.graph.node if "ood_score" in node.output)
    ood.output[0] = "all_scores"
    first = onnx.numpy_helper.from_array(np.array([0], np.int64), "first")
    model.graph.initializer.append(first)
    model.graph.node.append(helper.make_node("Gather", ["all_scores", "first"], ["ood_score"]))
    broken = Predictor(_rewritten(artifact, tmp_path / "rows", model=model.SerializeToString()))
    with pytest.raises(ArtifactError, match=r"ood_score is float32 \(1,\), not \(9,\)"):
        broken.predict(BATCH)


def test_a_graph_swapped_after_verification_is_not_loaded(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path / "tiny")
    (artifact.path / "serve/model.onnx").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="is not the file"):
        Predictor(artifact)
