"""Stage `audit`: what a sceptic asks after the figures. On which cells do they hold, what does referring cost, what is
flagged that should not be answered, and could all of it be had without looking at the cell?

reports/evidence.json and reports/shortcuts.json, both parts of the model card; reports/audit for people to look at.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.contract.errors import CommandParser, run_command
from service.contract.image import Pixels
from training import bootstrap, shortcut
from training.abstention import abstention
from training.arrays import read_npz
from training.calibration import OOD_EDGE, Calibration
from training.config import configured
from training.figures import Floats, Integers
from training.flagged import Scores, flagged
from training.io import read_json, read_params, read_parquet, write_json
from training.ood_suite import suite
from training.pixels import PREPARED, TEST, TRAIN, VALIDATION, Cells, cells
from training.priors import cell_weights, priors_of
from training.shortcut_audit import audit
from training.slices import slice_table

EVIDENCE = Path("reports/evidence.json")
SHORTCUTS = Path("reports/shortcuts.json")
PICTURES = Path("reports/audit")
KNOWN = "known"
SLICES = ("site", "stain", "scanner")


@dataclass(frozen=True)
class AuditConfig:
    """Section `audit` of params.yaml."""

    pictures: int = 96
    """Of each kind of picture that no answer should be given for."""
    trees: int = 100
    """Of each forest."""
    bootstrap: int = 1000
    """Resamplings of the patients, for the intervals."""
    enough: int = 500
    """Cells that a slice needs; smaller ones are `insufficient`."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what says nothing. Raises ValueError."""
        for name, least in (("pictures", 12), ("trees", 1), ("bootstrap", 10), ("enough", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least {least}")


def evidence(
    test: Cells,
    malignant: tuple[str, ...],
    probabilities: npt.NDArray[np.float32],
    ood_score: Scores,
    strange: Mapping[str, tuple[Scores, npt.NDArray[np.str_]]],
    abstain: float,
    config: AuditConfig,
    priors: Floats | None = None,
) -> dict[str, Any]:
    """The content of reports/evidence.json, of n test cells with probabilities [n, C] and scores [n].

    `strange` has the scores and variants of each kind of the out-of-distribution suite (ood_suite.suite); `priors` are
    the shares of the labels [C] that the probabilities are for, where those are not the data's.
    """
    classes = len(test.labels)
    unit = test.column("unit")
    weight = bootstrap.patient_weights(unit, test.label, classes, draws=config.bootstrap, seed=config.seed)
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == test.label
    kinds = {"label": np.array(test.labels, dtype=np.str_)[test.label]}
    kinds |= {name: test.column(name) for name in SLICES if name in test.table}
    is_malignant = np.array([name in malignant for name in test.labels])
    return {
        "abstention": abstention(confidence, correct, abstain, weight, flagged=ood_score > OOD_EDGE),
        "out_of_distribution": flagged(ood_score, strange, OOD_EDGE),
        "slices": slice_table(
            kinds,
            test.label,
            probabilities,
            is_malignant,
            unit,
            weight,
            config.enough,
            None if priors is None else cell_weights(priors, test.label),
        ),
        "methods": {
            "intervals": f"95 %, {config.bootstrap} resamplings of patients within their class, seed {config.seed}",
            "out_of_distribution": f"{config.pictures} pictures a kind, made from test cells and procedural textures",
            "slices": f"figures where there are at least {config.enough} cells",
        },
    }


def forests(data: Cells, images: Mapping[str, Pixels], config: AuditConfig) -> dict[str, Integers | None]:
    """What a forest on each kind of shortcut, trained on train and validation cells, calls the test cells."""
    known, test = data.only(TRAIN, VALIDATION), data.only(TEST)
    pictures, pictures_of_test = images[KNOWN], images[TEST]
    pairs = {
        "colour": (shortcut.colour_features(pictures), shortcut.colour_features(pictures_of_test)),
        "cell size": (shortcut.size_features(pictures), shortcut.size_features(pictures_of_test)),
        "border pixels": (shortcut.border_features(pictures), shortcut.border_features(pictures_of_test)),
        "image size": tuple(map(shortcut.source_size_features, (known.table, test.table))),
        "file size": tuple(map(shortcut.file_size_features, (known.table, test.table))),
    }
    called: dict[str, Integers | None] = {}
    for name, (theirs, ours) in pairs.items():
        called[name] = None
        if theirs is not None and ours is not None:
            called[name] = shortcut.forest_predictions(theirs, known.label, ours, trees=config.trees, seed=config.seed)
    return called


def main(argv: list[str] | None = None) -> int:
    """Audit the calibrated network; write reports/evidence.json, reports/shortcuts.json and pictures of both."""
    CommandParser(prog="python -m training.audit", description=main.__doc__).parse_args(argv)
    from training import audit_plots
    from training.models import inference
    from training.models.serving import Serving, answers

    config = configured(AuditConfig, "audit", read_params("audit"))
    about, calibration = read_json(PREPARED / "dataset.json"), Calibration.load()
    data = cells(
        read_parquet(PREPARED / "manifest.parquet"), read_parquet(PREPARED / "split.parquet"), tuple(about["labels"])
    )
    outputs, test = read_npz(Path("build/test_outputs.npz")), data.only(TEST)
    images = {KNOWN: data.only(TRAIN, VALIDATION).load(), TEST: test.load()}
    graph = Serving(inference.load(), calibration)
    strange = {
        kind: (answers(graph, pictures).ood_score, variant)
        for kind, (pictures, variant) in suite(images[TEST], config.pictures, config.seed).items()
    }
    probabilities, scores = outputs["probabilities"], outputs["ood_score"]
    priors = priors_of(read_params(), test.labels)
    found = evidence(
        test, tuple(about["malignant"]), probabilities, scores, strange, calibration.abstain, config, priors
    )
    classes = len(test.labels)
    weight = bootstrap.patient_weights(
        test.column("unit"), test.label, classes, draws=config.bootstrap, seed=config.seed
    )
    called = probabilities.argmax(axis=1).astype(np.int64)
    shortcuts = audit(forests(data, images, config), test.label, called, classes, weight)
    write_json(EVIDENCE, found)
    write_json(SHORTCUTS, shortcuts)
    audit_plots.draw_all(PICTURES, found, shortcuts, scores, strange)
    ood = found["out_of_distribution"]
    least = min(ood["kinds"].items(), key=lambda item: item[1]["flagged"])
    print(
        f"flagged of {least[0]} {least[1]['flagged']:.1%}, of every other kind at least as many; "
        f"of test cells {ood['false_flags']:.1%}; answered {found['abstention']['coverage']['value']:.1%}"
    )
    return 0


if __name__ == "__main__":
    run_command(main)
