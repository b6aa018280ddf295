"""The classifier as a model of the Open Inference Protocol, whatever the transport.

One input `image`: BYTES [n], each element a PNG, JPEG, TIFF or BMP file, or UINT8 [n, H, W, 3], H rows of W RGB pixels,
which are brought to the model's field as those of a decoded file are; `pixel_size_um` is their size as sent. The
request's parameters are a cell's other fields and hold for all of its cells. Its id is the request id; with n > 1 that
of cell i is `id:i`, counted from 0.
"""

import asyncio
import math
import time
import uuid
from collections.abc import Sequence
from importlib import metadata

import numpy as np

from service.contract.errors import InvalidRequest, NotFound, NotReady
from service.core import Core
from service.domain import TEXTS, Answer, Cell, ModelInfo, PixelCell
from service.open_inference_tensors import InferReply, InferRequest, Input, Output, Parameters

TensorShape = tuple[str, str, tuple[int, ...]]
"""Name, datatype, shape; a size of -1 is the number of cells."""

NAME = "blast-classifier"
PLATFORM = "onnx_onnxv1"
SERVER = "blastwatch"
EXTENSIONS = ("binary_tensor_data", "model_repository(index)")
INPUT = "image"
INPUTS: tuple[TensorShape, ...] = ((INPUT, "BYTES", (-1,)),)
"""What metadata says: clients send every input that is listed, so the pixels' form is not a second one."""
OUTPUTS = {
    "probabilities": "FP32",
    "label": "BYTES",
    "malignant_probability": "FP32",
    "refer": "BOOL",
    "ood_score": "FP32",
    "record_id": "BYTES",
    "pixels_sha256": "BYTES",
}
FIELDS = (*(name for name in TEXTS if name != "request_id"), "pixel_size_um", "test")
TIMEOUT = "timeout"
"""Triton's parameter: microseconds that the caller gives the request."""
SWAPS = 3


def check_model(name: str, version: str, served: str | None) -> None:
    """Raises NotFound for another model, or another version than the one `served`; without one (None) any will do."""
    if name != NAME:
        raise NotFound(f"there is no such model: this service has {NAME}")
    if version and served is not None and version != served:
        raise NotFound(f"there is no such version of {NAME}: {served} answers now")


def served_version(core: Core) -> str | None:
    """The version that answers now; None while there is none."""
    try:
        return core.model().version
    except NotReady:
        return None


def index(core: Core, *, ready: bool, only_ready: bool) -> list[dict[str, str]]:
    """What is in the repository: name, version, state and the reason for it."""
    if only_ready and not ready:
        return []
    state, reason = ("READY", "") if ready else ("UNAVAILABLE", "no model is loaded, or the service is stopping")
    return [{"name": NAME, "version": served_version(core) or "", "state": state, "reason": reason}]


def server_version() -> str:
    """The version of this package; empty inside a Bento, which has its files and not its metadata."""
    try:
        return metadata.version("blastwatch")
    except metadata.PackageNotFoundError:
        return ""


def outputs_of_model(model: ModelInfo) -> tuple[TensorShape, ...]:
    """Every output."""
    return tuple(
        (name, datatype, (-1, len(model.labels)) if name == "probabilities" else (-1,))
        for name, datatype in OUTPUTS.items()
    )


async def infer(
    core: Core, request: InferRequest, *, transport: str, client: str, deadline: float | None, max_cells: int
) -> InferReply:
    """Answers every cell of a request, or raises the first error of any: NotFound, or what `Core.classify` raises.

    `deadline` is on time.monotonic(). The cells go into the core together, so that they are computed together.
    """
    check_model(request.model, request.version, core.model().version)
    names = _asked(request.outputs)
    cells = _cells(request, max_cells)
    deadline = _sooner(deadline, request.parameters)

    async def ask(chosen: Sequence[Cell]) -> list[Answer]:
        tasks = [
            asyncio.ensure_future(
                core.classify_let_in(
                    cell, transport=transport, client=client, deadline=deadline, canary=not request.version
                )
            )
            for cell in chosen
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    with core.let_in(client, len(cells)):
        answers = await ask(cells)
        for _ in range(SWAPS):
            versions = {answer.model_version for answer in answers}
            if len(versions) == 1:
                version = answers[0].model_version
                check_model(request.model, request.version, version)
                return InferReply(NAME, version, request.id, _outputs(answers, _labels(core, answers[0]), names))
            # The model was changed meanwhile, and a reply names one version: what the old one answered is asked again.
            newest = core.model().version
            stale = [index for index, answer in enumerate(answers) if answer.model_version != newest]
            for index, answer in zip(stale, await ask([cells[index] for index in stale]), strict=True):
                answers[index] = answer
    raise NotReady("the model is being changed: send the request again")


def _asked(names: tuple[str, ...]) -> tuple[str, ...]:
    if any(name not in OUTPUTS for name in names):
        raise InvalidRequest(f"an unknown output is asked for: there are {', '.join(OUTPUTS)}")
    if len(set(names)) < len(names):
        raise InvalidRequest("an output is asked for twice: name each once")
    return names or tuple(OUTPUTS)


def _cells(request: InferRequest, max_cells: int) -> list[Cell]:
    if [tensor.name for tensor in request.inputs] != [INPUT]:
        raise InvalidRequest(f"the model has one input: send {INPUT}, once")
    (tensor,) = request.inputs
    pictures = _files(tensor, max_cells) if tensor.datatype == "BYTES" else _pixels(tensor, max_cells)
    fields = _fields(request.parameters)
    # Cells of a request without an id get one that is made up here, so that they still are themselves after a swap.
    prefix = request.id or uuid.uuid4().hex
    ids = [request.id] if len(pictures) == 1 else [f"{prefix}:{index}" for index in range(len(pictures))]
    return [
        PixelCell(picture, request_id=name, height=tensor.shape[1], width=tensor.shape[2], **fields)  # type: ignore[arg-type]
        if tensor.datatype == "UINT8"
        else Cell(picture, request_id=name, **fields)  # type: ignore[arg-type]
        for picture, name in zip(pictures, ids, strict=True)
    ]


def _files(tensor: Input, max_cells: int) -> Sequence[bytes]:
    if len(tensor.shape) != 1:
        raise InvalidRequest(f"{INPUT} as BYTES has the shape [n], one element a file")
    _check_count(tensor.shape[0], max_cells)
    if len(tensor.values) != tensor.shape[0]:
        raise InvalidRequest(f"{INPUT} has {len(tensor.values)} elements: its shape says {tensor.shape[0]}")
    return list(tensor.values)  # type: ignore[arg-type]  # BYTES are split


def _pixels(tensor: Input, max_cells: int) -> Sequence[bytes]:
    if tensor.datatype != "UINT8":
        raise InvalidRequest(f"{INPUT} is BYTES [n] (files) or UINT8 [n, H, W, 3] (pixels)")
    if len(tensor.shape) != 4 or tensor.shape[3] != 3 or min(tensor.shape) < 1:
        raise InvalidRequest(f"{INPUT} as UINT8 has the shape [n, H, W, 3]: RGB pixels, row by row")
    _check_count(tensor.shape[0], max_cells)
    size = math.prod(tensor.shape)
    if len(tensor.values) != size:
        raise InvalidRequest(f"{INPUT} has {len(tensor.values)} bytes: its shape says {size}")
    data = bytes(tensor.values)  # type: ignore[arg-type]  # UINT8 are not split
    step = size // tensor.shape[0]
    return [data[start : start + step] for start in range(0, size, step)]


def _check_count(count: int, max_cells: int) -> None:
    if not 1 <= count <= max_cells:
        raise InvalidRequest(f"the request has {count} cells: send 1 to {max_cells}")


def _fields(parameters: Parameters) -> dict[str, object]:
    """The parameters as fields of a cell; names are checked, for a typo would lose the patient."""
    if any(name not in (*FIELDS, TIMEOUT) for name in parameters):
        raise InvalidRequest(f"an unknown parameter: the known ones are {', '.join(FIELDS)} and {TIMEOUT}")
    found: dict[str, object] = {}
    for name, value in parameters.items():
        if name == "test":
            if not isinstance(value, bool):
                raise InvalidRequest("the parameter test is a boolean")
            found[name] = value
        elif name == "pixel_size_um":
            found[name] = _number(value)
        elif name != TIMEOUT:
            if not isinstance(value, str):
                raise InvalidRequest(f"the parameter {name} is a text")
            found[name] = value
    return found


def _number(value: object) -> float:
    """Text too: older messages of the protocol have no parameter for fractions. Too large a number is infinite."""
    try:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        pass
    raise InvalidRequest("the parameter pixel_size_um is a number of micrometres")


def _sooner(deadline: float | None, parameters: Parameters) -> float | None:
    value = parameters.get(TIMEOUT, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise InvalidRequest(f"the parameter {TIMEOUT} is a whole number of microseconds")
    if value == 0:
        return deadline
    until = time.monotonic() + value / 1e6
    return until if deadline is None else min(deadline, until)


def _labels(core: Core, answer: Answer) -> tuple[str, ...]:
    """The labels in the model's order, which a record from the store may have lost; after a swap in the record's."""
    model = core.model()
    return model.labels if model.version == answer.model_version else tuple(answer.probabilities)


def _outputs(answers: Sequence[Answer], labels: tuple[str, ...], names: Sequence[str]) -> tuple[Output, ...]:
    return tuple(_output(name, answers, labels) for name in names)


def _output(name: str, answers: Sequence[Answer], labels: tuple[str, ...]) -> Output:
    datatype, count = OUTPUTS[name], len(answers)
    if name == "probabilities":
        rows = [[answer.probabilities[label] for label in labels] for answer in answers]
        return Output(
            name, datatype, (count, len(labels)), np.array(rows, dtype=np.float32), {"labels": ",".join(labels)}
        )
    values = [getattr(answer, name) for answer in answers]
    if datatype == "BYTES":
        return Output(name, datatype, (count,), values)
    numbers = np.array(values, dtype=np.float32) if datatype == "FP32" else np.array(values, dtype=np.bool_)
    return Output(name, datatype, (count,), numbers)
