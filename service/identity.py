"""Which answer belongs to which picture: checked, not assumed.

Two ties hold an answer to its picture. The graph's `row_check` ties a row of outputs to the pixels it was computed
from. The seal, taken as soon as the graph has answered, ties the four outputs of one row to each other. A row is handed
out only when its row check is that of the job's own pixels and its seal still fits, so permuted inputs, permuted rows,
and one output array that is permuted alone are all seen.

Not seen at run time: rows that are mixed up inside the graph, or in `Predictor.predict` before the seal is taken, by a
fault that leaves `row_check` alone. The test that compares each answer with the one its picture gets alone catches
those. A row check is a checksum, not a hash: two pictures that differ have the same one by a rare chance.
"""

import hashlib
import struct
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from service.contract.errors import BlastwatchError
from service.contract.image import Pixels
from service.contract.predictor import Outputs, Predictor

ModelT = TypeVar("ModelT")

Vector = npt.NDArray[np.float32]


class IdentityError(BlastwatchError):
    """The computed answer is not provably the one for this picture; it is withheld."""

    def __init__(self) -> None:
        super().__init__("the computed answer does not belong to the image sent, and is withheld: try again")


class OutputsError(BlastwatchError):
    """The model did not answer every picture of the batch exactly once."""


class Computed(NamedTuple, Generic[ModelT]):
    """A batch's outputs (n rows), the seal of each row, and the model that computed them."""

    outputs: Outputs
    seals: tuple[bytes, ...]
    model: ModelT


def compute(predictor: Predictor, batch: Pixels) -> Computed[Predictor]:
    """Run a batch, uint8 [n, H, W, 3], and seal it. Raises as `Predictor.predict`, and OutputsError."""
    return sealed(predictor.predict(batch), predictor)


def sealed(outputs: Outputs, model: ModelT) -> Computed[ModelT]:
    """Outputs with a seal for each row. Raises OutputsError when the arrays have different numbers of rows."""
    check_rows(outputs, len(outputs.row_check))
    columns = zip(outputs.row_check, outputs.probabilities, outputs.embedding, outputs.ood_score, strict=True)
    return Computed(outputs, tuple(seal(int(c), p, e, float(o)) for c, p, e, o in columns), model)


def seal(row_check: int, probabilities: Vector, embedding: Vector, ood_score: float) -> bytes:
    """16 bytes that no other combination of a row check, [C], [E] and a score has."""
    sizes = struct.pack("<qdII", row_check, ood_score, probabilities.size, embedding.size)
    return hashlib.blake2b(sizes + probabilities.tobytes() + embedding.tobytes(), digest_size=16).digest()


def check_rows(outputs: Outputs, wanted: int) -> None:
    """Raises OutputsError unless each of the four arrays has `wanted` rows."""
    counts = {
        "probabilities": len(outputs.probabilities),
        "embedding": len(outputs.embedding),
        "ood_score": len(outputs.ood_score),
        "row_check": len(outputs.row_check),
    }
    for name, count in counts.items():
        if count != wanted:
            raise OutputsError(f"the model gave {count} rows of {name} for {wanted} images")
