"""What stops the start does so before a process is started, in one line that names the setting."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from service.__main__ import main, prepare_environment, serve_command
from service.contract.errors import ConfigError
from service.preflight import check
from tests.service.running import Site


def complaint(site: Site, **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        check(site.settings(**values))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_site_from_nothing_is_fine_and_gets_a_key(site: Site) -> None:
    settings = site.settings()
    assert check(settings) == []
    assert settings.key_file.stat().st_mode & 0o777 == 0o600
    assert check(settings) == []


@pytest.mark.parametrize("name", ["http", "grpc", "health"])
def test_a_port_in_use_is_named_with_its_setting(site: Site, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = complaint(site, **{f"{name}_port": port})
    assert f"127.0.0.1:{port}" in text
    assert f"BLASTWATCH_{name.upper()}_PORT" in text


def test_an_exposed_address_is_refused(site: Site) -> None:
    assert "loopback" in complaint(site, http_host="0.0.0.0")  # noqa: S104


@pytest.mark.parametrize("name", ["journal_dir", "pixels_dir", "key_file"])
def test_a_folder_that_cannot_be_made_is_named_with_its_setting(site: Site, name: str) -> None:
    (site.root / "file").write_text("in the way")
    assert f"BLASTWATCH_{name.upper()}" in complaint(site, **{name: site.root / "file" / "x" / "y"})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named_with_its_setting(site: Site) -> None:
    (site.root / "journal").mkdir(mode=0o500)
    assert "BLASTWATCH_JOURNAL_DIR" in complaint(site, journal_dir=site.root / "journal")


def test_a_seed_that_is_not_there_is_refused(site: Site) -> None:
    assert "BLASTWATCH_SEED_MODEL" in complaint(site, seed_model=site.root / "nothing")


def test_a_store_url_that_makes_no_sense_is_refused(site: Site) -> None:
    assert "sqlite:///" in complaint(site, store_url="nonsense")


def test_a_store_that_is_away_is_a_warning(site: Site) -> None:
    (site.root / "db").mkdir()
    (site.root / "db" / "store.db").mkdir()
    (warning,) = check(site.settings())
    assert "the service starts" in warning


def test_the_command_checks_before_it_starts(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(site.root)
    monkeypatch.delenv("BENTOML_HOME", raising=False)
    settings = site.settings()
    for name in ("http", "grpc", "health"):
        monkeypatch.setenv(f"BLASTWATCH_{name.upper()}_PORT", str(getattr(settings, f"{name}_port")))
    assert main(["--check"]) == 0
    assert "fine" in capsys.readouterr().out
    monkeypatch.setenv("BLASTWATCH_HTTP_PORT", str(settings.grpc_port))
    with pytest.raises(ConfigError, match="port of its own"):
        main(["--check"])


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "BLASTWATCH_GRPC_PORT [50051]" in text
    assert "BLASTWATCH_IMAGE_RETENTION [referred_and_sample]" in text


def test_bentoml_is_told_where_and_how(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(site.root / "home"))
    settings = site.settings()
    monkeypatch.setenv("BLASTWATCH_ROOT", "elsewhere")
    prepare_environment(settings)
    assert Path(os.environ["BLASTWATCH_ROOT"]) == site.root
    assert (site.root / "home").is_dir()
    command = serve_command(settings)
    assert command[3:5] == ["serve", "service.bento:Blastwatch"]
    assert str(settings.http_port) in command
