"""Stage `prepare`: every cell decoded by the service's own function; nothing half-written, nothing dubious let in."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from service.contract.errors import ConfigError
from service.contract.image import Field, decode, load_field, pixels_sha256
from service.contract.statistics import STATISTICS, statistics
from tests.support.images import bmp, jpeg, png, tiff
from training import prepare as stage
from training.datasets import DatasetError, SourceCell
from training.datasets.synthetic import LABELS, stream
from training.io import read_json, read_parquet
from training.prepare import COLUMNS, Prepared, examples, field_of, prepare

FIELD = Field(32, 32, 8.0)
REPO = Path(__file__).parents[2]


class Given:
    """A data set of the cells it is given."""

    malignant: tuple[str, ...] = ("L1",)

    def __init__(self, cells: Sequence[SourceCell], *, scale_known: bool = True, notes: Sequence[str] = ()) -> None:
        self.name = "given"
        self.labels = LABELS
        self.scale_known = scale_known
        self.notes = list(notes)
        self._cells = cells

    def cells(self) -> Iterator[SourceCell]:
        """The cells."""
        yield from self._cells


def cell(number: int, label: str = "healthy", **changes: object) -> SourceCell:
    """A small picture of a patient."""
    made = SourceCell(png(number), label, f"patient-{number % 3}", "here", "giemsa", "one", 0.25, f"given/{number}")
    return replace(made, **changes)  # type: ignore[arg-type]


def run(
    cells: Sequence[SourceCell], folder: Path, labels: Sequence[str] = ("healthy", "L1"), workers: int = 1
) -> Prepared:
    return prepare([Given(cells)], labels, FIELD, folder / "cells", workers=workers, quiet=True)


def both_labels(count: int) -> list[SourceCell]:
    return [cell(k, "L1" if k % 2 else "healthy") for k in range(count)]


def test_manifest_has_a_row_a_cell_and_the_pixels_are_the_service_s(tmp_path: Path) -> None:
    cells = both_labels(6)
    manifest = run(cells, tmp_path).manifest
    assert tuple(manifest.columns) == COLUMNS
    for source, row in zip(cells, manifest.to_dict("records"), strict=True):
        pixels = load_field(source.image, FIELD, source.pixel_size_um)
        assert (decode((tmp_path / row["path"]).read_bytes()) == pixels).all()
        assert row["path"] == f"cells/{row['pixels_sha256']}.png"
        assert row["pixels_sha256"] == pixels_sha256(pixels)
        assert (row["label"], row["patient"], row["unit"]) == (source.label, source.patient, source.patient)
        assert (row["site"], row["stain"], row["scanner"], row["source"]) == ("here", "giemsa", "one", source.source)
        assert {name: row[name] for name in STATISTICS} == pytest.approx(statistics(pixels))
    assert len(list((tmp_path / "cells").iterdir())) == 6


def test_workers_change_nothing(tmp_path: Path) -> None:
    cells = both_labels(80)
    alone, together = run(cells, tmp_path / "a").manifest, run(cells, tmp_path / "b", workers=2).manifest
    assert alone.equals(together)
    names = [sorted(path.name for path in (tmp_path / folder / "cells").iterdir()) for folder in "ab"]
    assert names[0] == names[1]


def test_an_unscaled_picture_is_fitted_and_a_scaled_one_resampled(tmp_path: Path) -> None:
    cells = [cell(0, image=png(0, 64), pixel_size_um=0.0), cell(1, "L1", image=png(1, 64), pixel_size_um=0.125)]
    manifest = run(cells, tmp_path).manifest
    for source, path in zip(cells, manifest["path"], strict=True):
        assert (decode((tmp_path / path).read_bytes()) == load_field(source.image, FIELD, source.pixel_size_um)).all()


def test_a_crop_is_for_pictures_without_a_scale_that_are_not_a_field_already(tmp_path: Path) -> None:
    """Pixels that the service kept were cropped when it answered; a second crop would show another share."""
    field = replace(FIELD, crop=0.5)
    cells = [
        cell(0, image=png(0, 64), pixel_size_um=0.0),
        cell(1, "L1", image=png(1, 64), pixel_size_um=0.125),
        cell(2, image=png(2, 32), pixel_size_um=0.0, fitted=True),
    ]
    manifest = prepare([Given(cells)], ("healthy", "L1"), field, tmp_path / "cells", quiet=True).manifest
    pixels = [decode((tmp_path / path).read_bytes()) for path in manifest["path"]]
    np.testing.assert_array_equal(pixels[0], load_field(cells[0].image, field, 0.0))
    np.testing.assert_array_equal(pixels[1], load_field(cells[1].image, FIELD, 0.125))
    np.testing.assert_array_equal(pixels[2], decode(cells[2].image))


def test_what_is_prepared_is_what_the_service_sees_of_a_large_jpeg(tmp_path: Path) -> None:
    reduced = replace(FIELD, reduced=True)
    large = [jpeg(seed, size=150) for seed in range(2)]
    cells = [cell(0, image=large[0], pixel_size_um=0.0), cell(1, "L1", image=large[1], pixel_size_um=0.05)]
    found = prepare([Given(cells)], ("healthy", "L1"), reduced, tmp_path / "cells", quiet=True)
    for source, path in zip(cells, found.manifest["path"], strict=True):
        pixels = decode((tmp_path / path).read_bytes())
        np.testing.assert_array_equal(pixels, load_field(source.image, reduced, source.pixel_size_um))
        assert (pixels != load_field(source.image, FIELD, source.pixel_size_um)).any()
    assert found.manifest["width"].tolist() == found.manifest["height"].tolist() == [150, 150]


@pytest.mark.parametrize("wrong", [1, "yes", None])
def test_reduced_is_true_or_false(wrong: object) -> None:
    with pytest.raises(ConfigError, match=r"field.reduced is .*: give true or false"):
        field_of({"height": 32, "width": 32, "field_um": 20.0, "reduced": wrong})


def test_summary_counts(tmp_path: Path) -> None:
    summary = run([*both_labels(6), cell(7, "L1", site="there", patient="patient-9")], tmp_path).summary
    assert (summary["labels"], summary["malignant"], summary["scale_known"]) == (["healthy", "L1"], ["L1"], True)
    assert summary["counts"] == {"healthy": 3, "L1": 4}
    assert summary["counts_by_site"] == {"here": {"healthy": 3, "L1": 3}, "there": {"healthy": 0, "L1": 1}}
    assert summary["patients_by_label"] == {"healthy": 3, "L1": 4}
    assert (summary["cells"], summary["patients"], summary["notes"]) == (7, 4, [])


def test_scale_is_known_only_if_every_source_knows_it(tmp_path: Path) -> None:
    sets = [Given([cell(0)]), Given([cell(1, "L1")], scale_known=False, notes=["from a phone"])]
    summary = prepare(sets, ("healthy", "L1"), FIELD, tmp_path / "cells", quiet=True).summary
    assert summary["scale_known"] is False
    assert summary["notes"] == ["given: from a phone"]


def test_without_patients_each_picture_is_a_unit_and_that_is_said_loudly(tmp_path: Path) -> None:
    """The same pixels in two files are one unit: they may not end up on both sides of a split."""
    anonymous = [
        cell(0, patient=""),
        cell(1, "L1", patient=""),
        cell(0, patient="", image=tiff(0), source="given/copy"),
    ]
    done = run(anonymous, tmp_path)
    assert list(done.manifest["unit"]) == list(done.manifest["group"])
    assert done.manifest["unit"].nunique() == 2
    notes = done.summary["notes"]
    assert isinstance(notes, list)
    assert len(notes) == 2
    assert "1 exact copies left out" in notes[0]
    assert notes[1].startswith("WARNING: 2 cells of here name no patient")


def test_copies_under_two_patients_stay_and_make_them_one_unit(tmp_path: Path) -> None:
    cells = [cell(0), cell(0, patient="patient-5", image=bmp(0)), cell(1, "L1"), cell(3), cell(5, patient="patient-5")]
    done = run(cells, tmp_path)
    assert done.manifest["unit"].tolist() == ["patient-0", "patient-0", "patient-1", "patient-0", "patient-0"]
    assert done.manifest["near"].tolist() == [done.manifest["group"].tolist()[k] for k in (0, 0, 2, 3, 4)]
    assert done.manifest["sha256"].nunique() == 5
    (said,) = [note for note in done.summary["notes"] if "different patients" in note]  # type: ignore[attr-defined]
    assert "given/0 (patient-0) and given/0 (patient-5)" in said


def test_what_the_source_s_file_was_is_kept(tmp_path: Path) -> None:
    """For the audit of shortcuts: size, shape and order of files tell labels in some sets."""
    cells = [cell(0, image=png(0, 64)), cell(1, "L1", image=png(1, 40)), cell(2)]
    manifest = run(cells, tmp_path).manifest
    assert manifest["order"].tolist() == [0, 1, 2]
    assert manifest["width"].tolist() == manifest["height"].tolist() == [64, 40, 32]
    assert manifest["file_bytes"].tolist() == [len(source.image) for source in cells]


def test_one_picture_with_two_labels_names_both_files(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"given/0 and given/9 are the same picture.*'healthy' and 'L1'"):
        run([cell(0), cell(1, "L1"), cell(0, "L1", source="given/9")], tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unreadable_picture_is_named(tmp_path: Path, workers: int) -> None:
    with pytest.raises(DatasetError, match=r"given/5: .*truncated.*correct or remove it"):
        run([*both_labels(5), cell(5, image=png(5)[:200])], tmp_path, workers=workers)


def test_an_unknown_label_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"given/1 has the label 'L4'.*data.labels"):
        run([cell(0), cell(1, "L4")], tmp_path)


def test_a_label_without_cells_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no cell has the label L2"):
        run(both_labels(4), tmp_path, labels=("healthy", "L1", "L2"))


def test_a_failure_leaves_the_cells_of_before_and_nothing_else(tmp_path: Path) -> None:
    run(both_labels(4), tmp_path)
    before = sorted(path.name for path in (tmp_path / "cells").iterdir())
    with pytest.raises(DatasetError):
        run([*both_labels(40), cell(41, image=b"nonsense")], tmp_path)
    assert sorted(path.name for path in (tmp_path / "cells").iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]


def test_cells_that_are_no_longer_there_are_gone_after_the_next_run(tmp_path: Path) -> None:
    run(both_labels(8), tmp_path)
    run(both_labels(4), tmp_path)
    assert len(list((tmp_path / "cells").iterdir())) == 4


def test_contact_sheet_shows_examples_of_each_label(tmp_path: Path) -> None:
    done = run(both_labels(60), tmp_path)
    sheet = decode(examples(done.manifest, tmp_path, ("healthy", "L1"), FIELD, scale_known=True))
    plain = decode(examples(done.manifest, tmp_path, ("healthy", "L1"), FIELD, scale_known=False))
    # Two labels with two lines of ten pictures each.
    assert sheet.shape == (2 * (26 + 2 * 132) + 4, 10 * 132 + 4, 3)
    assert (sheet != plain).any()


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"height": 128, "width": 128},
        {"height": 0, "width": 128, "field_um": 20.0},
        {"height": "x", "width": 1, "field_um": 1},
        {"height": 128, "width": 128, "field_um": float("nan")},
        {"height": 128, "width": 128, "field_um": 20.0, "crop": 1.5},
        {"height": 128, "width": 128, "field_um": 20.0, "crop": 0},
        {"height": 128, "width": 128, "field_um": 20.0, "share": 0.5},
    ],
)
def test_a_field_that_makes_no_sense_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="field needs height, width"):
        field_of(values)


def test_a_field_is_the_whole_picture_unless_a_share_is_named() -> None:
    values = {"height": 128, "width": 96, "field_um": 20}
    assert field_of(values) == Field(128, 96, 20.0, 1.0)
    assert field_of({**values, "crop": 0.75}) == Field(128, 96, 20.0, 0.75)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"labels": [], "sources": [{"kind": "synthetic"}]}, "list of names"),
        ({"labels": ["a", "a"], "sources": [{"kind": "synthetic"}]}, "names a label twice"),
        ({"labels": ["a"], "sources": []}, "at least one entry"),
        ({"labels": ["a"], "sources": "synthetic"}, "at least one entry"),
    ],
)
def test_params_that_make_no_sense_are_refused(
    data: dict[str, object], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(
        yaml.safe_dump({"data": data, "field": {"height": 32, "width": 32, "field_um": 8.0}})
    )
    with pytest.raises(ConfigError, match=words):
        stage.main([])


def test_the_stage_writes_all_its_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = {"kind": "synthetic", "seed": 1, "patients": dict.fromkeys(LABELS, 2), "cells_per_patient": 2}
    params = {
        "data": {"labels": list(LABELS), "sources": [source]},
        "field": {"height": 128, "width": 128, "field_um": 20.0},
    }
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert stage.main([]) == 0
    manifest, summary = read_parquet(Path("prepared/manifest.parquet")), read_json(Path("prepared/dataset.json"))
    assert len(manifest) == summary["cells"] == 16
    assert summary["malignant"] == ["L1", "L2", "L3"]
    assert decode(Path("reports/contact_sheet.png").read_bytes()).shape[1] == 10 * 132 + 4
    # The scanner's own pixels: at the field's scale already, they are not resampled.
    drawn = stream("site-a", seed=1, patients=dict.fromkeys(LABELS, 2), cells_per_patient=2, prefix="")
    assert set(manifest["pixels_sha256"]) == {pixels_sha256(decode(cell.image)) for cell in drawn}


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "training.prepare"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: params.yaml cannot be read")
    assert done.stderr.count("\n") == 1
