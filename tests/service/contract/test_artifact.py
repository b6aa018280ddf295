import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from service.contract import artifact as module
from service.contract.artifact import (
    LISTED,
    Artifact,
    FolderModelStore,
    Manifest,
    Thresholds,
    canonical_json,
    read_artifact,
    version_of,
    write_artifact,
)
from service.contract.errors import ArtifactError, NotFound
from service.contract.image import Field
from service.contract.reference import Reference
from tests.support.artifacts import tiny_artifact


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_artifact(tmp_path_factory.mktemp("artifact") / "tiny")


@pytest.fixture
def folder(pristine: Artifact, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine.path, tmp_path / "copy"))


def _edit(folder: Path, **changes: object) -> None:
    path = folder / "serve" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_written_is_what_is_read(pristine: Artifact) -> None:
    read = read_artifact(pristine.path, expect_version=pristine.version)
    assert read == pristine
    assert re.fullmatch("[0-9a-f]{32}", read.version)
    assert read.manifest.field == Field(32, 32, 20.0)
    assert sorted(read.manifest.files) == sorted(LISTED)
    assert read.reference().classes == 4


class TestVersion:
    def test_the_same_model_written_twice_anywhere_is_the_same(self, pristine: Artifact, tmp_path: Path) -> None:
        assert tiny_artifact(tmp_path / "elsewhere").version == pristine.version

    def test_another_graph_is_another(self, pristine: Artifact, tmp_path: Path) -> None:
        assert tiny_artifact(tmp_path / "seed", seed=1).version != pristine.version
        assert tiny_artifact(tmp_path / "bias", bias=[0, 0, 0, 1]).version != pristine.version

    @pytest.mark.parametrize(
        "change",
        [
            {"labels": ("healthy", "L1", "L2", "L4"), "malignant": ("L1",)},
            {"labels": ("L1", "healthy", "L2", "L3")},
            {"malignant": ("L1",)},
            {"height": 64},
            {"width": 64},
            {"field_um": 20.5},
            {"crop": 0.75},
            {"scale_known": False},
            {"embedding_size": 5},
            {"thresholds": Thresholds(abstain=0.1, ood=100.0)},
            {"thresholds": Thresholds(abstain=0.0, ood=99.0)},
        ],
        ids=str,
    )
    def test_what_changes_an_answer_changes_it(self, pristine: Artifact, change: dict[str, object]) -> None:
        changed = pristine.manifest.model_copy(update=change)
        assert version_of(b"graph", changed) != version_of(b"graph", pristine.manifest)

    @pytest.mark.parametrize(
        "change",
        [
            {"created": "2030-01-01T00:00:00+00:00"},
            {"metrics": {"accuracy": 0.5}},
            {"code_revision": "other"},
            {"dataset_revision": "other"},
            {"parameters": {"epochs": 3}},
            {"files": {}},
        ],
        ids=str,
    )
    def test_what_informs_does_not(self, pristine: Artifact, change: dict[str, object]) -> None:
        changed = pristine.manifest.model_copy(update=change)
        assert version_of(b"graph", changed) == version_of(b"graph", pristine.manifest)

    def test_every_field_is_on_one_side(self) -> None:
        changes = {"format_version", "labels", "malignant", "height", "width", "field_um", "scale_known"}
        changes |= {"embedding_size", "thresholds", "crop", "reduced"}
        assert set(Manifest.model_fields) == changes | module._INFORMATIONAL

    def test_a_whole_picture_is_the_version_and_the_file_of_before_there_was_a_crop(self, pristine: Artifact) -> None:
        written = json.loads((pristine.path / "serve/manifest.json").read_text())
        assert not {"crop", "reduced"} & written.keys()
        assert pristine.manifest.field.crop == 1.0
        fields = {name: written[name] for name in written if name not in module._INFORMATIONAL}
        text = module.canonical_json({**fields, "model_sha256": hashlib.sha256(b"graph").hexdigest()})
        assert version_of(b"graph", pristine.manifest) == hashlib.sha256(text.encode()).hexdigest()[:32]

    def test_a_crop_is_read_back(self, pristine: Artifact, folder: Path) -> None:
        _edit(folder, crop=0.75)
        assert read_artifact(folder).manifest.field == Field(32, 32, 20.0, 0.75)
        assert read_artifact(folder).version != pristine.version

    def test_a_reduced_decoding_is_read_back(self, pristine: Artifact, folder: Path) -> None:
        _edit(folder, reduced=True)
        assert read_artifact(folder).manifest.field == Field(32, 32, 20.0, reduced=True)
        assert read_artifact(folder).version != pristine.version

    def test_a_whole_number_is_the_same_field(self, pristine: Artifact) -> None:
        values = pristine.manifest.model_dump() | {"field_um": 20}
        assert version_of(b"", Manifest.model_validate(values)) == version_of(b"", pristine.manifest)


class TestReading:
    def test_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match=r"no artifact at .*`dvc repro`"):
            read_artifact(tmp_path / "none")

    @pytest.mark.parametrize("name", LISTED)
    def test_one_changed_byte_in_any_file(self, folder: Path, name: str) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)
        with pytest.raises(ArtifactError, match=f"{name} is not the file"):
            read_artifact(folder)

    @pytest.mark.parametrize("name", [*LISTED, "serve/manifest.json"])
    def test_a_missing_file(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        with pytest.raises(ArtifactError, match=f"{name} cannot be read"):
            read_artifact(folder)

    @pytest.mark.parametrize("name", LISTED)
    def test_an_unlisted_part(self, folder: Path, name: str) -> None:
        files = json.loads((folder / "serve/manifest.json").read_text())["files"]
        del files[name]
        _edit(folder, files=files)
        with pytest.raises(ArtifactError, match=f"does not list {name}"):
            read_artifact(folder)

    @pytest.mark.parametrize("name", ["serve/extra.py", "reference/deep/extra.npz"])
    def test_a_stowaway(self, folder: Path, name: str) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
        with pytest.raises(ArtifactError, match=f"{name} is not in the manifest"):
            read_artifact(folder)

    def test_a_model_stores_own_notes_beside_the_parts(self, folder: Path, pristine: Artifact) -> None:
        (folder / "model.yaml").write_text("name: blastwatch\n")
        assert read_artifact(folder).version == pristine.version

    @pytest.mark.parametrize(
        "name", ["../outside", "/etc/passwd", "serve/../../outside", "serve\\x", "", ".", "serve//model.onnx"]
    )
    def test_a_path_out_of_the_folder(self, folder: Path, name: str) -> None:
        (folder.parent / "outside").touch()
        files = json.loads((folder / "serve/manifest.json").read_text())["files"]
        _edit(folder, files=files | {name: "0" * 64})
        with pytest.raises(ArtifactError, match="only files inside the folder"):
            read_artifact(folder)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"format_version": 2}, "format 2 is not 1: use a release that reads it"),
            ({"labels": ["a"]}, "two or more"),
            ({"labels": ["a", "a", "b", "c"]}, "two or more"),
            ({"malignant": ["L9"]}, "no labels"),
            ({"height": 0}, "height"),
            ({"field_um": float("nan")}, "field_um"),
            ({"crop": 0.0}, "crop"),
            ({"crop": 1.5}, "crop"),
            ({"thresholds": {"abstain": 2.0, "ood": 1.0}}, r"thresholds\.abstain"),
            ({"surprise": 1}, "surprise"),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_a_manifest_that_makes_no_sense(self, folder: Path, changes: dict[str, object], message: str) -> None:
        _edit(folder, **changes)
        with pytest.raises(ArtifactError, match=message) as error:
            read_artifact(folder)
        assert "\n" not in str(error.value)

    def test_a_torn_manifest(self, folder: Path) -> None:
        path = folder / "serve/manifest.json"
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(ArtifactError, match="is not a manifest"):
            read_artifact(folder)

    def test_another_version_than_asked_for(self, folder: Path, pristine: Artifact) -> None:
        with pytest.raises(ArtifactError, match=f"is model {pristine.version}, not {'0' * 32}"):
            read_artifact(folder, expect_version="0" * 32)

    def test_changed_thresholds_are_another_model(self, folder: Path, pristine: Artifact) -> None:
        """Referrals are switched off by editing one number: the name no longer fits."""
        _edit(folder, thresholds={"abstain": 0.9, "ood": 1.0})
        with pytest.raises(ArtifactError, match="is model"):
            read_artifact(folder, expect_version=pristine.version)

    def test_a_file_swapped_after_verification_is_not_handed_out(self, folder: Path) -> None:
        read = read_artifact(folder)
        (folder / "serve/model.onnx").write_bytes(b"other")
        with pytest.raises(ArtifactError, match="is not the file"):
            read.read("serve/model.onnx")


class TestWriting:
    @pytest.fixture
    def parts(self, pristine: Artifact) -> dict[str, object]:
        return {
            "model": pristine.path / "serve/model.onnx",
            "warmup": pristine.path / "serve/warmup.npz",
            "manifest_fields": pristine.manifest.model_copy(update={"files": {}}),
            "reference": pristine.reference(),
            "model_card": "# card",
        }

    def _write(self, dest: Path, parts: dict[str, object]) -> Artifact:
        return write_artifact(dest, **parts)  # type: ignore[arg-type]

    def test_replaces_what_was_there(self, folder: Path, parts: dict[str, object]) -> None:
        (folder / "stale").touch()
        written = self._write(folder, parts)
        assert written.path == folder
        assert not (folder / "stale").exists()
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]

    @pytest.mark.parametrize(
        "fault",
        [
            {"model": Path("/nowhere/model.onnx")},
            {"manifest_fields": {"metrics": {"accuracy": float("nan")}}},
            {"manifest_fields": {"embedding_size": 5}},
            {"manifest_fields": {"labels": ("healthy", "L1"), "malignant": ("L1",)}},
        ],
        ids=["no-model", "nan", "embedding", "classes"],
    )
    def test_a_failure_leaves_what_was_there(
        self, folder: Path, pristine: Artifact, parts: dict[str, object], fault: dict[str, object]
    ) -> None:
        if isinstance(fields := fault.get("manifest_fields"), dict):
            fault = {"manifest_fields": pristine.manifest.model_copy(update=fields)}
        with pytest.raises(ArtifactError):
            self._write(folder, parts | fault)
        assert read_artifact(folder).version == pristine.version
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]

    def test_is_the_same_bytes_twice(self, tmp_path: Path, parts: dict[str, object]) -> None:
        one, other = (self._write(tmp_path / name, parts) for name in ("one", "other"))
        assert one.manifest.files == other.manifest.files


def test_a_folder_of_models(pristine: Artifact, tmp_path: Path) -> None:
    store = FolderModelStore(tmp_path)
    shutil.copytree(pristine.path, tmp_path / pristine.version)
    assert store.path(pristine.version) == tmp_path / pristine.version
    (tmp_path / "notes").mkdir()
    for name in ("f" * 32, "notes", "..", "", f"../{pristine.version}"):
        with pytest.raises(NotFound):
            store.path(name)


def test_a_manifest_cannot_be_changed(pristine: Artifact) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        pristine.manifest.height = 64


def test_canonical_json() -> None:
    assert canonical_json({"b": [1, 0.5, None], "a": "µ"}) == '{"a":"\\u00b5","b":[1,0.5,null]}'
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": float("inf")})


class TestReference:
    def test_round_trip(self, pristine: Artifact, tmp_path: Path) -> None:
        reference = pristine.reference()
        reference.save(tmp_path / "one.npz")
        reference.save(tmp_path / "other.npz")
        assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "other.npz").read_bytes()
        loaded = Reference.load(tmp_path / "one.npz")
        assert loaded.site == reference.site
        for name in ("embedding", "statistics", "probabilities", "label", "patient", "confusion"):
            np.testing.assert_array_equal(getattr(loaded, name), getattr(reference, name))
            assert getattr(loaded, name).dtype == getattr(reference, name).dtype

    @pytest.mark.parametrize(
        "change",
        [
            {"embedding": np.zeros((3, 4), np.float32)},
            {"statistics": np.zeros((60, 4), np.float32)},
            {"probabilities": np.zeros((60, 3), np.float32)},
            {"label": np.full(60, 4)},
            {"label": np.full(60, -1)},
            {"site": ("a",)},
            {"patient": np.zeros(3)},
            {"confusion": np.zeros((4, 3))},
            {"confusion": -np.ones((4, 4))},
            {"embedding": np.full((60, 4), np.nan, np.float32)},
        ],
        ids=lambda change: str(next(iter(change))),
    )
    def test_refuses_what_does_not_fit(self, pristine: Artifact, change: dict[str, object]) -> None:
        with pytest.raises(ArtifactError, match="reference"):
            replace(pristine.reference(), **change)  # type: ignore[arg-type]

    def test_refuses_pickle_and_other_files(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "pickled.npz", site=np.array([object()], dtype=object))
        (tmp_path / "text.npz").write_text("no")
        np.savez(tmp_path / "other.npz", x=np.zeros(3))
        for name in ("pickled.npz", "text.npz", "other.npz", "missing.npz"):
            with pytest.raises(ArtifactError, match="is not a reference file"):
                Reference.load(tmp_path / name)
