"""What every peer computes: our decoder, then the artifact's graph in onnxruntime on one thread.

Reads the artifact's folder from the variable BENCH_ARTIFACT.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from service.contract.image import Field, Pixels, load_field

ARTIFACT = "BENCH_ARTIFACT"
OUTPUTS = ["probabilities", "embedding", "ood_score", "row_check"]


class Network:
    """The artifact of BENCH_ARTIFACT with the session options that the service has, and its decoder.

    whole: JPEGs are decoded at their full size, whatever the artifact says.
    """

    def __init__(self, *, whole: bool = False) -> None:
        serve = Path(os.environ[ARTIFACT], "serve")
        manifest = json.loads((serve / "manifest.json").read_text())
        self.labels: list[str] = manifest["labels"]
        crop = manifest.get("crop", 1.0)
        reduced = manifest.get("reduced", False) and not whole
        self.field = Field(manifest["height"], manifest["width"], manifest["field_um"], crop, reduced)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph = (serve / "model.onnx").read_bytes()
        self._session: Any = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def decode(self, image: bytes) -> Pixels:
        """Bytes → uint8 [H, W, 3]."""
        return load_field(image, self.field, 0.0)

    def label(self, image: bytes) -> str:
        """Of one cell."""
        return self.batch([image])[0]

    def batch(self, images: list[bytes]) -> list[str]:
        """Of several cells computed together."""
        cells = np.stack([self.decode(image) for image in images])
        probabilities = self._session.run(OUTPUTS, {"image": cells})[0]
        return [self.labels[index] for index in probabilities.argmax(axis=1)]
