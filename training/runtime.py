"""An exported graph in onnxruntime, one thread, as it is served."""

import statistics
from time import perf_counter

import numpy as np

from service.contract.image import Pixels
from training.models.serving import Answers, Said

INPUT = "image"
OUTPUTS = Answers._fields
BATCH = 16
LATENCY_RUNS = 60
WARM_UP_RUNS = 5


class Runtime:
    """Answers, and how long one takes."""

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
        return latencies_ms([self], image, runs)[0]


def latencies_ms(runtimes: list[Runtime], image: Pixels, runs: int = LATENCY_RUNS) -> list[float]:
    """Median time of one picture [1, H, W, 3] in each of them, after a warm-up.

    They take turns: what else the machine does meanwhile slows all of them alike.
    """
    times: list[list[float]] = [[] for _ in runtimes]
    for _ in range(runs + WARM_UP_RUNS):
        for runtime, taken in zip(runtimes, times, strict=True):
            started = perf_counter()
            runtime.say(image)
            taken.append(perf_counter() - started)
    return [1000 * statistics.median(taken[WARM_UP_RUNS:]) for taken in times]
