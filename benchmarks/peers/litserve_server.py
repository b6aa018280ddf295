"""LitServe: `python -m benchmarks.peers.litserve_server PORT`. The image comes as base64 in JSON."""

import base64
import sys
from typing import Any

import litserve

from benchmarks.peers.network import Network


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """One cell a call."""

    def setup(self, device: str) -> None:
        """Loads the graph in the worker."""
        self._network = Network()

    def decode_request(self, request: dict[str, str]) -> bytes:
        """The image's bytes."""
        return base64.b64decode(request["image"])

    def predict(self, x: bytes) -> str:
        """The label."""
        return self._network.label(x)

    def encode_response(self, output: str) -> dict[str, Any]:
        """As every HTTP peer answers."""
        return {"label": output}


if __name__ == "__main__":
    server = litserve.LitServer(Classifier(), accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
