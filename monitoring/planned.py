"""The calendar of planned changes: what is known to come must not raise the alarm, and must not hide behind it either.

A file of a person's (TOML, or JSON with the same names):

    [[planned]]
    what = "scanner"
    value = "P250"
    from = 2026-03-01T08:00:00Z
    until = 2026-03-15T08:00:00Z
    why = "a new slide scanner in room 3"
    who = "laboratory management"

An entry is of the cells that come with that value from `from` until just before `until`.
"""

import json
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.contract.cells import Cells
from service.contract.errors import ConfigError

What = Literal["site", "stain", "scanner", "client"]
WHAT: Final[tuple[What, ...]] = get_args(What)
_Text = Annotated[str, Field(min_length=1, max_length=256)]

Flags = npt.NDArray[np.bool_]


class Entry(BaseModel):
    """A planned change; `who` is a role, not a name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: What
    value: _Text
    start: AwareDatetime = Field(alias="from")
    until: AwareDatetime
    why: _Text
    who: _Text

    @model_validator(mode="after")
    def _in_order(self) -> "Entry":
        if self.until <= self.start:
            raise ValueError("until must be later than from")
        return self

    @property
    def name(self) -> str:
        """The slice that it makes."""
        return f"{self.what}={self.value}"

    def covers(self, cells: Cells) -> Flags:
        """Which of the cells [n] it is of."""
        within = (cells.time >= self.start.timestamp()) & (cells.time < self.until.timestamp())
        return np.asarray(within & (getattr(cells, self.what) == self.value), dtype=np.bool_)

    def to_json(self) -> dict[str, str]:
        """As the file has it, times in UTC."""
        values = self.model_dump(by_alias=True)
        return {key: _utc(value) if isinstance(value, datetime) else str(value) for key, value in values.items()}


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    planned: list[Entry] = []


def read_calendar(path: Path) -> tuple[Entry, ...]:
    """The entries of a file. Raises ConfigError with one line that names the entry and says what is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        return tuple(_File.model_validate(values).planned)
    except OSError as error:
        raise ConfigError(f"the calendar {path} cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        raise ConfigError(f"the calendar {path}: {'; '.join(_line(dict(one)) for one in error.errors())}") from None
    except ValueError as error:  # of both parsers, and for bytes that are no UTF-8
        raise ConfigError(f"the calendar {path} is no {path.suffix.lstrip('.') or 'TOML'}: {error}") from None


class Calendar:
    """The entries of a file that may change while the monitor runs; without a file there are none."""

    def __init__(self, path: Path | None) -> None:
        """Raises ConfigError for a file that is not there or makes no sense."""
        self._path = path
        self._seen: object = None
        self._problem: str | None = None
        self._entries: tuple[Entry, ...] = ()
        if problem := self.refresh():
            raise ConfigError(f"{problem}: correct it, or unset BLASTWATCH_MONITOR_CALENDAR")

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Those of the last reading that made sense."""
        return self._entries

    def refresh(self) -> str | None:
        """Read the file where it changed; what is wrong with it, while something is, in one line."""
        if self._path is None:
            return None
        try:
            status = self._path.stat()
            seen: object = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError as error:
            seen = str(error)
        if seen != self._seen:
            try:
                self._entries, self._problem = read_calendar(self._path), None
            except ConfigError as error:
                self._problem = str(error)
            self._seen = seen
        return self._problem


def named(entries: Sequence[Entry]) -> str:
    """What is announced, in a few words: a name with a slip of the pen can be seen before its day."""
    return "; ".join(f"{one.name} from {_utc(one.start)} until {_utc(one.until)}" for one in entries) or "nothing"


def _line(problem: dict[str, Any]) -> str:
    """'entry 2, until: …', counted from one."""
    place: Sequence[str | int] = problem["loc"]
    words = [f"entry {item + 1}" if isinstance(item, int) else str(item) for item in place if item != "planned"]
    text = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "timezone_aware":
        text = "name the time zone, e.g. 2026-03-01T08:00:00Z"
    return f"{', '.join(words) or 'the file'}: {text}"


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).isoformat()
