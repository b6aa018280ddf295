"""A model as an immutable folder, named by the hash of everything that can change an answer.

serve/model.onnx      pixels in, probabilities, embedding, OOD score and row check out
serve/manifest.json   what the graph's numbers mean, and the SHA-256 of every file
serve/warmup.npz      a few inputs with the outputs that the exporting machine got
reference/            held-out cells for monitoring (reference.py)
model_card.md         for people
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Protocol

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from service.contract import image
from service.contract.errors import ArtifactError, NotFound
from service.contract.files import aside_of, replace_dir, sha256_file, write_atomic
from service.contract.reference import Reference

__all__ = [
    "Artifact", "FolderModelStore", "Manifest", "ModelStore", "Reference", "Thresholds", "canonical_json",
    "read_artifact", "version_of", "write_artifact",
]  # fmt: skip

FORMAT_VERSION = 1
MODEL = "serve/model.onnx"
MANIFEST = "serve/manifest.json"
WARMUP = "serve/warmup.npz"
REFERENCE = "reference/reference.npz"
MODEL_CARD = "model_card.md"
LISTED = (MODEL, WARMUP, REFERENCE, MODEL_CARD)

_INFORMATIONAL = {"files", "metrics", "dataset_revision", "code_revision", "parameters", "created"}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"[0-9a-f]{32}")

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(allow_inf_nan=False, gt=0)]
Size = Annotated[int, Field(ge=1)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Thresholds(_Model):
    """Where an answer turns into a referral: largest probability below `abstain`, OOD score above `ood`."""

    abstain: Annotated[float, Field(allow_inf_nan=False, ge=0, le=1)]
    ood: Finite


class Manifest(_Model):
    """What the graph's numbers mean. Fields from `files` on inform and never change an answer.

    `crop` is the central share of a picture of unknown scale that is fitted, `reduced` whether large JPEGs are decoded
    at a fraction of their size: see `service.contract.image.Field`.
    """

    format_version: int = FORMAT_VERSION
    labels: tuple[str, ...]
    malignant: tuple[str, ...]
    height: Annotated[int, Field(ge=image.MIN_SIDE)]
    width: Annotated[int, Field(ge=image.MIN_SIDE)]
    field_um: Positive
    crop: Annotated[float, Field(allow_inf_nan=False, gt=0, le=1)] = 1.0
    reduced: bool = False
    scale_known: bool
    embedding_size: Size
    thresholds: Thresholds
    files: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    dataset_revision: str = ""
    code_revision: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    created: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        if self.format_version != FORMAT_VERSION:
            raise ValueError(f"format {self.format_version} is not {FORMAT_VERSION}: use a release that reads it")
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels) or not all(self.labels):
            raise ValueError(f"labels must be two or more different names, not {list(self.labels)}")
        if unknown := sorted(set(self.malignant) - set(self.labels)):
            raise ValueError(f"malignant names {unknown}, which are no labels")
        for name, digest in self.files.items():
            if not _inside(name) or not _SHA256.fullmatch(digest):
                raise ValueError(f"files has {name!r}: only files inside the folder, each with a SHA-256")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults_of_the_field(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A whole picture, decoded whole, is not written: such models keep the version that they had before."""
        fields: dict[str, Any] = handler(self)
        if fields.get("crop") == 1.0:
            del fields["crop"]
        if fields.get("reduced") is False:
            del fields["reduced"]
        return fields

    @property
    def field(self) -> image.Field:
        """The field of view that pictures are brought to."""
        return image.Field(self.height, self.width, self.field_um, self.crop, self.reduced)


@dataclass(frozen=True)
class Artifact:
    """A folder that was verified, and what it says."""

    path: Path
    manifest: Manifest
    version: str

    def read(self, name: str) -> bytes:
        """The bytes of a listed file, checked once more: what is loaded is what was verified. Raises ArtifactError."""
        try:
            data = (self.path / name).read_bytes()
        except OSError as error:
            raise ArtifactError(f"{self.path / name} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != self.manifest.files.get(name):
            raise ArtifactError(f"{self.path / name} is not the file that its manifest names: fetch the artifact again")
        return data

    def reference(self) -> Reference:
        """The held-out cells. Raises ArtifactError."""
        self.read(REFERENCE)
        return Reference.load(self.path / REFERENCE)


class ModelStore(Protocol):
    """Where artifacts are found by version."""

    def path(self, version: str) -> Path:
        """The artifact's folder. Raises NotFound."""
        ...


class FolderModelStore:
    """Artifacts as `root/<version>/`, which is BentoML's own layout below BENTOML_HOME/models/<name>."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def path(self, version: str) -> Path:
        """The artifact's folder. Raises NotFound, also for what cannot be a version."""
        folder = self.root / version
        if not _VERSION.fullmatch(version) or not folder.is_dir():
            raise NotFound(f"no model {version} in {self.root}: promote it with `dvc repro promote`")
        return folder


def canonical_json(value: Mapping[str, Any]) -> str:
    """JSON, the same text for the same content: sorted keys, no spaces, ASCII. Raises ValueError for NaN, inf."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def version_of(model_bytes: bytes, manifest: Manifest) -> str:
    """The version: 32 hex characters of SHA-256 over the graph and every manifest field that changes an answer."""
    fields = manifest.model_dump(exclude=_INFORMATIONAL)
    text = canonical_json({**fields, "model_sha256": hashlib.sha256(model_bytes).hexdigest()})
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def write_artifact(
    dest: Path, *, model: Path, warmup: Path, manifest_fields: Manifest, reference: Reference, model_card: str
) -> Artifact:
    """Write the folder aside, verify it, and put it in the place of `dest`.

    `manifest_fields` is the manifest without `files`; `model` and `warmup` are files to copy. Raises ArtifactError when
    the parts do not fit each other; then `dest` is as before.
    """
    dest = Path(dest)
    labels, size = len(manifest_fields.labels), manifest_fields.embedding_size
    if reference.classes != labels or reference.embedding.shape[1] != size:
        raise ArtifactError(
            f"the reference has {reference.classes} classes and embeddings of {reference.embedding.shape[1]}, "
            f"the manifest {labels} and {size}"
        )
    aside = aside_of(dest)
    try:
        for name, source in ((MODEL, model), (WARMUP, warmup)):
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, aside / name)
        reference.save(aside / REFERENCE)
        write_atomic(aside / MODEL_CARD, model_card)
        files = {name: sha256_file(aside / name) for name in LISTED}
        manifest = manifest_fields.model_copy(update={"files": files})
        # pydantic's own JSON would write a NaN as null.
        text = json.dumps(manifest.model_dump(), indent=2, sort_keys=True, allow_nan=False)
        write_atomic(aside / MANIFEST, text + "\n")
        version = read_artifact(aside).version
        replace_dir(aside, dest)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"the artifact {dest} cannot be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Artifact(dest, manifest, version)


def read_artifact(path: Path, *, expect_version: str | None = None) -> Artifact:
    """Read and verify a folder: the manifest, the hash of every file, nothing unlisted, and the version asked for.

    Raises ArtifactError, whose message says what is wrong and what to do.
    """
    path = Path(path)
    again = "fetch it again, or build it with `dvc repro`"
    if not path.is_dir():
        raise ArtifactError(f"no artifact at {path}: {again}")
    try:
        manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except OSError as error:
        raise ArtifactError(f"{path / MANIFEST} cannot be read ({error.strerror}): {again}") from error
    except ValidationError as error:
        raise ArtifactError(f"{path / MANIFEST} is not a manifest ({_first_complaint(error)}): {again}") from error
    if missing := sorted(set(LISTED) - set(manifest.files)):
        raise ArtifactError(f"{path / MANIFEST} does not list {', '.join(missing)}: {again}")
    for name, digest in manifest.files.items():
        try:
            actual = sha256_file(path / name)
        except OSError as error:
            raise ArtifactError(f"{path / name} cannot be read ({error.strerror}): {again}") from error
        if actual != digest:
            raise ArtifactError(f"{path / name} is not the file that the manifest names (its hash differs): {again}")
    _refuse_unlisted(path, manifest)
    version = version_of((path / MODEL).read_bytes(), manifest)
    if expect_version is not None and version != expect_version:
        raise ArtifactError(f"{path} is model {version}, not {expect_version}: {again}")
    return Artifact(path, manifest, version)


def _refuse_unlisted(path: Path, manifest: Manifest) -> None:
    """The two parts hold what is listed and nothing else; beside them a model store may keep notes of its own."""
    listed = {*manifest.files, MANIFEST}
    for part in ("serve", "reference"):
        for file in sorted((path / part).rglob("*")):
            name = file.relative_to(path).as_posix()
            if not file.is_dir() and name not in listed:
                raise ArtifactError(f"{file} is not in the manifest: remove it, or fetch the artifact again")


def _inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    normal = "/".join(parts) == name and "\\" not in name and "\0" not in name
    return normal and bool(parts) and not name.startswith("/") and ".." not in parts and name != MANIFEST


def _first_complaint(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])
