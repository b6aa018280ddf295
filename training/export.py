"""Stage `export`: the trained, calibrated network as one ONNX graph, compared with torch on the whole test split.

A difference does not stop the stage: it is written down, and the gate refuses on it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.contract.errors import CommandParser, ConfigError, run_command
from service.contract.files import write_atomic
from service.contract.image import Pixels, row_check
from training.arrays import write_npz
from training.calibration import Calibration
from training.config import configured
from training.io import read_json, read_params, read_parquet, write_json
from training.models.serving import Said, Serving, answers
from training.onnx_file import to_onnx
from training.pixels import PREPARED, TEST, VALIDATION, cells
from training.quantise import Bounds, choose, quantise
from training.runtime import OUTPUTS, Runtime

MODEL = Path("build/onnx/model.onnx")
WARMUP = Path("build/onnx/warmup.npz")
REPORT = Path("reports/export.json")
WARMUP_CELLS = 8


@dataclass(frozen=True)
class ExportConfig:
    """Section `export` of params.yaml."""

    opset: int = 20
    tolerance: float = 1e-4
    """Largest difference of a probability."""
    int8: str = "off"
    """off, or auto: convolutions in 8-bit integers where that is faster and says the same (quantise.py)."""
    int8_tolerance: float = 1e-4
    """Largest difference of a probability between the int8 and the fp32 graph. The gate holds whichever is taken
    against the trained network: above the change plan's export.probability_difference it refuses what this takes."""
    int8_gain: float = 0.1
    """Share of the time that int8 must save."""

    def __post_init__(self) -> None:
        """Refuse what cannot be exported. Raises ValueError."""
        if self.opset < 18:
            raise ValueError(f"opset is {self.opset}: the exporter writes 18 or newer")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance is {self.tolerance}: it must be above 0")
        if self.int8 not in ("off", "auto"):
            raise ValueError(f'int8 is {self.int8!r}: it is "off" or auto, "off" in quotes (YAML reads off as false)')
        if not self.int8_tolerance > 0:
            raise ValueError(f"int8_tolerance is {self.int8_tolerance}: it must be above 0")
        if not 0 <= self.int8_gain < 1:
            raise ValueError(f"int8_gain is {self.int8_gain}: it is a share below 1")


def compare(wanted: Said, found: Said, images: Pixels) -> dict[str, Any]:
    """Largest differences of the exported graph's answers from torch's, and whether its row checks are exact."""
    pairs = [(name, getattr(wanted, name), getattr(found, name)) for name in OUTPUTS[:3]]
    apart = {name: float(np.abs(one.astype(np.float64) - other).max()) for name, one, other in pairs}
    return {
        "max_abs_probability_difference": apart["probabilities"],
        "max_abs_embedding_difference": apart["embedding"],
        "max_abs_ood_score_difference": apart["ood_score"],
        "row_check_exact": bool(np.array_equal(found.row_check, row_check(images))),
    }


def assess(graph: Serving, model: bytes, images: Pixels, config: ExportConfig) -> dict[str, Any]:
    """The content of reports/export.json: the exported graph `model` against `graph` on uint8 [n, H, W, 3].

    It is asked in batches and one by one, since a batch of one takes other paths through the runtime.
    """
    runtime = Runtime(model)
    wanted = answers(graph, images)
    in_batches = compare(wanted, runtime.say(images), images)
    one_by_one = compare(wanted, runtime.say(images, batch=1), images)
    found = {
        name: max(value, one_by_one[name]) if name != "row_check_exact" else value and one_by_one[name]
        for name, value in in_batches.items()
    }
    passed = found["row_check_exact"] and found["max_abs_probability_difference"] <= config.tolerance
    return {
        "passed": bool(passed),
        **found,
        "tolerance": config.tolerance,
        "cells": len(images),
        "onnx_sha256": hashlib.sha256(model).hexdigest(),
        "opset": config.opset,
        "model_bytes": len(model),
        "parameters": sum(weight.numel() for weight in graph.network.parameters()),
        "latency_ms_p50_batch1": round(runtime.latency_ms(images[:1]), 3),
    }


def warm_up(images: Pixels) -> Pixels:
    """Cells from all over the test set, which lies in the order of patients."""
    chosen = np.linspace(0, len(images) - 1, min(WARMUP_CELLS, len(images))).astype(int)
    some: Pixels = images[chosen]
    return some


def main(argv: list[str] | None = None) -> int:
    """Export the calibrated network to build/onnx and compare it with torch; write reports/export.json."""
    CommandParser(prog="python -m training.export", description=main.__doc__).parse_args(argv)
    from training.models import inference

    config = configured(ExportConfig, "export", read_params("export"))
    labels = tuple(read_json(PREPARED / "dataset.json")["labels"])
    data = cells(read_parquet(PREPARED / "manifest.parquet"), read_parquet(PREPARED / "split.parquet"), labels)
    images = data.only(TEST).load()
    graph = Serving(inference.load(), Calibration.load())
    network = graph.network.config
    if images.shape[1:3] != (network.height, network.width) or len(labels) != network.classes:
        raise ConfigError("the network is not of these cells: run `dvc repro train`")
    model, figures = to_onnx(graph, config.opset), None
    if config.int8 == "auto":
        known = data.only(VALIDATION).load()
        choice = choose(model, quantise(model, known), known, Bounds(config.int8_tolerance, config.int8_gain))
        model, figures = choice.model, choice.figures
    report, warm = assess(graph, model, images, config), warm_up(images)
    write_atomic(MODEL, model)
    write_npz(WARMUP, {"image": warm, **Runtime(model).say(warm)._asdict()})
    write_json(REPORT, {**report, "int8": figures})
    difference = report["max_abs_probability_difference"]
    print(
        f"{report['model_bytes'] / 1e6:.2f} MB, {report['parameters']} parameters, "
        f"{report['latency_ms_p50_batch1']:.1f} ms a cell; at most {difference:.1e} from torch on {len(images)} cells"
    )
    if figures:
        print(f"int8 {'taken' if figures['taken'] else 'not taken'}: {figures['because']}")
    if not report["passed"]:
        print("WARNING: the exported graph differs from the trained network; the gate will refuse it")
    return 0


if __name__ == "__main__":
    run_command(main)
