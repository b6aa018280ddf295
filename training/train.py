"""Stage `train`: the cells of the train split → the network's weights; the validation split says when to stop."""

import os
from dataclasses import dataclass
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
    from training.fit import Epoch, Fitted

WEIGHTS = Path("build/weights.npz")
MODEL_CONFIG = Path("build/model_config.json")
REPORT = Path("reports/training")


@dataclass(frozen=True)
class Plan:
    """What params.yaml says of training: sections `model` and `train`."""

    model: dict[str, Any]
    train: dict[str, Any]


def train(
    data: Cells, folder: Path, plan: Plan, *, report: Path, quiet: bool = False
) -> "tuple[Fitted, dict[str, Any]]":
    """Train on the cells under `folder`; returns the weights and the network's config as JSON.

    DVCLive's curves go to the folder `report`. Raises ConfigError for a plan that cannot be trained.
    """
    from dvclive import Live

    from training.augment import AugmentConfig
    from training.fit import Examples, TrainConfig, fit
    from training.models.cnn_gru import CnnGruConfig

    settings = dict(plan.train)
    augmentation = configured(AugmentConfig, "train.augment", settings.pop("augment", {}))
    config = configured(TrainConfig, "train", settings)
    training, validation = (
        Examples(part.load(folder), part.label) for part in (data.only(TRAIN), data.only(VALIDATION))
    )
    height, width = training.images.shape[1:3]
    model = configured(
        CnnGruConfig, "model", {**plan.model, "classes": len(data.labels), "height": height, "width": width}
    )
    started = perf_counter()
    total = len(training) // min(config.batch, len(training)) * min(config.batch, len(training)) * config.epochs
    # No dvc.yaml of its own and no experiment: this runs as a stage of a pipeline that declares its outputs.
    with (
        Live(str(report), dvcyaml=None, report=None, save_dvc_exp=False, monitor_system=False) as live,
        tqdm(desc="train", total=total, unit=" cells", disable=True if quiet else None) as progress,
    ):

        def on_epoch(epoch: "Epoch") -> None:
            for name in ("learning_rate", "train_loss", "validation_loss", "validation_balanced_accuracy"):
                live.log_metric(name, getattr(epoch, name))
            live.next_step()
            progress.set_postfix(
                epoch=epoch.number + 1, loss=f"{epoch.validation_loss:.3f}",
                balanced=f"{epoch.validation_balanced_accuracy:.3f}",
            )  # fmt: skip

        fitted = fit(training, validation, model, config, augmentation, on_step=progress.update, on_epoch=on_epoch)
    seen = total * len(fitted.history) // config.epochs
    took = perf_counter() - started
    print(f"{len(fitted.history)} epochs of {len(training)} cells in {took:.0f} s, {seen / took:.0f} cells a second")
    return fitted, model.to_json()


def main(argv: list[str] | None = None) -> int:
    """Train the network of params.yaml's `model` as its `train` says; write build/weights.npz and reports/training."""
    CommandParser(prog="python -m training.train", description=main.__doc__).parse_args(argv)
    # Threads that wait asleep: on cores shared with other work, busy waiting makes every step several times slower. It
    # is read when torch is loaded, hence the late imports.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    labels = tuple(read_json(PREPARED / "dataset.json")["labels"])
    data = cells(read_parquet(PREPARED / "manifest.parquet"), read_parquet(PREPARED / "split.parquet"), labels)
    plan = Plan(read_params("model"), read_params("train"))
    fitted, model = train(data, PREPARED, plan, report=REPORT)
    write_json(MODEL_CONFIG, model)
    write_npz(WEIGHTS, fitted.weights)
    best = fitted.best
    print(
        f"kept epoch {best.number + 1}: validation loss {best.validation_loss:.3f}, "
        f"balanced accuracy {best.validation_balanced_accuracy:.3f}"
    )
    return 0


if __name__ == "__main__":
    run_command(main)
