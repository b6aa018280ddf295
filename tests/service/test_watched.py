"""What is read from files follows them, and never becomes worse than what was read last."""

from pathlib import Path

import pytest

from service.contract.errors import ConfigError
from service.watched import Watched


def test_a_change_is_seen_and_a_fault_keeps_the_last_good_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "file"
    failures: list[None] = []
    reads: list[str] = []

    def load() -> int:
        try:
            reads.append(path.read_text())
            return int(reads[-1])
        except (OSError, ValueError):
            raise ConfigError("no number") from None

    path.write_text("1")
    watched = Watched((path,), load, lambda: failures.append(None))
    assert [watched.get(), watched.get()] == [1, 1]
    assert reads == ["1"]
    path.write_text("22")
    assert watched.get() == 22
    path.write_text("nonsense")
    assert [watched.get(), watched.get()] == [22, 22]
    assert len(failures) == 1
    assert "no number; what was read before stays in force" in caplog.text
    path.unlink()
    assert watched.get() == 22
    assert len(failures) == 2
    path.write_text("333")
    assert watched.get() == 333


def test_a_start_waits_for_files_that_are_being_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "file"
    reads: list[None] = []

    def load() -> str:
        reads.append(None)
        if len(reads) == 3:
            path.write_text("good")
        if not path.exists():
            raise ConfigError("half of it")
        return path.read_text()

    watched = Watched((path,), load, lambda: None, patience_s=20)
    assert watched.get() == "good"
    assert caplog.text.count("half of it; perhaps they are being replaced") == 1
    with pytest.raises(ConfigError, match="half of it"):
        path.unlink()
        Watched((path,), load, lambda: None, patience_s=0.3)


def test_without_a_first_good_value_there_is_none(tmp_path: Path) -> None:
    def load() -> int:
        raise ConfigError("nothing there")

    with pytest.raises(ConfigError, match="nothing there"):
        Watched((tmp_path / "file",), load, lambda: None)
