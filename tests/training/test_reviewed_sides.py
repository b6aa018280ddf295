"""Reviewed cells and the frozen test set, with the real export, preparation and split between them."""

from pathlib import Path

import numpy as np
import pytest

from service.contract.image import Field, Pixels, decode, encode_png
from service.contract.pixels import PixelStore
from service.contract.records import PredictionRecord
from service.contract.store import Store
from tests.support.images import smear
from tests.support.records import prediction, review
from training.datasets import SourceCell, carried
from training.datasets.reviewed import Reviewed, export
from training.io import read_parquet, write_parquet
from training.prepare import prepare
from training.reviewed_sides import said, sides
from training.split import Frozen, SplitConfig, split

FIELD = Field(96, 96, 20.0)
LABELS = ("healthy", "L1")
CONFIG = SplitConfig(salt="pepper")


class Hospital:
    """Prepared cells of 24 patients with a frozen test set, and a store whose cells readers label."""

    malignant = ("L1",)
    labels = LABELS
    name, scale_known, notes = "first", True, ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pictures = {number: smear(number, 96) for number in range(24)}
        self.prepared = folder / "prepared"
        self.store, self.pixels = Store(f"sqlite:///{folder}/store.db"), PixelStore(folder / "pixels")
        self.frozen = Frozen(CONFIG.salt)
        self.prepare(self)

    def cells(self) -> list[SourceCell]:
        """One a patient."""
        of = [(f"p{number:02d}", encode_png(picture)) for number, picture in self.pictures.items()]
        size = FIELD.pixel_size_um
        return [
            SourceCell(
                image, LABELS[number % 2], patient, "here", "giemsa", "one", size, f"first/{number}", fitted=True
            )
            for number, (patient, image) in enumerate(of)
        ]

    def prepare(self, *sources: "Hospital | Reviewed") -> None:
        done = prepare(sources, LABELS, FIELD, self.prepared / "cells", workers=1, quiet=True)  # type: ignore[arg-type]
        write_parquet(self.prepared / "manifest.parquet", done.manifest)
        table, self.frozen = split(done.manifest, LABELS, CONFIG, self.frozen)
        write_parquet(self.prepared / "split.parquet", table)

    def tested(self) -> list[tuple[str, str]]:
        """(patient, name of its picture) of the test set."""
        manifest, table = (read_parquet(self.prepared / f"{name}.parquet") for name in ("manifest", "split"))
        rows = manifest[(table["split"] == "test").to_numpy()]
        return list(zip(rows["patient"], rows["pixels_sha256"], strict=True))

    def side(self, record: PredictionRecord) -> str:
        """Where the split put the cell of that record; "" when it is not among the prepared ones."""
        manifest, table = (read_parquet(self.prepared / f"{name}.parquet") for name in ("manifest", "split"))
        found = table.loc[(manifest["source"] == f"reviewed/{record.record_id}").to_numpy(), "split"]
        return str(found.iloc[0]) if len(found) else ""

    def reviewed(self, number: int, picture: Pixels, patient: str) -> PredictionRecord:
        """An answer that a reader labelled."""
        name = self.pixels.save(picture)
        record = prediction(number, pixels_kept=True, pixels_sha256=name, patient=patient)
        self.store.insert_predictions([record])
        self.store.insert_reviews([review(record, "L1")])
        return record


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    return Hospital(tmp_path_factory.mktemp("hospital"))


def test_what_is_frozen_for_testing_never_trains(hospital: Hospital) -> None:
    """The same pixels, a near-duplicate and another cell of a test patient; a cell of somebody new may train."""
    before = hospital.tested()
    patient, name = before[0]
    picture = decode((hospital.prepared / "cells" / f"{name}.png").read_bytes())
    brighter = np.clip(picture.astype(np.int16) + 6, 0, 255).astype(np.uint8)
    same = hospital.reviewed(1, picture, "somebody")
    near = hospital.reviewed(2, np.roll(brighter, 1, axis=1), "")
    theirs = hospital.reviewed(3, smear(101, 96), patient)
    new = [hospital.reviewed(number, smear(100 + number, 96), f"new-{number}") for number in range(4, 12)]

    out = hospital.folder / "reviewed"
    done = export(hospital.store, hospital.pixels, out, field_um=FIELD.field_um, prepared=hospital.prepared)
    assert (done.written, done.tested) == (10, 1)
    hospital.prepare(hospital, Reviewed(out))

    assert hospital.side(same) == ""
    rows = read_parquet(hospital.prepared / "manifest.parquet").set_index("pixels_sha256")
    assert rows.loc[near.pixels_sha256, "near"] == rows.loc[name, "near"]  # the split knows them for one picture
    assert hospital.side(near) in ("test", "dropped")
    assert hospital.side(theirs) == "test"
    assert "train" in {hospital.side(record) for record in new}
    assert set(before) <= set(hospital.tested())
    counts = sides(hospital.prepared)
    assert sum(counts.values()) == 10
    assert counts["test"] + counts["dropped"] >= 2
    assert f"{counts['train']} train" in said(counts)
    # Once more, with what is now frozen: the label that a test cell has is not the reader's to change.
    hospital.store.insert_reviews([review(theirs, "healthy", time="2027-01-01T00:00:00.000000+00:00")])
    export(hospital.store, hospital.pixels, out, field_um=FIELD.field_um, prepared=hospital.prepared)
    assert carried.tested_pictures(hospital.prepared)[theirs.pixels_sha256].label == "L1"
    exported = read_parquet(out / "cells.parquet").set_index("record_id")
    assert exported.loc[theirs.record_id, "label"] == "L1"


def test_nothing_prepared_is_nothing_to_say(tmp_path: Path) -> None:
    assert sides(tmp_path) == {}
