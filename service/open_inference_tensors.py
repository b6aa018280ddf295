"""Tensors and requests of the Open Inference Protocol as plain values, and its raw form of BYTES."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from service.contract.errors import InvalidRequest

Parameters = Mapping[str, object]

LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Input:
    """A tensor that came in. values: one item an element for BYTES, else the elements' bytes in row-major order."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[bytes] | bytes = field(repr=False)


@dataclass(frozen=True)
class Output:
    """A tensor that goes out. values: texts for BYTES, else float32 or bool of that shape."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[str] | npt.NDArray[np.float32] | npt.NDArray[np.bool_]
    parameters: Mapping[str, str] = field(default_factory=dict)

    def raw(self) -> bytes:
        """The elements as bytes: little-endian numbers, or BYTES with their lengths in front."""
        if isinstance(self.values, np.ndarray):
            return self.values.tobytes()
        return join_bytes([value.encode() for value in self.values])


@dataclass(frozen=True)
class InferRequest:
    """What to classify. version: empty for the one that answers now; outputs: the names asked for, empty for all."""

    model: str
    version: str
    id: str
    parameters: Parameters = field(repr=False)  # the patient is in there
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class InferReply:
    """The answers, one row a cell."""

    model: str
    version: str
    id: str
    outputs: tuple[Output, ...]


def tensor_of(name: str, datatype: str, shape: tuple[int, ...], raw: bytes) -> Input:
    """A tensor from its raw form. Raises InvalidRequest."""
    return Input(name, datatype, shape, split_bytes(raw) if datatype == "BYTES" else raw)


def join_bytes(values: Sequence[bytes]) -> bytes:
    """The raw form of BYTES: each element after its length, four bytes little-endian."""
    return b"".join(part for value in values for part in (LENGTH.pack(len(value)), value))


def split_bytes(raw: bytes) -> list[bytes]:
    """The elements of BYTES in their raw form. Raises InvalidRequest when the lengths do not add up."""
    found: list[bytes] = []
    position = 0
    while position < len(raw):
        start = position + LENGTH.size
        if start > len(raw):
            raise InvalidRequest("a BYTES tensor ends within a length: put four bytes of length before each element")
        position = start + LENGTH.unpack_from(raw, start - LENGTH.size)[0]
        if position > len(raw):
            raise InvalidRequest("a BYTES element is shorter than its length says: send the whole tensor")
        found.append(raw[start:position])
    return found
