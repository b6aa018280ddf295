"""Stage `export`: the trained, calibrated network as one ONNX graph, compared with torch on the whole test split.

A difference does not stop the stage: it is written down, and the gate refuses on it.
"""

import hashlib
import statistics
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
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
from training.onnx_file import INPUT, OUTPUTS, to_onnx
from training.pixels import PREPARED, TEST, cells

MODEL = Path("build/onnx/model.onnx")
WARMUP = Path("build/onnx/warmup.npz")
REPORT = Path("reports/export.json")
WARMUP_CELLS = 8
BATCH = 16
LATENCY_RUNS = 60


@dataclass(frozen=True)
class ExportConfig:
    """Section `export` of params.yaml."""

    opset: int = 20
    tolerance: float = 1e-4
    """Largest difference of a probability."""

    def __post_init__(self) -> None:
        """Refuse what cannot be exported. Raises ValueError."""
        if self.opset < 18:
            raise ValueError(f"opset is {self.opset}: the exporter writes 18 or newer")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance is {self.tolerance}: it must be above 0")


class Runtime:
    """An exported graph in onnxruntime on one thread, as it is served."""

    def __init__(self, model: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def say(self, images: Pixels, *, batch: int = BATCH) -> Said:
        """Answers for uint8 [n, H, W, 3], n ≥ 1, in batches of at most `batch`."""
        parts = [
            self.session.run(list(OUTPUTS), {INPUT: images[start : start + batch]})
            for start in range(0, len(images), batch)
        ]
        return Said(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def latency_ms(self, image: Pixels, runs: int = LATENCY_RUNS) -> float:
        """Median time of one picture [1, H, W, 3], after a warm-up."""
        times = []
        for _ in range(runs + 5):
            started = perf_counter()
            self.say(image)
            times.append(perf_counter() - started)
        return 1000 * statistics.median(times[5:])


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
    model = to_onnx(graph, config.opset)
    report, warm = assess(graph, model, images, config), warm_up(images)
    write_atomic(MODEL, model)
    write_npz(WARMUP, {"image": warm, **Runtime(model).say(warm)._asdict()})
    write_json(REPORT, report)
    difference = report["max_abs_probability_difference"]
    print(
        f"{report['model_bytes'] / 1e6:.2f} MB, {report['parameters']} parameters, "
        f"{report['latency_ms_p50_batch1']:.1f} ms a cell; at most {difference:.1e} from torch on {len(images)} cells"
    )
    if not report["passed"]:
        print("WARNING: the exported graph differs from the trained network; the gate will refuse it")
    return 0


if __name__ == "__main__":
    run_command(main)
