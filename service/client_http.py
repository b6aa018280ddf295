"""The client over HTTP."""

import ssl
import time
from dataclasses import replace
from os import PathLike
from types import TracebackType
from typing import Any, Self

import httpx

from service import converters
from service.client_access import Bearer, Pem, tls_context
from service.client_calls import ATTEMPTS, TIMEOUT_S, named_cell, patiently
from service.client_errors import from_response, unreachable
from service.contract import errors
from service.domain import TEXTS, Answer, ModelInfo, Review, ReviewAnswer
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.retries import Policy, Refused

HTTP_BASE = "http://127.0.0.1:3000"
IMAGE_TYPES = ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg"), (b"II*", "image/tiff"), (b"MM", "image/tiff"))


class HttpClient:
    """What `service.client.Client` does, with the same arguments, but for streams; `base` decides about TLS.

    Without `ca`, an https base is checked against the system's authorities, or by `verify`, a context made elsewhere.
    """

    def __init__(
        self,
        base: str = HTTP_BASE,
        *,
        timeout_s: float = TIMEOUT_S,
        attempts: int = ATTEMPTS,
        token: str | PathLike[str] = "",
        ca: Pem | None = None,
        certificate: Pem | None = None,
        key: Pem | None = None,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self._base = base
        self._policy = Policy(attempts, timeout_s)
        secure = base.startswith("https://")
        if not secure and not base.startswith("http://"):
            raise errors.ConfigError(f"{base} is no address of HTTP: give one such as {HTTP_BASE}")
        if ca is not None or certificate is not None or key is not None:
            if not secure:
                raise errors.ConfigError(f"{base} is plain HTTP, which uses no certificates: give an https address")
            verify = tls_context(ca, certificate, key)
        self._bearer = Bearer(token, base, secure=secure)
        self._http = httpx.Client(base_url=base, trust_env=False, verify=verify)

    def classify(self, image: bytes, **fields: Any) -> Answer:
        """Classifies one cell; `fields` are those of `service.domain.Cell`."""
        cell = named_cell(image, fields)
        values = {name: getattr(cell, name) for name in (*TEXTS, "pixel_size_um")} | {"test": str(cell.test).lower()}
        headers = {
            f"blastwatch-{name.replace('_', '-')}": str(value).encode() for name, value in values.items() if value
        }
        headers["content-type"] = _image_type(image).encode()
        reply = self._call("POST", "/v1/classify", content=image, headers=headers)
        return converters.answer_from_message(converters.from_reply(reply, pb.Prediction()))

    def review(self, record_id: str, label: str, role: str = "haematologist", sampled: bool = False) -> ReviewAnswer:
        """Puts a reader's label on record. sampled: the cell was drawn at random for review."""
        message = converters.review_to_message(Review(record_id, label, role, sampled))
        reply = self._call("POST", "/v1/reviews", repeatable=False, json=converters.to_json(message))
        return converters.review_answer_from_message(converters.from_reply(reply, pb.ReviewReply()))

    def model(self, *, card: bool = False) -> ModelInfo:
        """The model that answers now, with its card (Markdown) if that is wanted."""
        found = converters.model_from_message(converters.from_reply(self._call("GET", "/v1/model"), pb.Model()))
        return replace(found, card=self._call("GET", "/v1/model/card").decode()) if card else found

    def close(self) -> None:
        """Lets the connection go."""
        self._http.close()

    def _call(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool = True,
        headers: dict[str, bytes] | None = None,
        **options: Any,
    ) -> bytes:
        fields = {name: value.encode() for name, value in self._bearer.header().items()} | (headers or {})
        sent = [(name.encode(), value) for name, value in fields.items()]

        def attempt(left_s: float) -> bytes:
            limits = {"timeout": _Until(left_s)}
            try:
                response = self._http.request(method, path, headers=sent, extensions=limits, **options)
            except httpx.TimeoutException:
                raise Refused(errors.DeadlineExceeded(f"{self._base} did not answer in time")) from None
            except httpx.TransportError as error:
                raise Refused(unreachable(self._base, str(error))) from None
            if response.is_success:
                return response.content
            raise from_response(response, self._base)

        return patiently(self._policy, repeatable, attempt)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Until(dict[str, float]):
    """Timeouts of connecting, writing and reading that end together: by itself httpx gives each the whole time."""

    def __init__(self, left_s: float) -> None:
        super().__init__()
        self._until = time.monotonic() + left_s

    def get(self, _name: str, _default: object = None) -> float:
        """What is left for the next of them, in seconds."""
        return max(0.001, self._until - time.monotonic())


def _image_type(image: bytes) -> str:
    return next((kind for magic, kind in IMAGE_TYPES if image.startswith(magic)), "image/bmp")
