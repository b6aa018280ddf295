"""A section of params.yaml → the frozen dataclass of its stage."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from service.contract.errors import ConfigError

T = TypeVar("T")


def configured(kind: type[T], section: str, values: Mapping[str, Any]) -> T:
    """Build dataclass `kind` from a section's entries; lists become tuples.

    Raises ConfigError for an entry that the stage does not know, one that is missing, and one of a wrong value.
    """
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(f"params.yaml: {section} has {', '.join(unknown)}, known are {', '.join(known)}")
    needed = [name for name, item in known.items() if item.default is MISSING and item.default_factory is MISSING]
    if missing := sorted(set(needed) - set(values)):
        raise ConfigError(f"params.yaml: {section} lacks {', '.join(missing)}: add it, or restore the file from git")
    try:
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"params.yaml: {section}: {error}") from None
