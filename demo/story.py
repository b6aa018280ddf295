"""What the person reads: steps in plain words, progress, and a table at the end."""

import sys
import time
from collections.abc import Mapping, Sequence

STAGES = {
    "prepare": "draws the default cells, checks and decodes them",
    "validate": "asks Great Expectations whether the data are as agreed",
    "split": "splits by patient; the test patients are frozen",
    "bounds": "refuses parameters outside the change plan",
    "train": "trains the CNN-GRU",
    "calibrate": "fits temperature, abstention and out-of-distribution thresholds",
    "evaluate": "measures it on unseen patients, beside the shortcut baseline",
    "audit": "asks where the figures hold, what is flagged, and what could be had without the cell",
    "export": "puts everything into one ONNX graph and compares it with torch",
    "champion": "asks the ledger which model is in production",
    "gate": "holds the candidate against the change plan",
    "package": "writes the artifact and builds the Bento",
    "promote": "registers, and promotes what passed",
}


class Story:
    """Prints steps with the time since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def step(self, number: int, title: str) -> None:
        """A new chapter."""
        self._line(f"\n[{_clock(self.seconds)}] {number}. {title}")

    def say(self, text: str) -> None:
        """One line of it."""
        self._line(f"[{_clock(self.seconds)}]    {text}")

    def progress(self, text: str) -> None:
        """A line that the next one overwrites on a terminal; nothing where there is none."""
        if sys.stdout.isatty():
            sys.stdout.write(f"\r\033[K[{_clock(self.seconds)}]    {text}")
            sys.stdout.flush()

    def table(self, rows: Sequence[tuple[str, str]]) -> None:
        """Two columns."""
        width = max(len(left) for left, _ in rows)
        self._line("")
        for left, right in rows:
            self._line(f"  {left:<{width}}  {right}")

    def _line(self, text: str) -> None:
        if sys.stdout.isatty():
            sys.stdout.write("\r\033[K")
        print(text, flush=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:2d}:{int(seconds) % 60:02d}"


def percent(value: float) -> str:
    """0.873 → '87.3 %'."""
    return f"{100 * value:.1f} %"


def points(value: float) -> str:
    """0.052 → '+5.2 points'."""
    return f"{100 * value:+.1f} points"


def probabilities(values: Mapping[str, float]) -> str:
    """'L1 0.93  healthy 0.05 …', highest first."""
    return "  ".join(f"{name} {p:.2f}" for name, p in sorted(values.items(), key=lambda item: -item[1]))
