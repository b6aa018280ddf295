"""Settings: what is unknown, out of range or contradictory stops the start with one line."""

from pathlib import Path

import pytest

from service.contract.errors import ConfigError
from service.settings import Settings, load_settings, refuse_unknown


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("BLASTWATCH_ROOT", "BENTOML_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_every_field_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_paths_start_from_the_root_and_survive_a_change_of_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLASTWATCH_JOURNAL_DIR", "elsewhere/journal")
    settings = load_settings()
    monkeypatch.chdir("/")
    assert settings.journal_dir == tmp_path / "elsewhere" / "journal"
    assert settings.store_url == f"sqlite:///{tmp_path}/var/store.db"
    assert settings.models == tmp_path / "var/bentoml/models/blastwatch"


def test_models_follow_bentoml_home_unless_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    assert load_settings().models == tmp_path / "home/models/blastwatch"
    monkeypatch.setenv("BLASTWATCH_MODELS_DIR", "mine")
    assert load_settings().models == tmp_path / "mine"


@pytest.mark.parametrize("url", ["postgresql://db/blastwatch", "sqlite:////abs/store.db", "sqlite://"])
def test_other_urls_stay(url: str) -> None:
    assert load_settings(store_url=url).store_url == url


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("BLASTWATCH_HTPP_PORT", "3000", "did you mean BLASTWATCH_HTTP_PORT"),
        ("blastwatch_htpp_port", "3000", "did you mean BLASTWATCH_HTTP_PORT"),
        ("BLASTWATCH_XYZZY", "1", "is not a setting"),
        ("BLASTWATCH_SERVICE_HOST", "10.0.0.1", "enableServiceLinks"),
        ("BLASTWATCH_PORT_3000_TCP", "tcp://10.0.0.1:3000", "enableServiceLinks"),
        ("BLASTWATCH_HTTP_PORT", "http", "BLASTWATCH_HTTP_PORT"),
        ("BLASTWATCH_HTTP_PORT", "70000", "BLASTWATCH_HTTP_PORT"),
        ("BLASTWATCH_HTTP_HOST", "example.org", "IP address"),
        ("BLASTWATCH_IMAGE_RETENTION", "some", "BLASTWATCH_IMAGE_RETENTION"),
        ("BLASTWATCH_GRPC_PORT", "3000", "port of its own"),
        ("BLASTWATCH_MAX_BATCH", "512", "raise max_queue"),
        ("BLASTWATCH_LOG_FORMAT", "xml", "BLASTWATCH_LOG_FORMAT"),
        ("BLASTWATCH_TRACE_ENDPOINT", "collector:4318", "whole URL"),
        ("BLASTWATCH_TRACE_SAMPLE", "2", "BLASTWATCH_TRACE_SAMPLE"),
        ("BLASTWATCH_TLS_KEY", "key.pem", "set both or neither"),
        ("BLASTWATCH_TLS_CLIENT_CA", "ca.pem", "tls_client_ca needs"),
    ],
)
def test_what_cannot_be_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=says) as caught:
        load_settings()
    assert "\n" not in str(caught.value)


def test_names_of_others_are_left_alone() -> None:
    refuse_unknown(
        {"BLASTWATCH_DATA": "x", "BLASTWATCH_MONITOR_PORT": "9109", "PATH": "/bin", "BLASTWATCH_WORKERS": "1"}
    )
    refuse_unknown({"BLASTWATCH_CLIENT_TARGET": "127.0.0.1:50051"})


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLASTWATCH_KNOWN_SITES", "site-a, site-b,")
    assert load_settings().known_sites == ("site-a", "site-b")


def test_localhost_is_an_address() -> None:
    assert load_settings(http_host="localhost").http_host == "127.0.0.1"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().workers = 2
