"""Deletes all that the service has of one patient: python -m service.purge --patient-file FILE | --pseudonym HEX."""

import re
import time
from pathlib import Path

from service.contract.erasure import Erased, Erasure, patient_hash
from service.contract.errors import CommandParser, ConfigError, StoreUnavailable, run_command
from service.contract.pixels import PixelStore
from service.contract.pseudonym import load_key
from service.contract.records import PredictionRecord
from service.frames import decode, split
from service.journal import SUFFIX
from service.settings import Settings, load_settings
from service.shipper import REJECTED

_PSEUDONYM = re.compile(r"[0-9a-f]{32}")
_ASK_AGAIN_S = 0.2


def purge(settings: Settings, patient: str, *, wait_s: float = 60.0) -> Erased:
    """Waits until the journal has nothing of the pseudonym `patient` that the store has not, then deletes.

    Raises StoreUnavailable when the journal still has something after `wait_s` seconds: nothing is deleted then.
    """
    until = time.monotonic() + wait_s
    while files := unshipped(settings.journal_dir, patient):
        if time.monotonic() >= until:
            raise StoreUnavailable(
                f"{len(files)} files of the journal hold this patient's answers and are not in the store "
                f"({files[0]}): start the service so that they are shipped, look at what lies in {REJECTED}/, and run "
                "this again; nothing was deleted"
            )
        time.sleep(_ASK_AGAIN_S)
    erasure = Erasure(settings.store_url)
    try:
        return erasure.purge(patient, PixelStore(settings.pixels_dir))
    finally:
        erasure.close()


def unshipped(journal: Path, patient: str) -> list[Path]:
    """The journal's files, those set aside as damaged included, that hold an answer of that pseudonym."""
    return [path for path in sorted(journal.glob(f"*/*{SUFFIX}")) if _names(path, patient)]


def _names(path: Path, patient: str) -> bool:
    try:
        payloads = split(path.read_bytes()).payloads
    except FileNotFoundError:
        return False  # shipped just now
    for payload in payloads:
        if patient.encode() not in payload:
            continue
        try:
            record = decode(payload).record
        except ValueError:
            return True  # of another release: better looked at than passed over
        if isinstance(record, PredictionRecord) and record.patient == patient:
            return True
    return False


def main(argv: list[str] | None = None) -> int:
    """Runs the command; raises BlastwatchError with a line that says what to do."""
    arguments = _parser().parse_args(argv)
    settings = load_settings()
    for patient in _patients(arguments.patient_file, arguments.pseudonym, settings):
        found = purge(settings, patient, wait_s=arguments.wait)
        print(
            f"{patient_hash(patient)[:12]}: {found.predictions} answers, {found.reviews} reviews and {found.pixels} "
            "pictures deleted"
        )
        if found.shared_pixels:
            print(f"  {found.shared_pixels} pictures stay: answers of somebody else have the same")
        if found.reviewed:
            print("  read by a person, so they may be in training data, where the data's owner removes them (DVC):")
            print("\n".join(f"    {record_id}" for record_id in found.reviewed))
    return 0


def _patients(file: Path | None, pseudonym: str | None, settings: Settings) -> list[str]:
    if pseudonym is not None:
        if not _PSEUDONYM.fullmatch(pseudonym):
            raise ConfigError("--pseudonym takes 32 hex characters, as the store has them")
        return [pseudonym]
    assert file is not None  # noqa: S101  (the parser asks for one of the two)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read ({error}): give a text file with one patient id a line") from None
    key = load_key(settings.key_file, create=False)
    found = [key.pseudonym(line) for line in lines if line.strip()]
    if not found:
        raise ConfigError(f"{file} is empty: give a text file with one patient id a line")
    return found


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m service.purge",
        description="Deletes answers, reviews and pixels of a patient; the ledger notes how many, not whose.",
    )
    who = parser.add_mutually_exclusive_group(required=True)
    # From a file: the machine's other users see a command's arguments.
    who.add_argument("--patient-file", metavar="FILE", type=Path, help="a text file with one patient id a line")
    who.add_argument("--pseudonym", metavar="HEX", help="as the store has it")
    parser.add_argument(
        "--wait", metavar="SECONDS", type=float, default=60.0, help="for the journal to be shipped [%(default)s]"
    )
    return parser


if __name__ == "__main__":
    run_command(main)
