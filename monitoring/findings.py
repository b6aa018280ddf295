"""What one window says about one question: a figure, its interval, its threshold, and a state that never guesses."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal, Self, get_args

State = Literal["ok", "drift", "insufficient", "unknown"]
Family = Literal["label_shift", "covariate", "imbalance", "quality", "performance", "slice", "planned"]
LONG: Final = "long_"
"""Begins the name of a finding on the last windows together (long_view.py)."""
STATES: Final[tuple[State, ...]] = get_args(State)
FAMILIES: Final[tuple[Family, ...]] = get_args(Family)


@dataclass(frozen=True)
class Finding:
    """One question, answered.

    state      ok; drift; insufficient: too few cells or patients to say; unknown: enough of them, but the method's own
               conditions do not hold, so that neither ok nor drift would be honest
    figure     the effect, in the unit that the finding's module names; None when it could not be computed
    interval   (low, high) of that figure, None when there is none
    threshold  the figure's bound, None when nothing is held against it
    cells, patients  what the figure rests on
    detail     numbers and short words for people; JSON
    severity   how much of the way to `drift` it went: the weaker of effect and evidence, each as a share of what
               `drift` asks, so that `drift` is exactly `severity >= 1`; None for insufficient and unknown
    slice      the part of the window that it speaks of, e.g. "scanner=P250"; "" for all of it
    """

    name: str
    family: Family
    state: State
    figure: float | None
    interval: tuple[float, float] | None
    threshold: float | None
    cells: int
    patients: int
    detail: dict[str, Any] = field(default_factory=dict)
    severity: float | None = None
    slice: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for a state or number that a reader could misread."""
        if self.state not in STATES or self.family not in FAMILIES:
            raise ValueError(f"{self.name}: no such state or family: {self.state!r}, {self.family!r}")
        numbers = [self.figure, self.threshold, self.severity, *(self.interval or ())]
        if any(number is not None and not math.isfinite(number) for number in numbers):
            raise ValueError(f"{self.name}: a figure, interval or threshold that is not finite")
        judged = self.state in ("ok", "drift")
        if judged != (self.severity is not None) or (self.severity is not None and self.out != (self.severity >= 1)):
            raise ValueError(f"{self.name}: state {self.state} does not go with severity {self.severity}")

    @property
    def out(self) -> bool:
        """Whether it counts against the window."""
        return self.state == "drift"

    @property
    def judged(self) -> bool:
        """Whether it says anything: `ok` or `drift`."""
        return self.state in ("ok", "drift")

    @property
    def long(self) -> bool:
        """Whether it is of the last windows together."""
        return self.name.startswith(LONG)

    @property
    def title(self) -> str:
        """Its name for people, with its slice; what callers named stands in it."""
        return self.name.replace("_", " ") + (f", {self.slice}" if self.slice else "")

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_json` back, also what was written before there were slices.

        Raises ValueError for missing or unknown members.
        """
        values = {"slice": "", **values}
        if wrong := {item.name for item in fields(cls)} ^ set(values):
            raise ValueError(f"a finding without or with other members: {sorted(wrong)}")
        interval = values["interval"]
        return cls(**{**values, "interval": None if interval is None else (float(interval[0]), float(interval[1]))})


def judged(
    name: str,
    family: Family,
    *,
    severity: float,
    figure: float,
    interval: tuple[float, float] | None,
    threshold: float,
    cells: int,
    patients: int,
    detail: dict[str, Any] | None = None,
) -> Finding:
    """`ok` or `drift`, as the severity says. It is capped so that an infinite ratio stays JSON."""
    severity = min(severity, SEVERITY_CAP)
    state: State = "drift" if severity >= 1 else "ok"
    return Finding(name, family, state, figure, interval, threshold, cells, patients, detail or {}, severity)


def insufficient(
    name: str, family: Family, cells: int, patients: int, why: str, threshold: float | None = None
) -> Finding:
    """Too few to say."""
    return Finding(name, family, "insufficient", None, None, threshold, cells, patients, {"why": why})


SEVERITY_CAP: Final = 1000.0
