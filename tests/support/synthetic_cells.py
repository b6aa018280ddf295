"""Draws of synthetic cells that tests share."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from service.contract.image import decode
from training.datasets.smear.generator import Site, draw_cells
from training.datasets.smear.scanner import stored
from training.datasets.synthetic import LABELS, SITES, SyntheticConfig, plan

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Draw:
    """Cells as many of each label: six colour numbers, true sizes, labels (indices into LABELS), patients."""

    colour: Floats  # [n, 6]: mean and SD of R, G, B
    size: Floats  # [n, 2]: cell diameter (µm), nucleus area (µm²)
    label: npt.NDArray[np.int64]
    patient: npt.NDArray[np.str_]


def balanced_draw(site: Site = SITES["site-a"], *, patients: int, cells: int, seed: int) -> Draw:
    """`patients` of each diagnosis with `cells` each, then as many cells of each label as the rarest has."""
    config = SyntheticConfig(
        seed=seed, site=site.name, patients=dict.fromkeys(LABELS, patients), cells_per_patient=cells, prefix="draw"
    )
    specs = plan(config)
    generator = np.random.default_rng(seed)
    by_label = [[spec for spec in specs if spec.label == label] for label in LABELS]
    fewest = min(map(len, by_label))
    chosen = [group[k] for group in by_label for k in sorted(generator.permutation(len(group))[:fewest])]
    colour: list[list[float]] = []
    size: list[tuple[float, float]] = []
    for start in range(0, len(chosen), 16):
        pictures, truth = draw_cells(site, seed, chosen[start : start + 16])
        for picture in pictures:
            seen = decode(stored(picture, site.scanner)).reshape(-1, 3)
            colour.append([*seen.mean(axis=0), *seen.std(axis=0)])
        size += zip(truth.diameter, truth.nucleus_area, strict=True)
    return Draw(
        np.array(colour),
        np.array(size),
        np.array([LABELS.index(spec.label) for spec in chosen]),
        np.array([spec.patient for spec in chosen]),
    )


def forest(features: Floats, draw: Draw) -> tuple[float, float]:
    """Balanced accuracy over the labels and AUROC for malignancy of a random forest, 5 folds grouped by patient."""
    model = RandomForestClassifier(200, min_samples_leaf=3, random_state=0)
    guessed = cross_val_predict(
        model, features, draw.label, groups=draw.patient, cv=GroupKFold(5), method="predict_proba"
    )
    balanced = balanced_accuracy_score(draw.label, guessed.argmax(axis=1))
    return float(balanced), float(roc_auc_score(draw.label > 0, 1 - guessed[:, 0]))
