"""One epoch over many synthetic cells: images a second, and the share of the time that training waits for data.

    python -m benchmarks.training [--cells 100000] [--threads 2] [--write docs/results/training.md]

The cells are drawn first (about 160 a second and core) into a file under build/drawn, from which training maps them: no
run holds them all in memory. Then one epoch of the recipe in params.yaml on the CPU, and on the GPU where there is one.
Counted as waiting is all the time in which the loop has no batch to train on: reading the pictures and, on the CPU,
augmenting them, as far as that is not done while the batch before is trained. On the GPU the augmentation is the GPU's
own work and counts as training. Validation is not counted. Shown too, for the CPU, is how much of the processor's time
goes into preparing batches, whoever waits for them, since it has the same cores.
"""

import argparse
import os
import platform
import resource
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from service.contract.files import write_atomic
from service.contract.image import Field
from training.config import configured
from training.datasets.synthetic import LABELS
from training.drawn import Drawn, draw
from training.io import read_params

if TYPE_CHECKING:
    from training.learner import Learner

SEED = 5
SITES = ("site-a", "site-b")
FOLDER = Path("build/drawn")


@dataclass(frozen=True)
class Figures:
    """Of one epoch."""

    device: str
    cells: int
    images_per_s: float
    waiting: float
    """Share of the epoch."""
    preparing: float
    """Processor time of preparing a batch, as a share of all processor time of the epoch; NaN where a GPU does it."""
    memory_gb: float
    """The most that the process had at a time, pages of the mapped file that it had just read included."""


def epoch(drawn: Drawn, device: str, threads: int) -> Figures:
    """One epoch as the train stage does it."""
    import torch

    from training.augment import AugmentConfig
    from training.distributed import ALONE
    from training.fit import Examples, TrainConfig, reproducible
    from training.learner import Learner
    from training.models.cnn_gru import CnnGruConfig

    settings = read_params("train")
    augmentation = configured(AugmentConfig, "train.augment", settings.pop("augment", {}))
    config = replace(configured(TrainConfig, "train", settings), device=device, epochs=1, threads=threads)
    height, width = drawn.images.shape[1:3]
    shape = {**read_params("model"), "classes": len(LABELS), "height": height, "width": width}
    model = configured(CnnGruConfig, "model", shape)
    place = torch.device(device)
    with reproducible(config.seed, threads, strict=device == "cpu"):
        if device == "cuda":  # kernels are chosen and loaded in the first steps
            warm = Examples(drawn.images[: 20 * config.batch], drawn.label[: 20 * config.batch])
            Learner(warm, model, config, augmentation, place, ALONE, lambda _: None).epoch(lambda _: None)
        cells = Examples(drawn.images, drawn.label)
        learner = Learner(cells, model, config, augmentation, place, ALONE, lambda _: None)
        cost = _preparing(learner) if device == "cpu" else float("nan")
        started, busy = time.perf_counter(), time.process_time()
        learner.epoch(lambda _: None)
        if device == "cuda":
            torch.cuda.synchronize()
        took, busy = time.perf_counter() - started, time.process_time() - busy
    return Figures(
        device, learner.steps * learner.batch, learner.steps * learner.batch / took, learner.feed.waited / took,
        cost * learner.steps / busy, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    )  # fmt: skip


def _preparing(learner: "Learner") -> float:
    """Seconds of processor time that one batch takes to prepare."""
    import torch

    order = torch.randperm(len(learner.label), generator=torch.Generator().manual_seed(0))
    parts = torch.split(order, learner.batch)[:10]
    state = learner.draws.get_state()
    started = time.process_time()
    for _ in learner.feed.batches(parts):
        pass
    learner.draws.set_state(state)
    learner.feed.waited = 0.0
    return (time.process_time() - started) / len(parts)


def table(figures: list[Figures], command: str, machine: str) -> str:
    """Markdown."""
    lines = [
        "# Training, one epoch", "",
        f"`{command}`, {time.strftime('%Y-%m-%d', time.gmtime())}, {machine}.", "",
        "| device | cells | images a second | waiting for data (≤ 10 %) | preparing, share of CPU time | memory |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for one in figures:
        preparing = "on the GPU" if one.device == "cuda" else f"{one.preparing:.0%}"
        lines.append(
            f"| {one.device} | {one.cells} | {one.images_per_s:.0f} | {one.waiting:.1%} | {preparing} | "
            f"{one.memory_gb:.1f} GB |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Draw the cells, time an epoch on each device, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", type=Path, help="a file for the table, beside standard output")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see training/train.py
    import torch

    field = configured(Field, "field", read_params("field"))
    started = time.perf_counter()
    drawn = draw(arguments.cells, SEED, SITES, field, FOLDER, workers=os.cpu_count() or 1)
    print(f"{len(drawn.label)} cells after {time.perf_counter() - started:.0f} s")
    figures = [epoch(drawn, device, arguments.threads) for device in ("cpu", "cuda")[: 1 + torch.cuda.is_available()]]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    machine = (
        f"{arguments.threads} threads on {os.cpu_count()} cores ({platform.machine()}){gpu}, "
        f"torch {torch.__version__}, load average {os.getloadavg()[0]:.1f}, its own threads included"
    )
    text = table(figures, f"python -m benchmarks.training --cells {arguments.cells}", machine)
    print(text)
    if arguments.write:
        write_atomic(arguments.write, text)


if __name__ == "__main__":
    main()
