"""Stage `claims` of training/dvc.yaml: two claims of the review (section 6), put to the test.

CNN alone, CNN-LSTM and CNN-GRU with as many weights each (training.equal_networks) train on the same folds of the same
cells: on all of the training units, on small parts of them, and with one class made rare. They are trained for as many
steps on a small part as on all of it, up to a factor, so that what is compared is data and not patience.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.contract.errors import CommandParser, ConfigError, run_command
from service.contract.files import write_atomic
from service.contract.image import Field
from training.claims_report import Told, markdown, report
from training.config import configured
from training.equal_networks import costs, equal_networks
from training.figures import Integers
from training.fold_runs import CACHE, Job, Material, Recipe, longer, run
from training.folds import Fold, folds, part_of_units
from training.io import read_params, write_json
from training.pixels import load_pixels

REPORT, TABLE = Path("reports/claims.json"), Path("reports/claims.md")
CELLS = Path("build/claims/cells")
SAME_WIDTH = "CNN-LSTM, the GRU's hidden size"


@dataclass(frozen=True)
class ClaimsConfig:
    """Section `claims` of params.yaml, less `labels`, `sources`, `field`, `model` and `train`."""

    rare: str
    """The class of which the imbalanced training sets keep a part."""
    folds: int = 3
    repeats: int = 1
    seed: int = 0
    shares: tuple[float, ...] = (0.25, 0.125)
    """Of the training units, for the small training sets."""
    rare_share: float = 0.2
    longest: float = 4.0
    """A small set is passed this many times as often at most."""
    margin: float = 0.02
    """Differences of accuracy below this make no difference."""
    bootstrap: int = 2000

    def __post_init__(self) -> None:
        """Refuse what is no part. Raises ValueError."""
        if not all(0 < share < 1 for share in (*self.shares, self.rare_share)):
            raise ValueError(f"shares is {self.shares} and rare_share {self.rare_share}: each lies between 0 and 1")
        if self.longest < 1 or self.margin <= 0:
            raise ValueError(f"longest is {self.longest} and margin {self.margin}: at least 1, and above 0")


def training_sets(material: Material, part: Fold, rare: int, config: ClaimsConfig) -> dict[str, Integers]:
    """By name the rows that a fold's networks train on; all of them are tested on the fold's test rows."""
    unit, label, train = material.unit, material.label, part.train
    seed = config.seed + part.repeat
    found = {"all": train}
    for share in config.shares:
        found[f"{share:.3g} of the units"] = part_of_units(unit, label, train, share, seed)
    cut = label[train] == rare
    kept = part_of_units(unit, label, train[cut], config.rare_share, seed)
    found["imbalanced"] = np.sort(np.concatenate([train[~cut], kept]))
    return found


def jobs_of(material: Material, recipes: Mapping[str, Recipe], rare: int, config: ClaimsConfig) -> list[Told]:
    """Every training: its system, its training set's name, and the job."""
    parts = folds(material.unit, material.label, folds=config.folds, repeats=config.repeats, seed=config.seed)
    found = []
    for part in parts:
        for name, train in training_sets(material, part, rare, config).items():
            times = min(len(part.train) / len(train), config.longest)
            found += [
                Told(system, name, Job(f"{system}, {name}", part.repeat, train, part.test, longer(recipe, times)))
                for system, recipe in recipes.items()
            ]
    return found


def answers(material: Material, told: Sequence[Told], logits: Sequence[Any], repeats: int) -> dict[Any, Integers]:
    """What each (training set, system) calls every cell in every repeat, [repeats, n]."""
    called: dict[Any, Integers] = {}
    for one, said in zip(told, logits, strict=True):
        at = called.setdefault((one.training_set, one.system), np.zeros((repeats, len(material.label)), dtype=np.int64))
        at[one.job.repeat, one.job.test] = np.asarray(said).argmax(axis=1)
    return called


def claims(
    material: Material,
    labels: Sequence[str],
    recipe: Recipe,
    config: ClaimsConfig,
    cache: Path,
    *,
    workers: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """The content of reports/claims.json. Raises ConfigError for a rare class that there is not."""
    from training.models.cnn_gru import CnnGruConfig

    if config.rare not in labels:
        raise ConfigError(f"params.yaml: claims.rare is {config.rare}, the labels are {', '.join(labels)}")
    height, width = material.images.shape[1:3]
    shape = {**recipe.model, "classes": len(labels), "height": height, "width": width}
    networks = equal_networks(configured(CnnGruConfig, "claims.model", shape))
    recipes = {
        name: Recipe(
            {key: value for key, value in asdict(network).items() if key not in ("classes", "height", "width")},
            recipe.train,
            recipe.validation,
        )
        for name, network in networks.items()
    }
    told = jobs_of(material, recipes, list(labels).index(config.rare), config)
    logits = run(material, [one.job for one in told], cache, workers=workers, quiet=quiet)
    wide = configured(CnnGruConfig, "claims.model", {**shape, "rnn": "lstm"})
    sizes: dict[str, list[int]] = {}
    for one in told:
        sizes.setdefault(one.training_set, []).append(len(one.job.train))
    return report(
        answers(material, told, logits, config.repeats),
        {name: round(float(np.mean(cells))) for name, cells in sizes.items()},
        costs({**networks, SAME_WIDTH: wide}),
        networks,
        material,
        list(labels),
        config,
    )


def own_cells(section: Mapping[str, Any], folder: Path) -> tuple[Material, list[str]]:
    """The cells of claims.sources, decoded to claims.field under `folder`, and what a reader must know of them."""
    from training.datasets import open_datasets
    from training.decoding import cores
    from training.prepare import prepare

    labels = list(section["labels"])
    field = configured(Field, "claims.field", section["field"])
    done = prepare(open_datasets(section["sources"]), labels, field, folder, workers=cores())
    manifest, index = done.manifest, {name: k for k, name in enumerate(labels)}
    material = Material(
        load_pixels([folder.parent / path for path in manifest["path"]]),
        np.array([index[name] for name in manifest["label"]], dtype=np.int64),
        np.array(manifest["unit"].tolist(), dtype=np.str_),
        manifest["pixels_sha256"].tolist(),
        len(labels),
    )
    notes = done.summary["notes"]
    return material, [str(note) for note in notes] if isinstance(notes, list) else []


def main(argv: list[str] | None = None) -> int:
    """Train CNN, CNN-LSTM and CNN-GRU as params.yaml's `claims` says; write reports/claims.md and claims.json."""
    parser = CommandParser(prog="python -m training.claims", description=main.__doc__)
    parser.add_argument("--workers", type=int, default=0, help="trainings at once; default: as many as cores")
    arguments = parser.parse_args(argv)
    section = dict(read_params("claims"))
    settings = {name: value for name, value in section.items() if name in ClaimsConfig.__dataclass_fields__}
    config = configured(ClaimsConfig, "claims", settings)
    recipe = Recipe(read_params("model") | section["model"], read_params("train") | section["train"])
    CELLS.parent.mkdir(parents=True, exist_ok=True)
    material, notes = own_cells(section, CELLS)
    found = claims(material, section["labels"], recipe, config, CACHE, workers=arguments.workers)
    found["notes"] = notes
    write_json(REPORT, found)
    write_atomic(TABLE, markdown(found))
    print("\n".join(f"{one['claim']}: {one['verdict']} ({one['because']})" for one in found["claims"]))
    return 0


if __name__ == "__main__":
    run_command(main)
