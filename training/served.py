"""The exported graph run as the service runs it, by whoever must not take another stage's word for what it says."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.contract.errors import ConfigError
from service.contract.image import Pixels, row_check

BATCH = 64


@dataclass(frozen=True, eq=False)
class Served:
    """What the graph says of n cells."""

    probabilities: npt.NDArray[np.float32]
    """[n, C]"""
    ood_score: npt.NDArray[np.float32]
    """[n]"""
    row_checks_exact: bool
    """Whether its checksums of its inputs are those that the service computes."""


def serve(model: Path, pixels: Pixels) -> Served:
    """Ask the graph in the file `model` about cells uint8 [n, H, W, 3], n ≥ 1, on one thread.

    Raises ConfigError when it cannot be run on them, or when its answers are not one finite row a cell.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    names = ["probabilities", "ood_score", "row_check"]
    try:
        session = onnxruntime.InferenceSession(model.read_bytes(), options, providers=["CPUExecutionProvider"])
        batches = [session.run(names, {"image": pixels[i : i + BATCH]}) for i in range(0, len(pixels), BATCH)]
    except Exception as error:  # onnxruntime's own exceptions have no common base but this
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{model} cannot be run on the test cells ({reason}): run `dvc repro --force export`"
        ) from None
    probabilities, ood_score, checks = (np.concatenate(column) for column in zip(*batches, strict=True))
    rows = {len(values) for values in (probabilities, ood_score, checks)}
    if rows != {len(pixels)} or not (np.isfinite(probabilities).all() and np.isfinite(ood_score).all()):
        raise ConfigError(f"{model} does not give one finite answer a cell: run `dvc repro --force export`")
    return Served(probabilities, ood_score, bool(np.array_equal(checks, row_check(pixels))))
