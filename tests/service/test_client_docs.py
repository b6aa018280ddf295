"""docs/client.md against real workers: what it prints runs, as it is printed but for the addresses."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2

from service import tokens
from service.client_command import ENVIRONMENT, EXIT_STATUS, PREFIX
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.tokens import Role
from tests.service.running import Site, working
from tests.support.certificates import Authority
from tests.support.images import png

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "client.md").read_text()
LABELS = ("healthy", "L1", "L2", "L3")


def blocks(kind: str) -> list[str]:
    """The page's blocks of a language."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


SHELL = [text for text in blocks("sh") if not text.startswith("python -m pip")]


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder with the files that the page names, and what its addresses are here."""
    folder = tmp_path_factory.mktemp("page")
    for name in ("cell.png", "slide/cell1.png", "slide/cell2.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(png(len(name)))
    site = Site(tmp_path_factory.mktemp("site"))
    site.promote(site.add().version)
    authority = Authority(folder, "hospital-ca")
    server = authority.sign("server")
    authority.sign("scanner")
    file = folder / "tokens"
    (folder / "token").write_text(tokens.add(file, "lis-a", [Role.INFER]))
    tokens.add(file, "scanner", [Role.INFER], certificate="scanner")
    settings = site.settings(
        tokens_file=file,
        tls_certificate=server.certificate_path,
        tls_key=server.key_path,
        tls_client_ca=authority.path,
    )
    with working(site.settings()) as plain, working(settings) as secure:
        yield (
            folder,
            {
                "http://127.0.0.1:3000": plain.http,
                "127.0.0.1:50051": plain.grpc,
                "https://blastwatch.hospital.example:3000": secure.http,
                "blastwatch.hospital.example:50051": secure.grpc,
            },
        )


def ran(addresses: tuple[Path, dict[str, str]], command: list[str], text: str, tmp_path: Path) -> str:
    """What a block printed; it must succeed. `blastwatch` is the command as if it were installed."""
    folder, here = addresses
    for there, address in here.items():
        text = text.replace(there, address)
    script = tmp_path / "blastwatch"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m service.client "$@"\n')
    script.chmod(0o755)
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        f"{PREFIX}TARGET": here["127.0.0.1:50051"],
    }
    done = subprocess.run([*command, text], cwd=folder, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("text", blocks("python"), ids=lambda text: text.splitlines()[-1].strip())
def test_python_runs(addresses: tuple[Path, dict[str, str]], text: str, tmp_path: Path) -> None:
    assert any(label in ran(addresses, [sys.executable, "-c"], text, tmp_path) for label in LABELS)


@pytest.mark.parametrize("text", SHELL, ids=lambda text: text.split()[0])
def test_commands_run(addresses: tuple[Path, dict[str, str]], text: str, tmp_path: Path) -> None:
    if not shutil.which(text.split()[0]) and text.split()[0] != "blastwatch":
        pytest.skip(f"{text.split()[0]} is not installed here")
    printed = ran(addresses, ["bash", "-eu", "-c"], text, tmp_path)
    assert any(label in printed for label in LABELS)


def test_the_table_is_what_the_command_prints(addresses: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    (command,) = [text for text in SHELL if text.startswith("blastwatch classify")]
    printed = ran(addresses, ["bash", "-eu", "-c"], command, tmp_path).splitlines()
    (shown,) = [text.splitlines() for text in blocks("text") if text.startswith("file ")]
    header, *rows = printed
    assert header.split() == shown[0].split()
    assert [row.split()[0] for row in rows] == [row.split()[0] for row in shown[1:]]
    places = [header.index(name) - len(header) for name in ("model", "record", "refer")]
    assert places == [shown[0].index(name) - len(shown[0]) for name in ("model", "record", "refer")]


def test_what_grpcurl_sends_are_the_messages(addresses: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """grpcurl itself is not needed here: its JSON is protobuf's."""
    (command,) = re.findall(r"^(printf .*) \|$", PAGE, re.MULTILINE)
    printed = ran(addresses, ["bash", "-eu", "-c"], command, tmp_path)
    cell = json_format.Parse(printed, pb.Cell())
    assert cell.image == (addresses[0] / "cell.png").read_bytes()
    assert (cell.request_id, cell.patient_id, cell.pixel_size_um, cell.test) == ("r1", "4711", 0.15625, True)
    (health,) = re.findall(r"-d '(.*)' \S+ grpc.health", PAGE)
    assert json_format.ParseDict(json.loads(health), health_pb2.HealthCheckRequest()).service
    for service, method in re.findall(r"(blastwatch\.v1\.\w+)/(\w+)$", PAGE, re.MULTILINE):
        names = {found.full_name: found for found in pb.DESCRIPTOR.services_by_name.values()}
        assert method in names[service].methods_by_name


def test_every_exit_status_and_variable_is_told() -> None:
    statuses = re.findall(r"^  (\d+) ", EXIT_STATUS, re.MULTILINE)
    assert len(statuses) == 5
    assert all(f"| {status} | " in PAGE for status in statuses)
    assert all(f"`{PREFIX}{name.upper()}`" in PAGE for name in ENVIRONMENT)
