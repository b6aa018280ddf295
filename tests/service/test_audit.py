"""Audit rows: on disk in order, in files of bounded size and age, and not lost while the disk fails for a while."""

import asyncio
import json
import os
import stat
from pathlib import Path

import pytest

from service import audit as module
from service.audit import DAY_S, Audit, AuditRow


class Clock:
    now = 20_000 * DAY_S

    def __call__(self) -> float:
        return self.now


def row(number: int) -> AuditRow:
    return AuditRow("2026-01-01T00:00:00Z", "lis-a", "10.0.0.1", "grpc", "Classify", "OK", str(number))


def made(
    folder: Path, *, lost: list[None] | None = None, clock: Clock | None = None, max_file_bytes: int = 10**6
) -> Audit:
    losses = [] if lost is None else lost
    return Audit(
        folder,
        retention_days=2,
        on_loss=lambda: losses.append(None),
        max_file_bytes=max_file_bytes,
        clock=clock or Clock(),
    )


def written(folder: Path) -> list[str]:
    """Request ids, file by file in the order of their making."""
    paths = sorted(folder.glob("audit-*.jsonl"), key=lambda path: path.stat().st_ctime_ns)
    return [json.loads(line)["request_id"] for path in paths for line in path.read_text().splitlines()]


def test_rows_are_written_in_order_beside_the_work_and_for_the_owner_only(tmp_path: Path) -> None:
    audit = made(tmp_path / "audit")

    async def work() -> None:
        audit.start()
        for number in range(1000):
            audit.add(row(number))
            if number % 100 == 0:
                await asyncio.sleep(0.01)
        await audit.stop()

    asyncio.run(work())
    assert written(tmp_path / "audit") == [str(number) for number in range(1000)]
    (path,) = (tmp_path / "audit").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_large_file_and_a_new_day_make_a_new_one_and_old_ones_go(tmp_path: Path) -> None:
    clock = Clock()
    audit = made(tmp_path, clock=clock, max_file_bytes=100)
    for number in range(3):
        audit.add(row(number))
        audit.flush()
    assert len(list(tmp_path.iterdir())) == 3
    for path in tmp_path.iterdir():
        os.utime(path, (clock.now, clock.now))
    clock.now += 3 * DAY_S
    audit.add(row(3))
    audit.flush()
    assert written(tmp_path) == ["3"]


def test_a_disk_that_fails_for_a_while_loses_nothing_and_leaves_no_half_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = made(tmp_path)
    audit.add(row(0))
    audit.flush()
    audit.add(row(1))

    def fails(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                audit.flush()
    assert written(tmp_path) == ["0"]
    audit.flush()
    assert written(tmp_path) == ["0", "1"]


def test_what_waits_is_bounded_and_a_loss_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    lost: list[None] = []
    audit = made(tmp_path, lost=lost)
    for number in range(5):
        audit.add(row(number))
    assert len(lost) == 3
    audit.flush()
    assert written(tmp_path) == ["0", "1"]
