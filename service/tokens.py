"""Who may call the service: a file of clients, and the command that keeps it (`python -m service.tokens add CLIENT …`).

One JSON object a line: the client's name, its roles, and either the SHA-256 of its token or the name in its
certificate. A token is 256 random bits, so there is nothing to guess and a plain hash is as good as a slow one; slow
hashes are for passwords that people choose.
"""

import argparse
import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from service.auth import LOCAL
from service.contract.errors import CommandParser, ConfigError, NotFound, run_command
from service.contract.files import write_atomic
from service.contract.records import utc_now
from service.settings import PREFIX, load_settings

PREFIX_OF_TOKENS = "bw_"
"""So that a scanner for secrets knows one when it lies about."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")
ID_LENGTH = 12


class Role(StrEnum):
    """What a client may do; `admin` may do everything."""

    INFER = "infer"
    REVIEW = "review"
    ADMIN = "admin"


@dataclass(frozen=True)
class Entry:
    """One way in: a client, its roles, and the token's hash or the certificate's name (the other one is empty)."""

    client: str
    roles: frozenset[Role]
    token_sha256: str = ""
    certificate: str = ""
    added: str = ""

    @property
    def id(self) -> str:
        """What `list` shows and `revoke --id` takes; says nothing about the token that would help."""
        return hashlib.sha256(f"{self.token_sha256}\0{self.certificate}".encode()).hexdigest()[:ID_LENGTH]


def digest_of(token: str) -> str:
    """Hex SHA-256 of a token as it is presented."""
    return hashlib.sha256(token.encode()).hexdigest()


def by_token(entries: Sequence[Entry], token: str) -> Entry | None:
    """The entry of that token; every hash is compared in constant time, whichever fits."""
    presented = digest_of(token)
    found = None
    for entry in entries:
        if hmac.compare_digest(entry.token_sha256, presented):
            found = entry
    return found


def by_certificate(entries: Sequence[Entry], names: Sequence[str]) -> Entry | None:
    """The entry of a verified certificate's names; None too where they are those of more than one client."""
    found = [entry for entry in entries if entry.certificate and entry.certificate in names]
    return found[0] if len({(entry.client, entry.roles) for entry in found}) == 1 else None


def read(path: Path) -> tuple[Entry, ...]:
    """The file's entries. Raises ConfigError with the line that makes no sense, and never with what is in it."""
    try:
        if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH | stat.S_IROTH):
            raise ConfigError(f"the tokens file {path} is open to others: run `chmod 600 {path}`")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"there is no tokens file {path}: make one with `python -m service.tokens add CLIENT --role infer`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the tokens file {path} cannot be read ({type(error).__name__})") from None
    entries = tuple(_entry(line, f"{path}, line {n}") for n, line in enumerate(text.splitlines(), 1) if line.strip())
    ways = [entry.token_sha256 or entry.certificate for entry in entries]
    if len(ways) != len(set(ways)):
        raise ConfigError(f"the tokens file {path} has one token or certificate twice: revoke one of them")
    return entries


def _entry(line: str, where: str) -> Entry:
    try:
        found = json.loads(line)
        entry = Entry(
            client=str(found["client"]),
            roles=frozenset(Role(role) for role in found["roles"]),
            token_sha256=str(found.get("token_sha256", "")),
            certificate=str(found.get("certificate", "")),
            added=str(found.get("added", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(f"{where}: not a client with roles in JSON; `python -m service.tokens` writes them") from None
    if not NAME.fullmatch(entry.client) or entry.client == LOCAL or not entry.roles:
        raise ConfigError(f"{where}: needs a client name (not {LOCAL}) and a role")
    if bool(entry.token_sha256) == bool(entry.certificate):
        raise ConfigError(f"{where}: needs either token_sha256 or certificate")
    if entry.token_sha256 and not DIGEST.fullmatch(entry.token_sha256):
        raise ConfigError(f"{where}: token_sha256 must be 64 hex digits in lower case")
    return entry


def write(path: Path, entries: Sequence[Entry]) -> None:
    """Writes the file, atomically and for its owner only. Raises ConfigError when it cannot be written."""
    lines = []
    for entry in entries:
        way = {"token_sha256": entry.token_sha256} if entry.token_sha256 else {"certificate": entry.certificate}
        found = {"client": entry.client, "roles": sorted(entry.roles), **way, "added": entry.added}
        lines.append(json.dumps(found) + "\n")
    try:
        write_atomic(path, "".join(lines), mode=0o600)
    except OSError as error:
        raise ConfigError(f"the tokens file {path} cannot be written: {error.strerror}") from None


def add(path: Path, client: str, roles: Sequence[Role], *, certificate: str = "") -> str:
    """Lets a client in and returns its new token; "" where it comes with a certificate of that name.

    A client may have several tokens, so that it can change over to a new one. Raises ConfigError.
    """
    if not NAME.fullmatch(client) or client == LOCAL:
        raise ConfigError(f"{client!r} cannot be a client: letters, digits and . _ - (at most 64), and not {LOCAL}")
    token = "" if certificate else PREFIX_OF_TOKENS + secrets.token_urlsafe(32)
    with _locked(path):
        entries = read(path) if path.exists() else ()
        if certificate and any(entry.certificate == certificate for entry in entries):
            raise ConfigError(f"the certificate {certificate} is a client's already: revoke that one first")
        digest = digest_of(token) if token else ""
        write(path, (*entries, Entry(client, frozenset(roles), digest, certificate, utc_now())))
    return token


def revoke(path: Path, client: str, *, entry_id: str = "") -> int:
    """Takes every way in from a client, or the one with that id; returns how many. Raises NotFound, ConfigError."""
    with _locked(path):
        entries = read(path)
        kept = [entry for entry in entries if entry.client != client or entry_id not in ("", entry.id)]
        if len(kept) == len(entries):
            raise NotFound(f"no such entry of {client}: `python -m service.tokens list` shows what there is")
        write(path, kept)
    return len(entries) - len(kept)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Of two commands at once the second one sees what the first one wrote; the folder is locked, no file is left."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(f"{path.parent} cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def main(argv: list[str] | None = None) -> int:
    """The command. Raises ConfigError and NotFound with one line that says what to do."""
    args = _parser().parse_args(argv)
    path: Path | None = args.file or load_settings().tokens_file
    if path is None:
        raise ConfigError(f"set {PREFIX}TOKENS_FILE, or say --file")
    if args.command == "add":
        token = add(path, args.client, [Role(role) for role in args.role], certificate=args.certificate)
        print(token or f"{args.client} may call with a certificate of the name {args.certificate}")
    elif args.command == "revoke":
        print(f"{revoke(path, args.client, entry_id=args.id)} revoked")
    else:
        print(f"{'client':24} {'roles':20} {'id':{ID_LENGTH}} {'added':26} by")
        for entry in read(path):
            way = f"certificate {entry.certificate}" if entry.certificate else "token"
            print(f"{entry.client:24} {','.join(sorted(entry.roles)):20} {entry.id} {entry.added:26} {way}")
    return 0


def _parser() -> argparse.ArgumentParser:
    common = CommandParser(add_help=False)
    common.add_argument("--file", type=Path, help=f"the tokens file; default: {PREFIX}TOKENS_FILE")
    parser = CommandParser(
        prog="python -m service.tokens",
        description="Says who may call the service. A running service sees each change at its next call.",
    )
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    adding = commands.add_parser("add", parents=[common], help="let a client in; prints its token, this once")
    adding.add_argument("client", metavar="CLIENT", help="a name for records and metrics, never a person's")
    adding.add_argument("--role", action="append", required=True, choices=[*Role], help="may be given more than once")
    adding.add_argument(
        "--certificate", default="", metavar="NAME", help="no token: the common or alternative name in its certificate"
    )
    revoking = commands.add_parser("revoke", parents=[common], help="take a client's tokens and certificates away")
    revoking.add_argument("client", metavar="CLIENT")
    revoking.add_argument("--id", default="", help="only this one, as `list` shows it")
    commands.add_parser("list", parents=[common], help="show who may call; tokens themselves are nowhere")
    return parser


if __name__ == "__main__":
    run_command(main)
