"""The gRPC client for asyncio: what `service.client.Client` does, awaited."""

import asyncio
from collections.abc import Callable
from os import PathLike
from types import TracebackType
from typing import Any, Self

import grpc

from service import converters
from service.client import ATTEMPTS, CHANNEL_OPTIONS, GRPC_TARGET, TIMEOUT_S, named_cell
from service.client_access import Bearer, Pem, channel_credentials
from service.client_errors import from_status
from service.domain import Answer, ModelInfo, Review, ReviewAnswer
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.proto.blastwatch.v1.blastwatch_pb2_grpc import BlastClassifierStub
from service.retries import Policy, Refused


class AsyncClient:
    """BlastClassifier over grpc.aio, with the arguments, retries and errors of `service.client.Client`.

    To be made and used on one event loop; any number of its tasks may share one. A cancelled call is cancelled at the
    service too.
    """

    def __init__(
        self,
        target: str = GRPC_TARGET,
        *,
        timeout_s: float = TIMEOUT_S,
        attempts: int = ATTEMPTS,
        token: str | PathLike[str] = "",
        ca: Pem | None = None,
        certificate: Pem | None = None,
        key: Pem | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._target = target
        self._policy = Policy(attempts, timeout_s)
        credentials = credentials or channel_credentials(ca, certificate, key)
        self._bearer = Bearer(token, target, secure=credentials is not None)
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(target, credentials, options=CHANNEL_OPTIONS)
        self._stub: Any = BlastClassifierStub(self._channel)

    async def classify(self, image: bytes, **fields: Any) -> Answer:
        """Classifies one cell; `fields` are those of `service.domain.Cell`."""
        message = converters.cell_to_message(named_cell(image, fields))
        return converters.answer_from_message(await self._call(self._stub.Classify, message))

    async def review(
        self, record_id: str, label: str, role: str = "haematologist", sampled: bool = False
    ) -> ReviewAnswer:
        """Puts a reader's label on record. sampled: the cell was drawn at random for review."""
        message = converters.review_to_message(Review(record_id, label, role, sampled))
        return converters.review_answer_from_message(await self._call(self._stub.Review, message, repeatable=False))

    async def model(self) -> ModelInfo:
        """The model that answers now."""
        return converters.model_from_message(await self._call(self._stub.GetModel, pb.GetModelRequest()))

    async def close(self) -> None:
        """Lets the connection go; calls under way are cancelled."""
        await self._channel.close()

    async def _call(self, method: Callable[..., Any], message: object, *, repeatable: bool = True) -> Any:
        metadata = tuple(self._bearer.header().items())
        attempts = self._policy.begin(repeatable=repeatable)
        while True:
            try:
                return await self._attempt(method, message, timeout=attempts.left_s(), metadata=metadata)
            except Refused as refused:
                wait_s = attempts.wait_s(refused)
                if wait_s is None:
                    raise refused.error from None
            await asyncio.sleep(wait_s)

    async def _attempt(self, method: Callable[..., Any], message: object, **options: Any) -> Any:
        try:
            return await method(message, **options)
        except grpc.aio.AioRpcError as error:
            raise from_status(error, self._target) from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
