"""Stage `train`: the cells of the train split → the network's weights; the validation split says when to stop.

`torchrun --nproc-per-node 2 -m training.train` shares the work between processes. A training that was killed goes on
from build/checkpoint when it is started again.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from service.contract.errors import CommandParser, run_command
from training.arrays import write_npz
from training.config import configured
from training.io import read_json, read_params, read_parquet, write_json
from training.pixels import PREPARED, TRAIN, VALIDATION, Cells, cells

if TYPE_CHECKING:
    from training.distributed import Group
    from training.fit import Epoch, Fitted
    from training.models.cnn_gru import CnnGru

WEIGHTS = Path("build/weights.npz")
MODEL_CONFIG = Path("build/model_config.json")
REPORT = Path("reports/training")
PRETRAINED = Path("build/pretrained.npz")
CHECKPOINT = Path("build/checkpoint/train.npz")
"""Of a training that has not ended; no output of the stage, so that DVC leaves it there when it starts again."""


@dataclass(frozen=True)
class Plan:
    """What params.yaml says of training: sections `model` and `train`."""

    model: dict[str, Any]
    train: dict[str, Any]


def train(
    data: Cells,
    folder: Path,
    plan: Plan,
    *,
    report: Path,
    quiet: bool = False,
    checkpoint: Path | None = None,
    group: "Group | None" = None,
) -> "tuple[Fitted, dict[str, Any]]":
    """Train on the cells under `folder`; returns the weights and the network's config as JSON.

    DVCLive's curves go to the folder `report`, and what a killed training goes on from to the file `checkpoint`; of
    `group`'s processes the first one writes. Raises ConfigError for a plan that cannot be trained.
    """
    from training.augment import AugmentConfig
    from training.checkpoint import Checkpoint, key_of
    from training.distributed import ALONE
    from training.fit import Examples, TrainConfig, fit
    from training.initial import begin, initial_of
    from training.models.cnn_gru import CnnGruConfig

    group = group or ALONE
    settings = dict(plan.train)
    augmentation = configured(AugmentConfig, "train.augment", settings.pop("augment", {}))
    config = configured(TrainConfig, "train", settings)
    initial = initial_of(config)
    parts = [data.only(TRAIN), data.only(VALIDATION)]
    training, validation = (Examples(part.load(folder), part.label) for part in parts)
    height, width = training.images.shape[1:3]
    model = configured(
        CnnGruConfig, "model", {**plan.model, "classes": len(data.labels), "height": height, "width": width}
    )

    def start(network: "CnnGru") -> None:
        if initial is not None:
            line = begin(network, initial)
            if group.first:
                print(line)

    kept = None
    if checkpoint is not None:
        # Cells are named by the hash of their pixels.
        cells_of = (f"{split} {path} {label}" for part in parts for split, path, label in _rows(part))
        settled = [asdict(model), asdict(config), asdict(augmentation), group.size]
        kept = Checkpoint(checkpoint, key_of(settled, cells_of))
    started = perf_counter()
    with _Report(report, len(training) * config.epochs, quiet or not group.first, group.first) as shown:
        fitted = fit(
            training, validation, model, config, augmentation,
            on_step=shown.step, on_epoch=shown.epoch, start=start, checkpoint=kept, group=group,
        )  # fmt: skip
    if group.first:
        took, done = perf_counter() - started, len(fitted.history) - fitted.resumed
        went_on = f", going on after epoch {fitted.resumed}" if fitted.resumed else ""
        print(
            f"{len(fitted.history)} epochs of {len(training)} cells in {took:.0f} s{went_on}, "
            f"{done * len(training) / took:.0f} cells a second, {fitted.waited / took:.0%} of the time waiting for them"
        )
    return fitted, model.to_json()


class _Report:
    """DVCLive's curves, and a progress bar; nothing of it in a process that does not write."""

    def __init__(self, folder: Path, total: int, quiet: bool, writes: bool) -> None:
        self._folder, self._writes, self._stack = folder, writes, ExitStack()
        self._progress = tqdm(desc="train", total=total, unit=" cells", disable=True if quiet else None)

    def __enter__(self) -> "_Report":
        from dvclive import Live

        self._stack.enter_context(self._progress)
        if self._writes:
            # No dvc.yaml of its own and no experiment: this runs as a stage of a pipeline that declares its outputs.
            live = Live(str(self._folder), dvcyaml=None, report=None, save_dvc_exp=False, monitor_system=False)
            self._live = self._stack.enter_context(live)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def step(self, cells: int) -> None:
        self._progress.update(cells)

    def epoch(self, epoch: "Epoch") -> None:
        if self._writes:
            for name in ("learning_rate", "train_loss", "validation_loss", "validation_balanced_accuracy"):
                self._live.log_metric(name, getattr(epoch, name))
            self._live.next_step()
        self._progress.set_postfix(
            epoch=epoch.number + 1, loss=f"{epoch.validation_loss:.3f}",
            balanced=f"{epoch.validation_balanced_accuracy:.3f}",
        )  # fmt: skip


def _rows(part: Cells) -> Iterator[tuple[str, str, str]]:
    table = part.table
    return zip(table["split"], table["path"], table["label"], strict=True)


def main(argv: list[str] | None = None) -> int:
    """Train the network of params.yaml's `model` as its `train` says; write build/weights.npz and reports/training."""
    CommandParser(prog="python -m training.train", description=main.__doc__).parse_args(argv)
    # Threads that wait asleep: on cores shared with other work, busy waiting makes every step several times slower. It
    # is read when torch is loaded, hence the late imports.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from training.distributed import joined
    from training.initial import with_pretrained

    labels = tuple(read_json(PREPARED / "dataset.json")["labels"])
    data = cells(read_parquet(PREPARED / "manifest.parquet"), read_parquet(PREPARED / "split.parquet"), labels)
    plan = Plan(read_params("model"), with_pretrained(read_params("train"), PRETRAINED))
    with joined(str(plan.train.get("device"))) as group:
        fitted, model = train(data, PREPARED, plan, report=REPORT, checkpoint=CHECKPOINT, group=group)
        if group.first:
            write_json(MODEL_CONFIG, model)
            write_npz(WEIGHTS, fitted.weights)
            CHECKPOINT.unlink(missing_ok=True)
            best = fitted.best
            print(
                f"kept epoch {best.number + 1}: validation loss {best.validation_loss:.3f}, "
                f"balanced accuracy {best.validation_balanced_accuracy:.3f}"
            )
        group.wait()
    return 0


if __name__ == "__main__":
    run_command(main)
