"""BentoML without anything of ours around it: `bentoml serve benchmarks.peers.bentoml_server:Plain` (or `Batched`)."""

import base64

import bentoml

from benchmarks.peers.network import Network


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Plain:
    """One cell a call."""

    def __init__(self) -> None:
        self._network = Network()

    @bentoml.api  # type: ignore[untyped-decorator]
    def classify(self, image: str) -> dict[str, str]:
        """Base64 → the label."""
        return {"label": self._network.label(base64.b64decode(image))}


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Batched:
    """With BentoML's adaptive batching."""

    def __init__(self) -> None:
        self._network = Network()

    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=60_000)  # type: ignore[untyped-decorator]
    def classify(self, images: list[str]) -> list[str]:
        """Base64 → labels."""
        return self._network.batch([base64.b64decode(image) for image in images])
