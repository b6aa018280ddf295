"""The benchmark of monitoring: it reads what it wrote, and its page does not flatter."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.monitoring import LARGEST, Run, report
from benchmarks.monitoring_parts import LABELS, SIZE, fill, judged, read
from monitoring.findings import LONG
from monitoring.window import arrays


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('benchmark')}/store.db"
    assert fill(url, 1200, 60, 0.0)["rows"] == 1200
    return url


def test_a_window_is_the_first_answers_as_the_monitor_reads_them(url: str) -> None:
    window = read(url, 700)
    assert (window.first_seq, window.last_seq, window.complete, window.patients) == (1, 700, True, 12)
    cells = arrays(window, LABELS)
    assert cells.embedding.shape == (700, SIZE)
    assert (cells.predicted == cells.probabilities.argmax(axis=1)).all()
    assert np.bincount(cells.patient).tolist() == [60] * 11 + [40]


def test_more_answers_than_there_are_is_an_error(url: str) -> None:
    with pytest.raises(SystemExit, match="fewer than 1201"):
        read(url, 1201)


def test_a_quiet_window_is_judged_quiet(url: str) -> None:
    found = judged(url, 1200)
    long = {finding["state"] for finding in found["findings"] if finding["name"].startswith(LONG)}
    assert long == {"insufficient"}
    assert {finding["state"] for finding in found["findings"] if not finding["name"].startswith(LONG)} == {"ok"}
    assert found["patients"] == 20


@pytest.mark.parametrize(("judge_s", "verdict"), [(10.0, "met"), (10.1, "**missed**")])
def test_the_page_says_what_was_missed(judge_s: float, verdict: str) -> None:
    one: dict[str, Any] = {
        "read_s": 20.0,
        "judge_s": judge_s,
        "peak_mb": 800.0,
        "patients": 10,
        "sketch_s": 0.01,
        "findings": [{"name": "embedding", "state": "ok"}],
    }
    theirs = {"evidently_s": 700.0, "peak_mb": 1.0, "method": "m", "largest_difference": 0.0}
    run = Run(100, {("SQLite", LARGEST): [one], ("SQLite", LARGEST // 10): [one]}, {"SQLite": 1.0})
    run.evidently = {LARGEST: theirs | {"drifted_columns": 31, "columns": 84}, 10**7: "stopped after 9 s"}
    run.ours["SQLite", 10**7] = [one]
    text = report(run)
    assert f"| SQLite: 10⁶ judged, s | {judge_s:.3g} | ≤ 10 | {verdict} |" in text
    assert "| 10000000 | stopped after 9 s |" in text
    assert f"| quiet, {LARGEST} | ok: embedding | 31 of 84 |" in text
    assert str(Path.cwd()) not in text
