"""A Bento: the service, the packages it needs, and one model as the seed of an empty store, built without a network.

`bentoml build` runs in a process with a home folder of its own: building changes nothing but the folder asked for.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from service.contract.artifact import Artifact
from service.contract.errors import ConfigError
from service.contract.files import aside_of, replace_dir

NAME = "blastwatch"
SERVICE = "service.bento:Blastwatch"


def build_bento(artifact: Artifact, service: Path, requirements: Sequence[str], dest: Path) -> None:
    """Build a Bento of the package folder `service` with `artifact` as its seed, and put it in the place of `dest`.

    Args:
        artifact: goes beside the service's source, as `seed/`.
        service: the package's folder.
        requirements: pinned lines for pip, all the service needs.
        dest: the Bento's folder; `bentoml serve <dest>` serves it.

    Raises:
        ConfigError: `bentoml build` failed; the message ends with its own words.
    """
    # BentoML refuses to build anywhere below a hidden folder, and a clone may lie in one.
    with tempfile.TemporaryDirectory(prefix="bento-") as name:
        work = Path(name)
        context, home = work / "context", work / "home"
        shutil.copytree(service, context / service.name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(artifact.path, context / "seed")
        (context / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements))
        (context / "bentofile.yaml").write_text(yaml.safe_dump(_bentofile(artifact)))
        _run_build(context, home, artifact.version)
        aside = aside_of(dest)
        try:
            shutil.copytree(home / "bentos" / NAME / artifact.version, aside)
            replace_dir(aside, dest)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _bentofile(artifact: Artifact) -> dict[str, object]:
    manifest = artifact.manifest
    return {
        "service": SERVICE,
        "name": NAME,
        "labels": {"model": artifact.version, "code": manifest.code_revision, "data": manifest.dataset_revision},
        "include": ["service/**", "seed/**", "requirements.txt"],
        "exclude": ["**/__pycache__/**"],
        # The lock file is resolved already; letting BentoML resolve it again would need an index.
        "python": {"requirements_txt": "requirements.txt", "lock_packages": False},
    }


def _run_build(context: Path, home: Path, version: str) -> None:
    command = [sys.executable, "-m", "bentoml", "build", ".", "--version", version, "--output", "tag"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("BENTOML_", "BLASTWATCH_"))}
    environment = clean | {
        "BENTOML_HOME": str(home.absolute()),
        "BENTOML_DO_NOT_TRACK": "true",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(command, cwd=context, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split())[-600:]
        raise ConfigError(f"`bentoml build` failed; it said at the end: {words}")
