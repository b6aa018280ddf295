"""Patient ids go on as pseudonyms only: HMAC-SHA-256 under a key file that never leaves the site."""

import hashlib
import hmac
import os
import secrets
import stat
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from service.contract.errors import ConfigError
from service.contract.files import aside_of, write_atomic

_SECRET_BYTES = 32


@dataclass(frozen=True)
class Key:
    """A site's secret and a short public name for it, so that records say under which key a pseudonym was made."""

    secret: bytes = field(repr=False)
    key_id: str

    def pseudonym(self, patient_id: str) -> str:
        """The patient's pseudonym, 32 hex characters; "" (no patient) stays "".

        Surrounding spaces and Unicode spelling (NFC) do not make another patient.
        """
        name = unicodedata.normalize("NFC", patient_id.strip())
        return hmac.new(self.secret, name.encode(), hashlib.sha256).hexdigest()[:32] if name else ""


def load_key(path: Path, *, create: bool) -> Key:
    """Read the key file (64 hex characters), or make one with mode 0600 if it is missing and `create` is set.

    Raises ConfigError when it is missing, unreadable, malformed, or readable by every user of the machine.
    """
    path = Path(path)
    try:
        if create and not path.exists():
            _create(path)
        text = path.read_text(encoding="ascii")
        readable_by_all = bool(path.stat().st_mode & stat.S_IRWXO)
    except FileNotFoundError:
        raise ConfigError(
            f"no pseudonym key at {path}: make one with `mkdir -p {path.parent} && "
            f"(umask 077; openssl rand -hex {_SECRET_BYTES} > {path})`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the pseudonym key {path} cannot be read: {error}") from error
    if readable_by_all:
        raise ConfigError(f"the pseudonym key {path} is open to every user of this machine: run `chmod 600 {path}`")
    try:
        secret = bytes.fromhex(text.strip())
    except ValueError:
        secret = b""
    if len(secret) < _SECRET_BYTES:
        raise ConfigError(f"the pseudonym key {path} must hold at least {2 * _SECRET_BYTES} hex characters")
    return Key(secret, hashlib.sha256(b"blastwatch key id\0" + secret).hexdigest()[:12])


def _create(path: Path) -> None:
    """Link a finished file into place: of several workers that start at once, the first one's key is everyone's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    write_atomic(aside, secrets.token_hex(_SECRET_BYTES) + "\n", mode=0o600)
    try:
        os.link(aside, path)
    except FileExistsError:
        return
    finally:
        aside.unlink()
