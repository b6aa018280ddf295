"""What an operator may set: read once, checked, and nothing that nobody reads."""

from pathlib import Path

import pytest

from monitoring.settings import environment_names, load_settings
from service.contract.errors import ConfigError


def test_defaults_are_those_of_the_design(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENTOML_HOME", raising=False)
    settings = load_settings()
    assert (settings.host, settings.port, settings.interval_s) == ("127.0.0.1", 9109, 15.0)
    assert settings.poll_s == 1.0  # with what ships the journal: an answer is shown well within 5 s
    assert settings.store_url == f"sqlite:///{tmp_path}/var/store.db"
    assert settings.models == tmp_path / "var/bentoml/models/blastwatch"
    assert settings.windows_dir == tmp_path / "var/reports/windows"
    assert settings.work_dir == tmp_path / "var/work"
    assert settings.repo == tmp_path
    assert (settings.judge.min_cells, settings.judge.min_patients) == (200, 10)
    assert (settings.policy.cooldown_s, settings.policy.budget_runs) == (86400.0, 2)


def test_the_environment_is_read_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLASTWATCH_MONITOR_PORT", "9200")
    monkeypatch.setenv("BLASTWATCH_STORE_URL", "sqlite:////data/store.db")
    monkeypatch.setenv("BLASTWATCH_MONITOR_JUDGE__MIN_CELLS", "50")
    monkeypatch.setenv("BLASTWATCH_MONITOR_POLICY__COOLDOWN_S", "60")
    settings = load_settings()
    assert (settings.port, settings.store_url) == (9200, "sqlite:////data/store.db")
    assert (settings.judge.min_cells, settings.judge.min_patients, settings.policy.cooldown_s) == (50, 10, 60.0)
    assert load_settings(port=9300).port == 9300
    assert load_settings(store_url="sqlite:////other.db").store_url == "sqlite:////other.db"


def test_paths_start_from_the_root_that_the_service_has_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BLASTWATCH_ROOT", str(tmp_path))
    monkeypatch.setenv("BENTOML_HOME", "var/models-here")
    settings = load_settings()
    assert settings.pixels_dir == tmp_path / "var/pixels"
    assert settings.models == tmp_path / "var/models-here/models/blastwatch"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("BLASTWATCH_MONITOR_PROT", "1", "did you mean BLASTWATCH_MONITOR_PORT?"),
        ("BLASTWATCH_MONITOR_JUDGE__MIN_CELL", "1", "did you mean BLASTWATCH_MONITOR_JUDGE__MIN_CELLS?"),
        ("BLASTWATCH_MONITOR_PORT", "70000", "BLASTWATCH_MONITOR_PORT = '70000'"),
        ("BLASTWATCH_MONITOR_POLICY__COOLDOWN_S", "-1", "BLASTWATCH_MONITOR_POLICY__COOLDOWN_S = '-1'"),
        ("BLASTWATCH_MONITOR_HOST", "0.0.0.0", "loopback only"),  # noqa: S104
        ("BLASTWATCH_MONITOR_HOST", "monitor.example", "must be an IP address"),
        ("BLASTWATCH_MONITOR_TLS_KEY", "key.pem", "TLS_CERTIFICATE and BLASTWATCH_MONITOR_TLS_KEY, or neither"),
    ],
)
def test_what_makes_no_sense_stops_the_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refused:
        load_settings()
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_with_a_token_and_tls_it_may_leave_loopback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BLASTWATCH_ROOT", str(tmp_path))
    monkeypatch.setenv("BLASTWATCH_MONITOR_HOST", "0.0.0.0")  # noqa: S104
    for name in ("TLS_CERTIFICATE", "TLS_KEY"):
        monkeypatch.setenv(f"BLASTWATCH_MONITOR_{name}", name)
        with pytest.raises(ConfigError, match="BLASTWATCH_MONITOR_"):
            load_settings()
    monkeypatch.setenv("BLASTWATCH_MONITOR_TOKEN_FILE", "token.sha256")
    settings = load_settings()
    assert settings.exposed
    assert settings.tls_key == tmp_path / "TLS_KEY"


def test_the_services_own_settings_do_not_disturb_the_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLASTWATCH_GRPC_PORT", "50061")
    monkeypatch.setenv("BLASTWATCH_IMAGE_RETENTION", "all")
    assert load_settings().port == 9109


def test_every_name_is_listed() -> None:
    names = environment_names()
    assert {"BLASTWATCH_STORE_URL", "BLASTWATCH_MONITOR_PORT", "BLASTWATCH_MONITOR_POLICY__BUDGET_RUNS"} <= names
