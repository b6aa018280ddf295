"""What each kind of data set asks of params.yaml where the defaults do not suit it; training.configure applies it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

HEALTHY, BLAST = "healthy", "blast"


@dataclass(frozen=True)
class Recommended:
    """What a set asks for where the defaults do not suit it."""

    labels: Mapping[str, str] = field(default_factory=dict)
    """The set's label → the pipeline's; empty: the set's own. The order is that of data.labels."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Options of the source."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Dotted names of params.yaml, in place of COMMON."""
    why: str = ""
    """For whoever runs the command."""


# What every set of pictures starts from, so that one configured after another inherits nothing of it.
COMMON: Mapping[str, object] = {
    "data.block": 1,
    "field.height": 128,
    "field.width": 128,
    "field.crop": 1.0,
    "validate.min_cells": 20,
    "validate.min_patients": 8,
    "validate.brightness": [0.15, 0.98],
    "pretrain.cells": 0,
    "train.epochs": 22,
    "train.patience": 6,
    "train.batch": 64,
    "train.learning_rate": 0.003,
    "train.augment.stain": 0.06,
    "train.augment.rotate": 0.0,
    "train.augment.zoom": 0.0,
    "train.augment.shift": 0.0,
    "model.views": 1,
}

# A few hundred pictures: synthetic cells first, any angle, and all epochs, for so few validation cells choose badly.
# Part by part: docs/results/recipe.md; on real cells: docs/results/tecom_wbc.md.
FEW: Mapping[str, object] = {
    "pretrain.cells": 8000,
    "train.epochs": 40,
    "train.patience": 0,
    "train.batch": 16,
    "train.learning_rate": 0.002,
    "train.augment.stain": 0.12,
    "train.augment.rotate": 180.0,
    "train.augment.zoom": 0.1,
    "train.augment.shift": 0.03,
    "model.views": 4,
}

RECOMMENDED: Mapping[str, Recommended] = {
    "all_idb1": Recommended(
        settings={**FEW, "field.height": 256, "field.width": 256},
        why="whole fields: at 256 pixels a cell is still some 25 pixels wide",
    ),
    "all_idb2": Recommended(
        settings={**FEW, "field.crop": 0.74},
        why="neighbours crowd the edges: in a trial the central 190 of 257 pixels were worth 2.7 points of accuracy",
    ),
    "taleqani": Recommended(
        settings={"data.block": 36},
        why="no patients are named: blocks of 36 consecutive pictures, about a patient each, are split as one",
    ),
    "c_nmc": Recommended(
        labels={"hem": HEALTHY, "all": BLAST},
        settings={"validate.brightness": [0.005, 0.98]},
        why="the background is blacked out, so pictures are dark",
    ),
    "bccd": Recommended(
        settings=FEW,
        options={"classes": ["WBC", "RBC", "Platelets"], "cut_cells": False},
        why="three kinds of cells, so that there is something to tell apart; those that the edge cuts are left out",
    ),
    "tecom_wbc": Recommended(settings={**FEW, "field.crop": 0.85}),
    "folder": Recommended(),
}
"""The sets that this command knows, and how each is best met."""
