"""Every error that a caller may meet, as one tree.

    BlastwatchError
    ├── InvalidRequest          the message or a field of it makes no sense
    │   └── BadImage            the bytes are not a picture that can be read
    ├── Unauthenticated         who is asking is not known
    ├── Forbidden               who is asking may not do this
    ├── NotFound                no such record, model or file
    ├── Conflict                it contradicts what is already on record
    ├── TooLarge                more bytes than the service takes
    ├── Overloaded              too much work waiting; has retry_after_s
    │   └── RateLimited         this client sends more than it may
    ├── NotReady                no model loaded yet, or a dependency is away
    │   └── StoreUnavailable    the database or the disk cannot be reached
    ├── DeadlineExceeded        the caller's time ran out first
    ├── ArtifactError           a model folder is damaged, foreign or inconsistent
    ├── LedgerError             the ledger's chain is broken, or it refuses a step
    └── ConfigError             settings are unknown, contradictory or unsafe
        └── StoreOutdated       the database has the tables of an earlier release

Adapters look the status up along the MRO; the message is one line that says what to do and never holds a patient id.
"""

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn


class BlastwatchError(Exception):
    """Root of the tree; catching it catches everything that has a clear message."""


class InvalidRequest(BlastwatchError):
    """The message or a field of it makes no sense."""


class BadImage(InvalidRequest):
    """The bytes are not a picture that can be read."""


class Unauthenticated(BlastwatchError):
    """Who is asking is not known."""


class Forbidden(BlastwatchError):
    """Who is asking may not do this."""


class NotFound(BlastwatchError):
    """No such record, model or file."""


class Conflict(BlastwatchError):
    """It contradicts what is already on record."""


class TooLarge(BlastwatchError):
    """More bytes than the service takes."""


class Overloaded(BlastwatchError):
    """Too much work is waiting; `retry_after_s` says when asking again may help."""

    def __init__(
        self, message: str = "too much work is waiting: try again later", *, retry_after_s: float = 1.0
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimited(Overloaded):
    """The client sends more than it may; `retry_after_s` says when it may again."""


class NotReady(BlastwatchError):
    """No model is loaded yet, or something that the service depends on is away."""


class StoreUnavailable(NotReady):
    """The database or the disk cannot be reached."""


class DeadlineExceeded(BlastwatchError):
    """The caller's time ran out before the answer was there."""


class ArtifactError(BlastwatchError):
    """A model folder is damaged, foreign or inconsistent."""


class LedgerError(BlastwatchError):
    """The ledger's chain is broken, or it refuses a step."""


class ConfigError(BlastwatchError):
    """Settings are unknown, contradictory or unsafe."""


class StoreOutdated(ConfigError):
    """The database has the tables of an earlier release."""


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line; the usage is left to --help."""

    def error(self, message: str) -> NoReturn:
        """Print the complaint on stderr and exit with 2."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def run_command(main: Callable[[list[str] | None], int | None]) -> NoReturn:
    """Run a command's `main(None)` and exit: its status (None is 0), or 2 and one line on stderr for our errors."""
    try:
        status = main(None) or 0
        sys.stdout.flush()
    except BlastwatchError as error:
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        # The reader (`| head`) left; without this Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    sys.exit(status)
