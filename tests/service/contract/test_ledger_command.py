import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.contract.errors import LedgerError, NotFound, StoreUnavailable
from service.contract.ledger import Ledger
from service.contract.ledger_command import main

A, B = "a" * 32, "b" * 32


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
def ledger(url: str) -> Ledger:
    ledger = Ledger(url)
    for version, before in ((A, None), (B, A)):
        ledger.append("registered", version=version)
        ledger.append("gate_passed", version=version, reasons=[])
        ledger.promote(version, before)
    return ledger


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.contract.ledger", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


def test_show_is_a_table_that_a_person_reads(url: str, ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    ledger.append("frozen", by="sre")
    assert main(["--store", url, "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert lines[1].split()[2:] == ["gate_passed", A, "reasons=[]"]
    assert lines[6].split()[2:] == ["frozen", "-", "by=sre"]
    assert lines[7] == f"in production: {B}  (triggers are frozen)"
    # The columns line up.
    assert len({line.index(version) for line, version in zip(lines[:6], [A] * 3 + [B] * 3, strict=True)}) == 1


def test_show_as_json(url: str, ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--store", url, "show", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["hash"] for row in rows] == [row.hash for row in ledger.rows()]
    assert rows[2]["body"] == {"replaced": None, "version": A}


def test_show_of_an_empty_ledger(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    Ledger(url)
    main(["--store", url, "show"])
    assert capsys.readouterr().out == "in production: nothing yet\n"


def test_verify(url: str, ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", url, "verify", "--head", ledger.head()]) == 0
    assert capsys.readouterr().out == f"ok: 6 rows, head {ledger.head()}\n"
    with pytest.raises(LedgerError, match="cut or replaced"):
        main(["--store", url, "verify", "--head", "f" * 64])


def test_approve_and_rollback(url: str, ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--store", url, "rollback", "--by", "sre"])
    assert ledger.production() == A
    assert "needs a new approval" in capsys.readouterr().out
    main(["--store", url, "approve", B, "--by", "qa"])
    assert ledger.is_approved(B)
    assert "dvc repro promote" in capsys.readouterr().out


def test_approve_of_an_unknown_version(url: str, ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="is registered"):
        main(["--store", url, "approve", "c" * 32, "--by", "qa"])


def test_a_missing_store_is_not_made(url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="there is no store"):
        main(["--store", url, "show"])
    assert not list(tmp_path.iterdir())


def test_as_a_command(url: str, ledger: Ledger) -> None:
    shown = _run("show", BLASTWATCH_STORE_URL=url)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.endswith(f"in production: {B}\n")
    unknown = _run("approve", "c" * 32, "--by", "qa", BLASTWATCH_STORE_URL=url)
    assert unknown.returncode == 2
    assert unknown.stdout == ""
    assert unknown.stderr.startswith("error: no model ccc")
    assert unknown.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["approve", A], ["nonsense"], [], ["rollback"]])
def test_wrong_arguments_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(command in text for command in ("verify", "show", "approve", "rollback", "BLASTWATCH_STORE_URL"))
