"""A prepared folder and a params.yaml in which rows of the zoo run in seconds."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from service.contract.image import encode_png, pixels_sha256
from tests.support.networks import discs
from training.arrays import write_npz
from training.io import write_json, write_parquet
from training.zoo.rows import ROWS

LABELS = ("small", "middle", "large")
SMALL_MODEL = {"channels": [4, 8], "gru_hidden": 8, "features": 8, "dropout": 0.1}
TRAIN = {"seed": 0, "threads": 1, "device": "cpu", "epochs": 2, "patience": 2, "batch": 8, "learning_rate": 0.01}


def write(root: Path, *, number: int = 36, malignant: tuple[str, ...] = (), **zoo: Any) -> None:
    """`number` discs of three sizes, 32×32, two a unit, and parameters for two folds."""
    write_npz(root / "build/pretrained.npz", {})  # as the pretrain stage where nothing is asked of it
    images, label = discs(number, classes=3, size=32)
    rows = []
    (root / "prepared" / "cells").mkdir(parents=True)
    for k, (image, one) in enumerate(zip(images, label.tolist(), strict=True)):
        path = f"cells/{pixels_sha256(image)}.png"
        (root / "prepared" / path).write_bytes(encode_png(image))
        content = pixels_sha256(image)
        rows.append({"path": path, "pixels_sha256": content, "label": LABELS[one], "unit": f"{one}-{k // 6}"})
    write_parquet(root / "prepared/manifest.parquet", pd.DataFrame(rows))
    write_json(root / "prepared/dataset.json", {"labels": list(LABELS), "malignant": list(malignant)})
    params = {
        "data": {"sources": [{"kind": "folder"}]},
        "evaluate": {"folds": 2, "seed": 0},
        "split": {"validation": 0.3},
        "model": SMALL_MODEL,
        "train": TRAIN,
        "zoo": {"bootstrap": 50, "trees": 20, "rows": settings(), **zoo},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def settings() -> dict[str, dict[str, object]]:
    """Every row, at its cheapest."""
    return {
        name: {"mode": "features"} if row.kind in ("network", "composed") and name != "sdct" else {}
        for name, row in ROWS.items()
    }


def edit(root: Path, section: str, **values: Any) -> None:
    """Change a section of params.yaml."""
    path = root / "params.yaml"
    content = yaml.safe_load(path.read_text())
    content[section] |= values
    path.write_text(yaml.safe_dump(content))


def kept(root: Path, row: str) -> dict[str, bytes]:
    """The folds of a row that were kept."""
    return {path.name: path.read_bytes() for path in sorted((root / "build/zoo" / row).rglob("*.npz"))}


def expression(root: Path, *, train: int = 12, test: int = 8, genes: int = 40) -> Path:
    """Golub's three files, made up: genes 0…4 are high in ALL."""
    rng, folder = np.random.default_rng(0), root / "golub"
    folder.mkdir()
    patients = [str(k + 1) for k in range(train + test)]
    kind = ["ALL" if k % 3 else "AML" for k in range(train + test)]
    pairs = [f"{patient},{name}" for patient, name in zip(patients, kind, strict=True)]
    (folder / "actual.csv").write_text("\n".join(["patient,cancer", *pairs]) + "\n")
    values = rng.normal(400, 40, (train + test, genes))
    values[np.array(kind) == "ALL", :5] += 4000
    for name, part in (("train", range(train)), ("independent", range(train, train + test))):
        header = ["Gene Description", "Gene Accession Number", *(f"{patients[k]},call" for k in part)]
        lines = [",".join([f"gene {g}", f"G{g}", *(f"{values[k, g]:.0f},P" for k in part)]) for g in range(genes)]
        (folder / f"data_set_ALL_AML_{name}.csv").write_text("\n".join([",".join(header), *lines]) + "\n")
    return folder
