"""Stage `pretrain`: where `pretrain.cells` asks for it, the configured network learns synthetic cells first.

A set of a few hundred cells then starts from a network that has seen cells, stains and scanners: the train stage and
the cross-validation start from build/pretrained.npz unless it is empty. The last layer is of the synthetic labels, and
stays behind.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from service.contract.errors import CommandParser, run_command
from service.contract.image import Field
from training.arrays import Arrays, write_npz
from training.config import configured
from training.datasets.synthetic import LABELS
from training.drawn import Drawn, draw
from training.io import read_params

if TYPE_CHECKING:
    from training.checkpoint import Checkpoint
    from training.fit import Fitted

PRETRAINED = Path("build/pretrained.npz")
DRAWN = Path("build/drawn")
CHECKPOINT = Path("build/checkpoint/pretrain.npz")
LAST_LAYER = "classify."


@dataclass(frozen=True)
class PretrainConfig:
    """Section `pretrain` of params.yaml; all else is as in section `train`."""

    cells: int = 0
    """0: none, and training starts from random weights or from `train.initial`."""
    seed: int = 11
    epochs: int = 8
    batch: int = 64
    learning_rate: float = 3e-3
    sites: tuple[str, ...] = ("site-a", "site-b")

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with. Raises ValueError."""
        if self.epochs < 1 or self.seed < 0 or self.cells < 0:
            raise ValueError(
                f"cells is {self.cells}, epochs {self.epochs} and seed {self.seed}: at least 0, at least 1, at least 0"
            )


def pretrain(
    drawn: Drawn,
    config: PretrainConfig,
    model: dict[str, Any],
    train: dict[str, Any],
    *,
    checkpoint: "Checkpoint | None" = None,
    quiet: bool = False,
) -> "Fitted":
    """Train section `model`'s network on drawn cells as section `train` says, less where to start from.

    Raises ConfigError for sections that cannot be trained.
    """
    from training.augment import AugmentConfig
    from training.fit import Examples, TrainConfig, fit
    from training.models.cnn_gru import CnnGruConfig

    # There are cells enough to choose the epoch by, whatever the set that follows has.
    settings = {
        **train, "seed": config.seed, "epochs": config.epochs, "batch": config.batch, "patience": config.epochs,
        "learning_rate": config.learning_rate, "initial": "", "initial_sha256": "",
    }  # fmt: skip
    augmentation = configured(AugmentConfig, "train.augment", settings.pop("augment", {}))
    recipe = configured(TrainConfig, "train", settings)
    height, width = drawn.images.shape[1:3]
    network = configured(CnnGruConfig, "model", {**model, "classes": len(LABELS), "height": height, "width": width})
    divide = len(drawn.label) - drawn.validation
    training, validation = (
        Examples(drawn.images[part], drawn.label[part]) for part in (slice(divide), slice(divide, None))
    )
    with tqdm(
        desc="pretrain", total=len(training) * config.epochs, unit=" cells", disable=True if quiet else None
    ) as progress:
        return fit(
            training,
            validation,
            network,
            recipe,
            augmentation,
            on_step=progress.update,
            checkpoint=checkpoint,
        )


def transferable(weights: Arrays) -> Arrays:
    """All but the last layer."""
    return {name: value for name, value in weights.items() if not name.startswith(LAST_LAYER)}


def main(argv: list[str] | None = None) -> int:
    """Train the network of params.yaml on synthetic cells as its `pretrain` says; write build/pretrained.npz."""
    CommandParser(prog="python -m training.pretrain", description=main.__doc__).parse_args(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see training/train.py
    from training.checkpoint import Checkpoint, key_of

    config = configured(PretrainConfig, "pretrain", read_params("pretrain"))
    if not config.cells:
        write_npz(PRETRAINED, {})
        print("pretrain.cells is 0: training does not start from synthetic cells")
        return 0
    field = configured(Field, "field", read_params("field"))
    model, train = read_params("model"), read_params("train")
    drawn = draw(config.cells, config.seed, config.sites, field, DRAWN, workers=os.cpu_count() or 1)
    checkpoint = Checkpoint(CHECKPOINT, key_of([asdict(config), asdict(field), model, train], map(str, drawn.patient)))
    fitted = pretrain(drawn, config, model, train, checkpoint=checkpoint)
    write_npz(PRETRAINED, transferable(fitted.weights))
    checkpoint.delete()
    rmtree(DRAWN)
    best = fitted.best
    print(
        f"kept epoch {best.number + 1} of {len(fitted.history)}: validation loss {best.validation_loss:.3f}, "
        f"balanced accuracy {best.validation_balanced_accuracy:.3f}"
    )
    return 0


if __name__ == "__main__":
    run_command(main)
