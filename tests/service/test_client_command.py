"""The command `blastwatch`: table, JSON, exit status, and one line for whatever goes wrong."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from service import tokens
from service.client_command import ENVIRONMENT, PREFIX, main
from service.contract.artifact import Thresholds
from service.contract.errors import BlastwatchError, ConfigError, Forbidden, InvalidRequest, NotReady, Unauthenticated
from service.tokens import Role
from tests.service.running import Site, Worker, eventually, free_ports, working
from tests.support.certificates import Authority
from tests.support.images import jpeg, png

ROOT = Path(__file__).resolve().parents[2]
HEADER = ["file", "label", "p", "malignant", "model", "record", "refer"]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    site = Site(tmp_path_factory.mktemp("command"))
    site.promote(site.add().version)
    with working(site.settings()) as found:
        yield found


@pytest.fixture(params=["grpc", "http"])
def to(worker: Worker, request: pytest.FixtureRequest) -> list[str]:
    """The arguments that lead to the worker."""
    return ["--target", worker.grpc] if request.param == "grpc" else ["--target", worker.http]


@pytest.fixture
def cells(tmp_path: Path) -> list[str]:
    """Three cells, the last in a folder below."""
    (tmp_path / "slide" / "deep").mkdir(parents=True)
    for number, name in enumerate(("cell0.png", "slide/cell1.PNG", "slide/deep/cell-with-a-long-name.jpg")):
        (tmp_path / name).write_bytes(jpeg(number) if name.endswith("jpg") else png(number))
    (tmp_path / "slide" / "notes.txt").write_text("no image")
    return ["cell0.png", "slide/cell1.PNG", "slide/deep/cell-with-a-long-name.jpg"]


def lines(capsys: pytest.CaptureFixture[str]) -> tuple[list[str], list[str]]:
    """What it printed, and what it complained about."""
    found = capsys.readouterr()
    return found.out.splitlines(), found.err.splitlines()


def called(arguments: Sequence[str], **environ: str) -> "subprocess.CompletedProcess[str]":
    """The command as a process."""
    command = [sys.executable, "-m", "service.client", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, timeout=120)


def test_files_and_folders_become_aligned_rows(
    to: list[str], cells: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["classify", "cell0.png", "slide", *to, "--pixel-size-um", "0.5"]) == 0
    (header, *rows), complaints = lines(capsys)
    assert complaints == []
    assert header.split() == HEADER
    assert [row.split()[0] for row in rows] == cells
    # Each column begins (text) or ends (numbers) where its heading does.
    for name in ("label", "model", "record", "refer"):
        at = header.index(name)
        assert all(row[at - 1] == " " and row[at] != " " for row in rows), name
    for name in ("p", "malignant"):
        end = header.index(f" {name} ") + 1 + len(name)
        assert all(row[end - 1].isdigit() and row[end] == " " for row in rows), name


def test_what_a_cell_is_referred_for_is_shown_and_may_fail(
    site: Site, cells: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    site.promote(site.add(thresholds=Thresholds(abstain=1.0, ood=0.0)).version)
    with working(site.settings()) as worker:
        to = ["--target", worker.grpc]
        assert main(["classify", cells[0], *to]) == 0
        (_, row), _ = lines(capsys)
        assert row.endswith("uncertain, out_of_distribution, unknown_scale")
        assert main(["classify", cells[0], *to, "--fail-on-refer"]) == 3
        assert main(["classify", cells[0], "missing.png", *to, "--fail-on-refer"]) == 1


def test_a_cell_that_nobody_must_see_does_not_fail(to: list[str], cells: list[str]) -> None:
    assert main(["classify", *cells, *to, "--pixel-size-um", "0.5", "--fail-on-refer"]) == 0


def test_json_is_one_object_a_line_and_leads_to_a_review(
    to: list[str], cells: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["classify", *cells, *to, "--json", "--site", "site-a"]) == 0
    found = [json.loads(line) for line in lines(capsys)[0]]
    assert [item["file"] for item in found] == cells
    assert all(item["refer"] for item in found)
    record = found[0]["recordId"]
    assert main(["review", record, "L1", *to]) == 0
    assert lines(capsys)[0][0].startswith("review ")
    assert main(["review", record, "L1", *to, "--json", "--role", "trainee", "--sampled"]) == 0
    assert json.loads(lines(capsys)[0][0])["recordId"] == record


def test_whole_record_ids_are_there_for_the_asking(
    to: list[str], cells: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["classify", cells[0], *to, "--request-id", "a-name", "--full-ids"]) == 0
    (_, row), _ = lines(capsys)
    record = row.split()[5]
    assert main(["review", record, "L1", *to]) == 0
    assert main(["classify", cells[0], *to, "--request-id", "a-name"]) == 0
    assert lines(capsys)[0][-1].split()[5] == record[:12]


def test_the_model_is_described(to: list[str], capsys: pytest.CaptureFixture[str], worker: Worker) -> None:
    assert main(["model", *to]) == 0
    found, _ = lines(capsys)
    assert found[0].split() == ["version", worker.engine.core().model().version]
    assert found[1].split(maxsplit=1)[1] == "healthy, L1 (malignant), L2 (malignant), L3 (malignant)"
    assert main(["model", *to, "--json"]) == 0
    assert json.loads(lines(capsys)[0][0])["labels"] == ["healthy", "L1", "L2", "L3"]


def test_a_file_that_fails_is_one_line_and_the_others_go_on(
    to: list[str], cells: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken\n.png").write_bytes(b"nonsense")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.png").touch()
    wrong = ["broken\n.png", "missing.png", "empty", "empty.png"]
    assert main(["classify", cells[0], *wrong, cells[1], *to]) == 1
    (_, *rows), complaints = lines(capsys)
    assert [row.split()[0] for row in rows] == cells[:2]
    starts = ["broken�.png: ", "missing.png: cannot be read", "empty: no images", "empty.png: image is empty"]
    assert [line.startswith(start) for line, start in zip(complaints, starts, strict=True)] == [True] * 4


@pytest.mark.parametrize("http", [[], ["--http"]])
def test_nobody_there_ends_it(http: list[str], cells: list[str]) -> None:
    (port,) = free_ports(1)
    target = f"http://127.0.0.1:{port}" if http else f"127.0.0.1:{port}"
    with pytest.raises(NotReady, match="make serve"):
        main(["classify", *cells, *http, "--target", target, "--timeout", "0.5"])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--pixel-size-um", "-1"], InvalidRequest),
        (["--site", "\udcff"], InvalidRequest),
        (["--request-id", "one"], InvalidRequest),
        (["--timeout", "0"], ConfigError),
        (["--ca", "missing.pem"], ConfigError),
        (["--target", "ftp://x", "--http"], ConfigError),
        (["--target", "http://127.0.0.1:1", "--grpc"], ConfigError),
        (["--token-file", "missing"], ConfigError),
    ],
)
def test_arguments_that_cannot_work_end_it(
    cells: list[str], arguments: list[str], error: type[BlastwatchError], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error) as caught:
        main(["classify", *cells, *arguments])
    assert "\n" not in str(caught.value)
    assert lines(capsys) == ([], [])


def test_the_environment_says_where_and_who(
    site: Site, cells: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.promote(site.add().version)
    authority = Authority(site.root)
    server, scanner = authority.sign("server"), authority.sign("scanner-1")
    file = site.root / "tokens"
    for name, role in (("lis-a", Role.INFER), ("reader", Role.REVIEW)):
        (tmp_path / name).write_text(tokens.add(file, name, [role]))
    tokens.add(file, "scanner-1", [Role.INFER], certificate="scanner-1")
    settings = site.settings(
        tokens_file=file,
        tls_certificate=server.certificate_path,
        tls_key=server.key_path,
        tls_client_ca=authority.path,
    )
    access = {
        "CA": authority.path,
        "CERTIFICATE": scanner.certificate_path,
        "KEY": scanner.key_path,
        "TOKEN_FILE": tmp_path / "lis-a",
    }
    with working(settings) as worker:
        for where in (worker.grpc, worker.http):
            for name, value in {"TARGET": where, **access}.items():
                monkeypatch.setenv(PREFIX + name, str(value))
            assert main(["classify", cells[0]]) == 0
            assert len(lines(capsys)[0]) == 2
            with pytest.raises(Forbidden):
                main(["classify", cells[0], "--token-file", str(tmp_path / "reader")])
        monkeypatch.setenv(f"{PREFIX}TOKEN_FILE", "")
        with pytest.raises(Unauthenticated):  # the last target is HTTP, where a certificate is nobody
            main(["model"])
        assert main(["model", "--target", worker.grpc]) == 0
    monkeypatch.setenv(f"{PREFIX}TOKENFILE", "x")
    with pytest.raises(ConfigError, match="TOKENFILE is not read"):
        main(["model"])


def test_as_a_process(worker: Worker, cells: list[str], tmp_path: Path) -> None:
    path = str(tmp_path / cells[0])
    done = called(["classify", path, "--test"], BLASTWATCH_CLIENT_TARGET=worker.grpc)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 2
    done = called(["classify", str(tmp_path / "missing.png")])
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    done = called(["classify", path, "--colour"])
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    (port,) = free_ports(1)
    done = called(["classify", path, "--target", f"127.0.0.1:{port}", "--timeout", "0.5"])
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ")


def test_an_interruption_is_no_traceback(
    worker: Worker, cells: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []

    async def slow(*_: object, **__: object) -> None:
        begun.append(True)
        await asyncio.sleep(60)

    monkeypatch.setattr(worker.engine.core(), "classify", slow)
    command = [sys.executable, "-m", "service.client", "classify", str(tmp_path / cells[0]), "--target", worker.grpc]
    # Whoever runs the tests in the background of a shell ignores SIGINT, and a child would inherit that.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, ignored)
    eventually(lambda: begun, patience_s=60)
    process.send_signal(signal.SIGINT)
    printed, complaint = process.communicate(timeout=60)
    assert (process.returncode, printed, complaint) == (130, "", "interrupted\n")


def test_the_console_script_is_this_command() -> None:
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["blastwatch"]
    module, _, name = script.partition(":")
    code = f"import sys; sys.argv = ['/bin/blastwatch', '--help']; import {module}; {module}.{name}()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert callable(getattr(import_module(module), name))
    assert done.returncode == 0
    assert done.stdout.startswith("usage: blastwatch ")
    for told in ("exit status:", "--fail-on-refer", *(PREFIX + option.upper() for option in ENVIRONMENT)):
        assert told in done.stdout


def test_a_client_needs_none_of_the_heavy_libraries() -> None:
    """What it imports from the index is what the extra `client` and the plain install have."""
    code = (
        "import sys; import service.client_command, service.client_aio; "
        "print(sorted({'torch', 'bentoml', 'onnxruntime', 'starlette', 'alembic', 'prometheus_client', 'cv2',"
        " 'pydantic_settings'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
