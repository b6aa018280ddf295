"""containers/: what an image may not be. No container engine runs here, so that the files are read, not built."""

import re
import tomllib
from pathlib import Path

import pytest

from training.requirements import pins_of_extra

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "containers").glob("*.Containerfile"))
ROLES = {"service": "service", "monitor": "monitoring", "training": "training,monitoring"}
LABELS = {"title", "version", "revision", "licenses", "base.name"}


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, its arguments), continued lines joined."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
    joined = text.replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in joined.splitlines() if line.strip()]


def test_there_is_one_a_role() -> None:
    assert {path.stem for path in FILES} == ROLES.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_staged_pinned_labelled_and_not_roots(path: Path) -> None:
    found = instructions(path)
    stages = [arguments for name, arguments in found if name == "FROM"]
    assert stages == ["${BASE} AS build", "${BASE}"]
    (base,) = [arguments.partition("=")[2] for name, arguments in found if name == "ARG" and arguments[:4] == "BASE"]
    assert re.fullmatch(r"docker\.io/library/python:3\.11\.\d+-slim-bookworm", base)
    labels = {
        match
        for name, text in found
        if name == "LABEL"
        for match in re.findall(r"opencontainers\.image\.([a-z.]+)=", text)
    }
    assert labels == LABELS
    last = max(number for number, (name, _) in enumerate(found) if name == "FROM")
    users = [arguments for name, arguments in found[last:] if name == "USER"]
    assert users == ["10001:10001"]
    after = [name for name, _ in found[[name for name, _ in found].index("USER") :]]
    assert not {"RUN", "COPY", "ADD"} & set(after)
    assert all("latest" not in arguments for _, arguments in found)
    assert not [arguments for name, arguments in found if name == "ADD" or "curl" in arguments]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_installs_its_extras_at_the_locks_versions(path: Path) -> None:
    (install,) = [text for name, text in instructions(path) if name == "RUN" and "pip install" in text]
    assert f'--constraint requirements.lock ".[{ROLES[path.stem]}]"' in install
    copied = {text.split()[0] for name, text in instructions(path) if name == "COPY" and "--from" not in text}
    assert "requirements.lock" in copied


@pytest.mark.parametrize("extra", ["service", "monitoring"])
def test_neither_service_nor_monitor_brings_torch(extra: str) -> None:
    pins = pins_of_extra((ROOT / "requirements.lock").read_text(), (ROOT / "pyproject.toml").read_text(), extra)
    assert pins
    assert not [pin for pin in pins if re.match(r"(torch|triton|nvidia-(cu|nccl))", pin)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_it_copies_is_there_and_its_version_is_the_projects(path: Path) -> None:
    for name, text in instructions(path):
        if name == "COPY" and "--from" not in text:
            *sources, _ = text.split()
            assert all((ROOT / source).exists() for source in sources)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert ("ARG", f"VERSION={version}") in instructions(path)
    for tree in (ROOT / "k8s").rglob("kustomization.yaml"):
        assert set(re.findall(r"newTag: (\S+)", tree.read_text())) <= {version}
