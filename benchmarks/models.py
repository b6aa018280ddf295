"""What each choice of the network costs: parameters, multiply-adds, size of the graph and time for one cell.

    OMP_NUM_THREADS=1 python -m benchmarks.models [--only NAME …] [--out docs/results/models.md]

Random weights: none of these figures depends on them. The time is that of the whole graph, from uint8 pixels to
answers, 128×128, one cell at a time, in onnxruntime on one thread; processor time, so that other work on the machine
shows less.
"""

import argparse
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from service.contract.files import write_atomic
from service.contract.image import Pixels
from training.calibration import Calibration, Distance
from training.export import ExportConfig
from training.models.cnn_gru import CnnGru, CnnGruConfig, parameter_count
from training.models.cost import multiply_adds
from training.models.picture import NUMBERS
from training.models.serving import Serving
from training.onnx_file import to_onnx
from training.quantise import quantise
from training.runtime import Runtime

OUT = Path("docs/results/models.md")
PARAMETERS, MEGABYTES, MILLISECONDS = 1_000_000, 4.0, 2.5
"""Budget of the default network."""
ROUNDS, RUNS, WARM_UP = 15, 11, 2
EMBEDDING = 24
DEFAULT = CnnGruConfig(classes=4)
VARIANTS = {
    "default: GRU, rows, mean": DEFAULT,
    "LSTM": replace(DEFAULT, rnn="lstm"),
    "no reader (CNN alone)": replace(DEFAULT, rnn="none"),
    "two directions, snake, attention, deconvolution": replace(
        DEFAULT, directions=2, order="snake", pooling="attention", stem="deconvolution"
    ),
    "8 views": replace(DEFAULT, views=8),
    "channels 32-64-128-192, GRU 128": replace(DEFAULT, channels=(32, 64, 128, 192), gru_hidden=128),
    "squeezenet1_0, 5 blocks": replace(DEFAULT, trunk="squeezenet1_0", trunk_layers=5),
    "squeezenet1_0, all 13 blocks": replace(DEFAULT, trunk="squeezenet1_0"),
}


@dataclass(frozen=True)
class Row:
    """One variant's costs."""

    name: str
    parameters: int
    multiply_adds: int
    megabytes: float
    milliseconds: float
    milliseconds_int8: float

    @property
    def in_budget(self) -> bool:
        """Whether the default network might be this one."""
        return (
            self.parameters <= PARAMETERS and self.megabytes <= MEGABYTES and self.milliseconds <= MILLISECONDS
        )  # fmt: skip

    def __str__(self) -> str:
        numbers = f"{self.parameters / 1e6:.2f} | {self.multiply_adds / 1e6:.0f} | {self.megabytes:.2f}"
        times = f"{self.milliseconds:.2f} | {self.milliseconds_int8:.2f}"
        return f"| {self.name} | {numbers} | {times} | {'yes' if self.in_budget else 'no'} |"


@dataclass(frozen=True)
class Built:
    """A variant's network and graph, and its runtimes for fp32 and int8."""

    network: CnnGru
    megabytes: float
    runtimes: tuple[Runtime, Runtime]


def build(config: CnnGruConfig) -> Built:
    """Build, export and quantise one variant."""
    torch.manual_seed(0)
    network = CnnGru(config).eval()
    model = to_onnx(Serving(network, _calibration(config)), ExportConfig().opset)
    return Built(network, len(model) / 1e6, (Runtime(model), Runtime(quantise(model, pictures(config, 32)))))


def measure(variants: Mapping[str, CnnGruConfig]) -> Iterator[Row]:
    """Export them all, then time them in turns, so that other work on the machine slows all of them alike."""
    built = {}
    for name, config in variants.items():
        started = time.perf_counter()
        built[name] = build(config)
        print(f"{name}: exported in {time.perf_counter() - started:.0f} s", flush=True)
    lowest = {name: [math.inf, math.inf] for name in variants}
    for _ in range(ROUNDS):
        for name, config in variants.items():
            picture = pictures(config, 1)
            for k, runtime in enumerate(built[name].runtimes):
                lowest[name][k] = min(lowest[name][k], _milliseconds(runtime, picture))
    for name, config in variants.items():
        network = built[name].network
        operations = multiply_adds(network, torch.zeros(1, 3, config.height, config.width))
        yield Row(name, parameter_count(network), operations, built[name].megabytes, *lowest[name])


def pictures(config: CnnGruConfig, number: int) -> Pixels:
    """Noise, uint8 [number, H, W, 3]."""
    shape = (number, config.height, config.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def table(rows: list[Row]) -> Iterator[str]:
    """docs/results/models.md, line by line."""
    columns = ("`model` in params.yaml", "parameters (M)", "multiply-adds (M)", "ONNX fp32 (MB)", "ms")
    yield "# What each choice of the network costs\n"
    yield "`OMP_NUM_THREADS=1 python -m benchmarks.models` made this file. The time is that of the whole graph, from"
    yield f"uint8 pixels to answers, 128×128, one cell at a time, in onnxruntime on one thread of {_processor()}:"
    yield f"the lowest of {ROUNDS} medians of {RUNS} runs, in processor time, since other work only ever adds to it."
    yield f"Budget of the default network: {PARAMETERS / 1e6:.1f} M parameters, {MEGABYTES:g} MB, {MILLISECONDS} ms.\n"
    yield f"| {' | '.join((*columns, 'ms with int8 convolutions', 'in budget'))} |"
    yield "|---|---:|---:|---:|---:|---:|---|"
    yield from map(str, rows)


def _calibration(config: CnnGruConfig) -> Calibration:
    """Of the shapes that the calibrate stage gives."""

    def space(width: int) -> Distance:
        return Distance(np.zeros((config.classes, width), np.float32), np.eye(width, dtype=np.float32))

    projection = np.eye(config.features, EMBEDDING, dtype=np.float32)
    return Calibration(1.0, 0.5, np.zeros(config.features, np.float32), projection, space(EMBEDDING), space(NUMBERS))


def _milliseconds(runtime: Runtime, picture: Pixels) -> float:
    """Median processor time of one picture, after a warm-up."""
    taken = []
    for _ in range(RUNS + WARM_UP):
        start = time.process_time()
        runtime.say(picture)
        taken.append(time.process_time() - start)
    return 1000 * statistics.median(taken[WARM_UP:])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "an unnamed processor"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "a processor")


def main() -> None:
    """Measure the variants and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="NAME", help="these variants, without a file")
    parser.add_argument("--out", type=Path, default=OUT, help="the table (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="names and configs of the variants")
    arguments = parser.parse_args()
    if arguments.list:
        for name, config in VARIANTS.items():
            print(name, asdict(config))
        return
    torch.set_num_threads(1)
    rows = list(measure({name: VARIANTS[name] for name in arguments.only or VARIANTS}))
    print("\n".join(map(str, rows)))
    if not arguments.only:
        write_atomic(arguments.out, "\n".join(table(rows)) + "\n")


if __name__ == "__main__":
    main()
