"""An artifact → a batch of predictions. The only module of the contract that needs onnxruntime."""

import io
import platform
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

from service.contract.artifact import MODEL, WARMUP, Artifact, Manifest
from service.contract.errors import ArtifactError
from service.contract.image import Pixels, row_check

PROVIDER = "CPUExecutionProvider"
# Relative, absolute. Distances add up squares of many terms: machines differ more in them than in probabilities.
_TOLERANCES = {
    "row_check": (0.0, 0.0),
    "probabilities": (0.0, 1e-4),
    "embedding": (1e-2, 1e-2),
    "ood_score": (1e-2, 1e-2),
}

Floats = npt.NDArray[np.float32]


class Outputs(NamedTuple):
    """What the graph says of n cells: probabilities float32 [n, C], embedding float32 [n, E], OOD score float32 [n],
    row check int64 [n].
    """

    probabilities: Floats
    embedding: Floats
    ood_score: Floats
    row_check: npt.NDArray[np.int64]


class Predictor:
    """A verified artifact, loaded. `predict` may be called from several threads."""

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        """Load the graph with `threads` threads for each call. Raises ArtifactError when it cannot be loaded."""
        self.artifact = artifact
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        # Threads that wait do so asleep: a busy wait would take the cores that decode the next pictures.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph = artifact.read(MODEL)
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=[PROVIDER])
        except Exception as error:  # onnxruntime's own exceptions have no common base but this
            raise ArtifactError(f"{artifact.path / MODEL} cannot be loaded: {_one_line(error)}") from error
        inputs = [(node.name, node.type) for node in self._session.get_inputs()]
        names = {node.name for node in self._session.get_outputs()}
        if inputs != [("image", "tensor(uint8)")] or not names >= set(Outputs._fields):
            raise ArtifactError(
                f"{artifact.path / MODEL} has inputs {inputs} and outputs {sorted(names)}: not this format"
            )
        self.runtime_fingerprint = (
            f"onnxruntime {onnxruntime.__version__} {PROVIDER} {platform.machine()} {_processor()} threads={threads}"
        )

    @property
    def manifest(self) -> Manifest:
        """What the numbers mean."""
        return self.artifact.manifest

    @property
    def version(self) -> str:
        """The artifact's version."""
        return self.artifact.version

    def predict(self, batch: Pixels) -> Outputs:
        """uint8 [n, H, W, 3], n ≥ 1 → Outputs.

        Raises ValueError for another shape or type, ArtifactError when the graph fails or answers with wrong shapes or
        with numbers that are not finite.
        """
        manifest = self.manifest
        picture = (manifest.height, manifest.width, 3)
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != picture or len(batch) == 0:
            raise ValueError(f"expected uint8 {['n', *picture]}, not {batch.dtype} {list(batch.shape)}")
        try:
            values = self._session.run(list(Outputs._fields), {"image": np.ascontiguousarray(batch)})
        except Exception as error:
            raise ArtifactError(
                f"model {self.version} failed on a batch of {len(batch)}: {_one_line(error)}"
            ) from error
        rows = len(batch)
        wanted: dict[str, tuple[int, ...]] = {
            "probabilities": (rows, len(manifest.labels)),
            "embedding": (rows, manifest.embedding_size),
            "ood_score": (rows,),
            "row_check": (rows,),
        }
        for (name, shape), value in zip(wanted.items(), values, strict=True):
            kind = np.int64 if name == "row_check" else np.float32
            if value.shape != shape or value.dtype != kind:
                raise ArtifactError(f"model {self.version}: {name} is {value.dtype} {value.shape}, not {shape}")
            if not np.isfinite(value).all():
                raise ArtifactError(f"model {self.version}: {name} is not finite")
        return Outputs(*values)

    def warm_up(self) -> None:
        """Answer the recorded inputs and compare with the recorded outputs.

        Probabilities within 1e-4, row checks exactly (also with this machine's own formula), distances within 1 %.
        Raises ArtifactError: this machine does not compute what the exporting one did.
        """
        recorded = self._recorded()
        inputs = recorded["image"]
        try:
            outputs = self.predict(inputs)
        except ValueError as error:
            raise ArtifactError(f"model {self.version} has warm-up inputs of a wrong shape: {error}") from error
        if not np.array_equal(outputs.row_check, row_check(inputs)):
            raise ArtifactError(f"model {self.version} computes another row check than this release")
        for name, (relative, absolute) in _TOLERANCES.items():
            actual, wanted = np.asarray(getattr(outputs, name)), recorded[name]
            if actual.shape != wanted.shape or not np.allclose(actual, wanted, rtol=relative, atol=absolute):
                raise ArtifactError(f"model {self.version} does not reproduce the {name} that it was exported with")
        self.predict(inputs[:1])  # a batch of one takes other paths in the runtime: not at the first caller's cost

    def _recorded(self) -> dict[str, npt.NDArray[Any]]:
        path: Path = self.artifact.path / WARMUP
        try:
            with np.load(io.BytesIO(self.artifact.read(WARMUP)), allow_pickle=False) as file:
                return {name: file[name] for name in ("image", *Outputs._fields)}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ArtifactError(f"{path} is not a warm-up file ({_one_line(error)})") from error


def _processor() -> str:
    """The processor's model name: with the same one and the same runtime, answers repeat bit for bit."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
