"""The tokens file and its command: a token is printed once and kept as a hash."""

import json
from pathlib import Path

import pytest

from service import tokens
from service.contract.errors import ConfigError, NotFound
from service.tokens import Entry, Role, add, by_certificate, by_token, digest_of, main, read, revoke

INFER = frozenset({Role.INFER})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "tokens"


def test_a_token_is_printed_once_and_kept_as_a_hash(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["add", "lis-a", "--role", "infer", "--role", "review", "--file", str(path)])
    token = capsys.readouterr().out.strip()
    assert token.startswith("bw_")
    assert token not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    (entry,) = read(path)
    assert entry.client == "lis-a"
    assert entry.roles == {Role.INFER, Role.REVIEW}
    assert by_token([entry], token) is entry
    assert by_token([entry], token + "x") is None
    main(["list", "--file", str(path)])
    shown = capsys.readouterr().out
    assert "lis-a" in shown
    assert "infer,review" in shown
    assert token not in shown
    assert entry.token_sha256 not in shown


def test_no_two_tokens_are_the_same_and_a_client_may_have_several(path: Path) -> None:
    found = [add(path, "lis-a", [Role.INFER]) for _ in range(3)]
    assert len(set(found)) == 3
    entries = read(path)
    assert [by_token(entries, token) for token in found] == list(entries)


def test_revoking_takes_one_or_all(path: Path) -> None:
    first, second = (add(path, "lis-a", [Role.INFER]) for _ in range(2))
    other = add(path, "lis-b", [Role.REVIEW])
    assert revoke(path, "lis-a", entry_id=read(path)[0].id) == 1
    assert [by_token(read(path), token) is not None for token in (first, second, other)] == [False, True, True]
    assert main(["revoke", "lis-a", "--file", str(path)]) == 0
    assert [entry.client for entry in read(path)] == ["lis-b"]
    with pytest.raises(NotFound, match="no such entry"):
        revoke(path, "lis-a")


def test_the_file_is_a_setting(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="BLASTWATCH_TOKENS_FILE"):
        main(["list"])
    monkeypatch.setenv("BLASTWATCH_TOKENS_FILE", str(path))
    main(["add", "lis-a", "--role", "admin"])
    assert read(path)[0].roles == {Role.ADMIN}


def test_a_certificate_has_a_name_instead_of_a_token(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["add", "scanner-1", "--role", "infer", "--certificate", "scanner.example", "--file", str(path)])
    assert "scanner.example" in capsys.readouterr().out
    entries = read(path)
    assert by_certificate(entries, ["CN", "scanner.example"]) is entries[0]
    assert by_certificate(entries, ["other.example"]) is None
    assert by_token(entries, "") is None
    with pytest.raises(ConfigError, match="already"):
        add(path, "scanner-2", [Role.INFER], certificate="scanner.example")


def test_a_certificate_with_the_names_of_two_clients_is_nobodys() -> None:
    entries = [Entry("a", INFER, certificate="a.example"), Entry("b", INFER, certificate="b.example")]
    assert by_certificate(entries, ["a.example", "b.example"]) is None


@pytest.mark.parametrize("name", ["", "local", "a b", "-x", "x" * 65, "ä"])
def test_a_name_that_records_could_not_carry_is_refused(path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a client"):
        add(path, name, [Role.INFER])
    assert not path.exists()


@pytest.mark.parametrize(
    "line",
    [
        "secret",
        "[]",
        '{"client": "secret"}',
        '{"client": "secret", "roles": ["king"], "certificate": "x"}',
        '{"client": "local", "roles": ["infer"], "certificate": "x"}',
        '{"client": "secret", "roles": [], "certificate": "x"}',
        '{"client": "secret", "roles": ["infer"]}',
        '{"client": "secret", "roles": ["infer"], "token_sha256": "secret"}',
        '{"client": "secret", "roles": ["infer"], "token_sha256": "' + "0" * 64 + '", "certificate": "x"}',
    ],
)
def test_a_line_that_makes_no_sense_is_named_and_not_repeated(path: Path, line: str) -> None:
    add(path, "lis-a", [Role.INFER])
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigError, match="line 2") as caught:
        read(path)
    assert "secret" not in str(caught.value)


def test_the_same_token_twice_is_refused(path: Path) -> None:
    line = json.dumps({"client": "a", "roles": ["infer"], "token_sha256": digest_of("x")}) + "\n"
    tokens.write(path, ())
    path.write_text(line + line)
    with pytest.raises(ConfigError, match="twice"):
        read(path)


def test_a_file_that_others_may_read_is_refused(path: Path) -> None:
    add(path, "lis-a", [Role.INFER])
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read(path)


def test_a_file_that_is_not_there_is_named_with_what_makes_one(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"service\.tokens add"):
        read(path)
