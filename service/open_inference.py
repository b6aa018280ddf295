"""gRPC: inference.GRPCInferenceService over the same core, so that clients of Triton and KServe work unchanged."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from service import open_inference_model as model
from service.contract.errors import NotFound
from service.door import client_now
from service.engine import Engine
from service.open_inference_converters import reply_to_message, request_from_message
from service.proto.inference import open_inference_pb2 as oip

SERVICE = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"]
TRANSPORT = "grpc"


class OpenInference:
    """The methods of GRPCInferenceService over an engine; errors become statuses where they are called."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def methods(self) -> dict[str, Callable[[Any, "grpc.aio.ServicerContext"], Awaitable[Message]]]:
        """The handlers by the method's name."""
        return {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.model_infer,
            "RepositoryIndex": self.repository_index,
        }

    async def server_live(self, _: oip.ServerLiveRequest, __: "grpc.aio.ServicerContext") -> oip.ServerLiveResponse:
        """That it answers is the answer."""
        return oip.ServerLiveResponse(live=True)

    async def server_ready(self, _: oip.ServerReadyRequest, __: "grpc.aio.ServicerContext") -> oip.ServerReadyResponse:
        """Whether a cell would be answered now."""
        return oip.ServerReadyResponse(ready=self._engine.ready())

    async def model_ready(
        self, message: oip.ModelReadyRequest, _: "grpc.aio.ServicerContext"
    ) -> oip.ModelReadyResponse:
        """The same, of a model by name. Raises NotFound for another name or version."""
        model.check_model(message.name, message.version, model.served_version(self._engine.core()))
        return oip.ModelReadyResponse(ready=self._engine.ready())

    async def server_metadata(
        self, _: oip.ServerMetadataRequest, __: "grpc.aio.ServicerContext"
    ) -> oip.ServerMetadataResponse:
        """What this server is and which extensions it speaks."""
        return oip.ServerMetadataResponse(
            name=model.SERVER, version=model.server_version(), extensions=model.EXTENSIONS
        )

    async def model_metadata(
        self, message: oip.ModelMetadataRequest, _: "grpc.aio.ServicerContext"
    ) -> oip.ModelMetadataResponse:
        """The model's tensors. Raises NotFound, NotReady."""
        found = self._engine.core().model()
        model.check_model(message.name, message.version, found.version)
        tensor = oip.ModelMetadataResponse.TensorMetadata
        return oip.ModelMetadataResponse(
            name=model.NAME,
            versions=[found.version],
            platform=model.PLATFORM,
            inputs=[tensor(name=name, datatype=datatype, shape=shape) for name, datatype, shape in model.INPUTS],
            outputs=[
                tensor(name=name, datatype=datatype, shape=shape)
                for name, datatype, shape in model.outputs_of_model(found)
            ],
        )

    async def model_infer(
        self, message: oip.ModelInferRequest, context: "grpc.aio.ServicerContext"
    ) -> oip.ModelInferResponse:
        """The answers of n cells; raw when the request is, typed when it is."""
        remaining: float | None = context.time_remaining()
        reply = await model.infer(
            self._engine.core(),
            request_from_message(message),
            transport=TRANSPORT,
            client=client_now(),
            deadline=None if remaining is None else time.monotonic() + remaining,
            max_cells=self._engine.settings.max_queue,
        )
        return reply_to_message(reply, raw=bool(message.raw_input_contents))

    async def repository_index(
        self, message: oip.RepositoryIndexRequest, _: "grpc.aio.ServicerContext"
    ) -> oip.RepositoryIndexResponse:
        """The one model. Raises NotFound for a repository by name: there is one, without a name."""
        if message.repository_name:
            raise NotFound("there is one repository, and it has no name: leave repository_name empty")
        rows = model.index(self._engine.core(), ready=self._engine.ready(), only_ready=message.ready)
        return oip.RepositoryIndexResponse(models=[oip.RepositoryIndexResponse.ModelIndex(**row) for row in rows])
