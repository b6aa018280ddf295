"""Which pins of requirements.lock one extra of pyproject.toml needs: the Bento installs these and nothing else.

Reads the `# via` notes that `uv pip compile` leaves below each pin, so that it needs neither the network nor an
installed environment: the answer depends on two files alone.
"""

import re
import tomllib
from collections.abc import Iterable

from service.contract.errors import ConfigError

_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[^\]]*\])?==\S+")
_VIA = re.compile(r"^\s+#\s+(?:via\b)?\s*(?P<parent>\S+)?")


def canonical(name: str) -> str:
    """The name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_lock(text: str) -> tuple[dict[str, str], dict[str, set[str]]]:
    """Pins by name, and for each name the packages that asked for it.

    Raises:
        ConfigError: a line that is neither a pin nor a note.
    """
    pins: dict[str, str] = {}
    parents: dict[str, set[str]] = {}
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith(("#", "-")):
            continue
        if pin := _PIN.match(line):
            current = canonical(pin["name"])
            pins[current] = line.strip()
            parents[current] = set()
        elif (note := _VIA.match(line)) and current:
            if parent := note["parent"]:
                parents[current].add(canonical(parent))
        else:
            raise ConfigError(f"requirements.lock line {number} is not a pin: compile it again with `uv pip compile`")
    return pins, parents


def roots(pyproject: str, extra: str) -> list[str]:
    """Names that the project and one of its extras ask for directly.

    Raises:
        ConfigError: no such extra.
    """
    project = tomllib.loads(pyproject)["project"]
    try:
        wanted: Iterable[str] = [*project.get("dependencies", []), *project["optional-dependencies"][extra]]
    except KeyError:
        raise ConfigError(f"pyproject.toml has no extra {extra!r}") from None
    return [canonical(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]) for requirement in wanted]


def pins_of_extra(lock: str, pyproject: str, extra: str) -> list[str]:
    """The pinned lines that the project with one extra needs, all that they ask for included, sorted.

    Raises:
        ConfigError: the lock lacks something that the extra asks for.
    """
    pins, parents = parse_lock(lock)
    needed = set(roots(pyproject, extra))
    if missing := sorted(needed - pins.keys()):
        raise ConfigError(f"requirements.lock lacks {', '.join(missing)}: compile it again")
    while grown := {name for name, asked_by in parents.items() if asked_by & needed} - needed:
        needed |= grown
    return [pins[name] for name in sorted(needed)]
