"""Models that several hosts share: an address in object storage, and a folder of this host that has what was fetched.

A version there is its files, and a marker that is written after all of them: what has no marker is not there yet. What
is fetched is verified, every hash and the version itself, before it gets its name in the folder; so that a host has a
model whole or not at all, whoever else fetches it at the same time.
"""

import re
import shutil
from pathlib import Path
from typing import Any, Final

from service.contract.artifact import FolderModelStore, ModelStore, read_artifact
from service.contract.errors import ArtifactError, ConfigError, NotFound, StoreUnavailable
from service.contract.files import aside_of, replace_dir

MARKER: Final = "COMPLETE"
TIMEOUT_S: Final = 30
_VERSION = re.compile(r"[0-9a-f]{32}")


def model_store(folder: Path, url: str) -> ModelStore:
    """The models of `folder`, and where `url` (s3://bucket/prefix) is not empty those that hosts share there."""
    return SharedModelStore(folder, url) if url else FolderModelStore(folder)


class SharedModelStore:
    """See the module. Nothing is opened before a model is asked for that the folder does not have."""

    def __init__(self, folder: Path, url: str) -> None:
        self._local = FolderModelStore(folder)
        self._url = url.rstrip("/")

    def path(self, version: str) -> Path:
        """The artifact's folder on this host, fetched if need be.

        Raises NotFound, StoreUnavailable when the address does not answer, and ArtifactError for damaged files there.
        """
        try:
            return self._local.path(version)
        except NotFound:
            if not _VERSION.fullmatch(version):
                raise
            self._fetch(version)
            return self._local.path(version)

    def share(self, version: str) -> bool:
        """Put a model of this host's folder where all find it; False: it is there already.

        Raises NotFound for one that is not in the folder, ArtifactError, StoreUnavailable.
        """
        artifact = read_artifact(self._local.path(version), expect_version=version)
        system, root = self._open()
        try:
            if system.exists(f"{root}/{version}/{MARKER}"):
                return False
            # What the manifest lists, and the card: not what BentoML noted beside them on this host.
            for name in ("serve/manifest.json", "model_card.md", *artifact.manifest.files):
                system.pipe_file(f"{root}/{version}/{name}", (artifact.path / name).read_bytes())
            system.pipe_file(f"{root}/{version}/{MARKER}", version.encode())
        except Exception as error:  # each kind of address has errors of its own
            raise StoreUnavailable(f"model {version} cannot be put to {self._url}: {_said(error)}") from error
        return True

    def _fetch(self, version: str) -> None:
        system, root = self._open()
        target = self._local.root / version
        aside = aside_of(target)
        try:
            if not system.exists(f"{root}/{version}/{MARKER}"):
                raise NotFound(
                    f"no model {version} in {self._local.root} or {self._url}: promote it with `dvc repro promote`"
                )
            for name in system.find(f"{root}/{version}"):
                inside = name.partition(f"{version}/")[2]
                if inside != MARKER and ".." not in inside.split("/"):
                    (aside / inside).parent.mkdir(parents=True, exist_ok=True)
                    (aside / inside).write_bytes(system.cat_file(name))
            read_artifact(aside, expect_version=version)
            replace_dir(aside, target)
        except NotFound:
            raise
        except ArtifactError as error:
            raise ArtifactError(f"model {version} of {self._url} is damaged: {error}") from None
        except Exception as error:  # each kind of address has errors of its own
            if target.is_dir():  # another process of this host was faster
                return
            raise StoreUnavailable(f"model {version} cannot be fetched from {self._url}: {_said(error)}") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _open(self) -> tuple[Any, str]:
        """A file system that has no memory of what was there, and the path in it. Raises ConfigError."""
        try:
            import fsspec

            options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
            if self._url.startswith("s3:"):
                options["config_kwargs"] = {"connect_timeout": TIMEOUT_S, "read_timeout": TIMEOUT_S}
            system, root = fsspec.core.url_to_fs(self._url, **options)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"BLASTWATCH_MODELS_URL = {self._url!r} cannot be opened: {_said(error)}") from None
        return system, str(root).rstrip("/")


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
