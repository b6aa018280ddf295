"""The log: one JSON object a line for machines, or lines to read in a terminal.

Every line knows the call that it is about (`door.known_now`). What came from a caller cannot forge a line: JSON escapes
what is not plain ASCII, and in the other format what cannot be printed is escaped and a traceback is indented.
"""

import json
import logging
import sys
from datetime import UTC, datetime

from service.door import access, known_now
from service.settings import Settings

THEIRS = ("bentoml", "circus", "uvicorn", "uvicorn.access", "uvicorn.error")
"""Loggers that BentoML gives handlers of their own: with them some lines would come twice, and in two formats."""

log = logging.getLogger("service")

_encode = json.JSONEncoder(default=str).encode


class JsonFormatter(logging.Formatter):
    """time (RFC 3339, UTC), level, logger, process, message, what is known of the call, exception as one text."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields: dict[str, object] = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **known_now(),
            **getattr(record, "call", {}),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = record.stack_info
        return _encode({name: value for name, value in fields.items() if value != ""})


class TextFormatter(logging.Formatter):
    """Time (UTC), level, logger, message, and what is known of the call in brackets; tracebacks below, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """A line, and more for a traceback."""
        about = " ".join(f"{name}={value}" for name, value in known_now().items())
        line = f"{_moment(record)} {record.levelname:7} {record.name}: {record.getMessage()}"
        below = self.formatException(record.exc_info) if record.exc_info else ""
        lines = [line + (f" [{about}]" if about else ""), *(f"    {text}" for text in below.splitlines())]
        return "\n".join(_printable(text) for text in lines)


def configure(settings: Settings) -> None:
    """Sends everything that is logged in this process to standard output, in the format that the settings ask for."""
    in_json = as_json(settings)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter() if in_json else TextFormatter())
    for name in THEIRS:
        theirs = logging.getLogger(name)
        theirs.handlers.clear()
        theirs.propagate = True
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("service").setLevel(settings.log_level.upper())
    access.setLevel(logging.INFO if in_json and settings.log_access else logging.WARNING)
    logging.captureWarnings(True)


def as_json(settings: Settings) -> bool:
    """Whether the log is for machines: as the settings say, else wherever standard output is no terminal."""
    return settings.log_format == "json" or (settings.log_format == "auto" and not sys.stdout.isatty())


def announce(settings: Settings, text: str, *, warning: bool = False) -> None:
    """Tells the operator something before there are workers: a line of the log, or plain text in a terminal."""
    if as_json(settings):
        log.log(logging.WARNING if warning else logging.INFO, "%s", text)
    elif warning:
        print(f"warning: {text}", file=sys.stderr)
    else:
        print(text, flush=True)


def _moment(record: logging.LogRecord) -> str:
    """RFC 3339, UTC."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")[:26] + "Z"


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
