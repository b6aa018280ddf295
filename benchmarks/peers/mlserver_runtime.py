"""MLServer's custom runtime, which `mlserver start FOLDER` loads by its name in model-settings.json."""

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from benchmarks.peers.network import Network


class Classifier(MLModel):  # type: ignore[misc]
    """One cell a call: input `image` BYTES [1], output `label` BYTES [1]."""

    async def load(self) -> bool:
        """Loads the graph."""
        self._network = Network()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The label."""
        labels = self._network.batch(list(payload.inputs[0].data))
        data = [label.encode() for label in labels]
        output = ResponseOutput(name="label", shape=[len(data)], datatype="BYTES", data=data)
        return InferenceResponse(model_name=self.name, outputs=[output])
