"""Convolutions in 8-bit integers, taken only where they are measured to be faster and to say the same.

Only the convolutions: the recurrent network and the distances have no integer form in onnxruntime that is worth it,
and the checksum must stay exact. Weights and activations get their ranges from cells of the validation split.
"""

import contextlib
import hashlib
import io
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from service.contract.image import Pixels, row_check
from training.onnx_file import strip
from training.runtime import INPUT, Runtime, latencies_ms

CALIBRATION_CELLS = 128
_BATCH = 16


@dataclass(frozen=True)
class Choice:
    """Which graph is served, and the figures it was chosen by: entry `int8` of reports/export.json."""

    model: bytes
    figures: dict[str, Any]


@dataclass(frozen=True)
class Bounds:
    """What an int8 graph must reach to be taken."""

    difference: float
    """Largest difference of a probability from the fp32 graph's."""
    gain: float
    """Share of the fp32 graph's time that is saved, at least."""


def quantise(model: bytes, images: Pixels) -> bytes:
    """The graph with int8 convolutions, their ranges from uint8 [n, H, W, 3], n ≥ 1; the same bytes on every run."""
    from onnxruntime import quantization as ort
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain, prepared, found = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "int8"))
        plain.write_bytes(model)
        # Shapes are symbolic in the batch alone, which onnx's own inference handles.
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        ort.quantize_static(
            str(prepared),
            str(found),
            _Reader(_spread(images)),
            quant_format=ort.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            # Seven bits of weight: sums of two products of eight overflow in AVX2 without VNNI.
            reduce_range=True,
            activation_type=ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8,
        )
        quantised = onnx.load(str(found))
    strip(quantised)
    data: bytes = quantised.SerializeToString(deterministic=True)
    return data


def choose(model: bytes, int8: bytes, images: Pixels, bounds: Bounds) -> Choice:
    """The int8 graph where it keeps to the bounds on uint8 [n, H, W, 3], else the fp32 one."""
    one, other = Runtime(model), Runtime(int8)
    wanted, found = one.say(images), other.say(images)
    difference = float(np.abs(wanted.probabilities.astype(np.float64) - found.probabilities).max())
    changed = int((wanted.probabilities.argmax(axis=1) != found.probabilities.argmax(axis=1)).sum())
    before, after = latencies_ms([one, other], images[:1])
    gain = 1 - after / before
    reasons = [
        f"a probability differs by {difference:.1e}, {bounds.difference:.1e} is allowed"
        if difference > bounds.difference
        else "",
        f"{changed} labels differ" if changed else "",
        "row checks differ" if not np.array_equal(found.row_check, row_check(images)) else "",
        f"it saves {gain:.0%} of the time, {bounds.gain:.0%} is asked for" if gain < bounds.gain else "",
    ]
    reasons = [reason for reason in reasons if reason]
    figures = {
        "taken": not reasons,
        "because": "; ".join(reasons) or f"it saves {gain:.0%} of the time and says the same",
        "cells": len(images),
        "max_abs_probability_difference": difference,
        "labels_changed": changed,
        "latency_ms_p50_batch1": {"fp32": round(before, 3), "int8": round(after, 3)},
        "model_bytes": {"fp32": len(model), "int8": len(int8)},
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in (("fp32", model), ("int8", int8))},
    }
    return Choice(model if reasons else int8, figures)


def _spread(images: Pixels) -> Pixels:
    """Cells from all over: they lie in the order of patients."""
    chosen = np.linspace(0, len(images) - 1, min(CALIBRATION_CELLS, len(images))).astype(int)
    some: Pixels = images[chosen]
    return some


class _Reader:
    """onnxruntime's CalibrationDataReader: batches, then None."""

    def __init__(self, images: Pixels) -> None:
        self.batches = iter([images[start : start + _BATCH] for start in range(0, len(images), _BATCH)])

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser prints advice on stdout and in the log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
