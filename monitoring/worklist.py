"""Work lists for readers: which cells to ask about, what they said, and where they disagree.

    python -m monitoring.worklist export --out DIR       a table to fill in, pictures, and a page to look at
    python -m monitoring.worklist import FILE --reader haematologist-1
    python -m monitoring.worklist agreement
    python -m monitoring.worklist adjudicate --out DIR   the cells that readers disagree about, for an adjudicator

What was asked and what came back is in the ledger; reviews are in the store like those that the service takes.
"""

import argparse
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from monitoring.choosing import DISAGREEMENT, DRIFTED, RANDOM, UNCERTAIN, Wish, choose
from monitoring.history import History
from monitoring.planned import WHAT as SLICES
from monitoring.readers import Agreement, agreements
from monitoring.settings import Settings, load_settings
from monitoring.worklist_files import PAGE, TABLE, read_list, write_list
from monitoring.worklist_import import BadRows, take
from service.contract.errors import CommandParser, ConfigError, run_command
from service.contract.ledger import Ledger
from service.contract.pixels import PixelStore
from service.contract.reading import EXPORTED, asked_for, pictures, readings
from service.contract.records import utc_now
from service.contract.store import Store, StoredPrediction


def main(argv: list[str] | None = None) -> int:
    """Run one command; raises BlastwatchError with a line that says what to do."""
    arguments = parser().parse_args(argv)
    settings = load_settings()
    store, ledger = Store(settings.store_url), Ledger(settings.store_url)
    try:
        match arguments.command:
            case "export":
                _export(arguments, settings, store, ledger)
            case "import":
                return _import(arguments, store, ledger)
            case "agreement":
                _agreement(settings, store, ledger)
            case "adjudicate":
                _adjudicate(arguments, settings, store, ledger)
    finally:
        ledger.close()
        store.close()
    return 0


def _export(arguments: argparse.Namespace, settings: Settings, store: Store, ledger: Ledger) -> None:
    pixels, version = PixelStore(settings.pixels_dir), arguments.model or ledger.production()
    cells = store.predictions(after_seq=max(0, store.latest_seq() - arguments.latest), model_version=version)
    in_slice, where = _slice(arguments.slice, version, settings) if arguments.drifted else (_nowhere, "")
    asked = asked_for(ledger.rows(EXPORTED))
    choice = choose(
        cells,
        Wish(arguments.random, arguments.drifted, arguments.uncertain, arguments.per_patient, arguments.seed),
        asked=asked,
        read={item.record.pixels_sha256 for item, _ in readings(store, {})},
        shown=pixels.has,
        in_slice=in_slice,
    )
    if not choice.cells:
        raise ConfigError(
            f"nothing to ask about in the last {len(cells)} answers ({choice.skipped} without pixels): see that "
            "BLASTWATCH_IMAGE_RETENTION keeps pixels, or raise --latest"
        )
    _write(arguments, ledger, pixels, choice.cells, arguments.readers)
    counts = Counter(reason for _, reason in choice.cells)
    shown = ", ".join(f"{counts[reason]} {reason}" for reason in (RANDOM, DRIFTED, UNCERTAIN))
    print(f"{len(choice.cells)} cells in {arguments.out} ({shown}): fill in {TABLE}, look at {PAGE}")
    print(f"random ones are of {choice.share:.1%} of all cells, those kept whatever the answer{where}")
    if choice.skipped:
        print(f"{choice.skipped} of {len(cells)} answers skipped: their pixels are not kept")


def _adjudicate(arguments: argparse.Namespace, settings: Settings, store: Store, ledger: Ledger) -> None:
    pixels = PixelStore(settings.pixels_dir)
    open_ = [picture.stored for picture in pictures(store, {}) if picture.reading.how == "disagreed"]
    cells = [(item, DISAGREEMENT) for item in open_ if pixels.has(item.record.pixels_sha256)]
    gone = f"{len(open_) - len(cells)} cells skipped: their pixels are not kept"
    if not cells:
        raise ConfigError(f"readers disagree about no cell that can be shown ({gone})")
    _write(arguments, ledger, pixels, cells, 1)
    print(f"{len(cells)} cells in {arguments.out}: fill in {TABLE}, look at {PAGE}")
    if len(cells) < len(open_):
        print(gone)


def _write(
    arguments: argparse.Namespace,
    ledger: Ledger,
    pixels: PixelStore,
    cells: Sequence[tuple[StoredPrediction, str]],
    readers: int,
) -> None:
    """The folder, then the ledger's row: a list that is not on record is refused when it comes back."""
    by_reason: dict[str, list[str]] = {}
    for item, reason in cells:
        by_reason.setdefault(reason, []).append(item.record.record_id)
    labels = tuple(dict.fromkeys(label for item, _ in cells for label in item.record.probabilities))
    names = [f"{reason} {record}" for reason, records in by_reason.items() for record in records]
    number = len(ledger.rows(EXPORTED))
    list_id = hashlib.sha256("\n".join([str(number), *names]).encode()).hexdigest()[:12]
    write_list(arguments.out, list_id, cells, labels, pixels.load)
    body = {"list": list_id, "seed": getattr(arguments, "seed", None), "readers": readers, "by": arguments.by}
    ledger.append(EXPORTED, **body, cells=by_reason)


def _import(arguments: argparse.Namespace, store: Store, ledger: Ledger) -> int:
    rows = read_list(arguments.file)
    digest = hashlib.sha256(arguments.file.read_bytes()).hexdigest()
    try:
        taken = take(store, ledger.rows(EXPORTED), rows, arguments.reader, utc_now(), digest)
    except BadRows as error:
        print("\n".join(f"{arguments.file}: {problem}" for problem in error.problems), file=sys.stderr)
        raise
    words = f"on record, {taken.known} were already, {taken.unread} cells not read"
    print(f"{taken.new} reviews by {arguments.reader} {words}")
    return 0


def _agreement(settings: Settings, store: Store, ledger: Ledger) -> None:
    read = readings(store, asked_for(ledger.rows(EXPORTED)))
    counts = Counter(reading.how for _, reading in read)
    print(f"{len(read)} cells read: " + (", ".join(f"{counts[how]} {how}" for how in sorted(counts)) or "none"))
    for found in agreements(read, settings.seed):
        print("\n".join(_lines(found)))


def _lines(found: Agreement) -> list[str]:
    one, other = found.readers
    kappa = "κ is not defined" if found.kappa is None else f"Cohen's κ {found.kappa:.2f}"
    if found.kappa is not None:
        low, high = found.interval or (0.0, 0.0)
        kappa += f" ({low:.2f} … {high:.2f}, 95 %)" if found.interval else " (too few patients for an interval)"
    lines = [
        f"{one} and {other}: {found.cells} cells of {found.patients} patients, {found.share:.1%} alike, {kappa}"
        + (f"; {found.left_out} cells without a patient left out" if found.left_out else "")
    ]
    for row, label in enumerate(found.labels):
        for column, said in enumerate(found.labels):
            if row != column and found.confusion[row, column]:
                lines.append(f"  {found.confusion[row, column]} × {label} / {said}")
    return lines


def _slice(text: str | None, version: str | None, settings: Settings) -> tuple[Callable[[StoredPrediction], bool], str]:
    """Which cells drifted, and words on it: a slice that was named, or the newest judged window if it drifted."""
    if text is not None:
        name, _, value = text.partition("=")
        if name not in SLICES or not value:
            raise ConfigError(f"--slice {text}: name one as {'=…, '.join(SLICES)}=…")
        return lambda item: getattr(item.record, name) == value, f"; drifted ones have {name} {value}"
    history = History(settings.store_url)
    try:
        windows = history.windows(version, last=1)
    finally:
        history.close()
    if not windows or windows[0].state != "drift":
        return _nowhere, "; no drifted ones: the newest window is not in drift, name a slice with --slice"
    window = windows[0]
    # Where slices alone drifted, their cells: the rest of the window is what it was.
    slices = sorted({finding.slice for finding in window.findings if finding.out and finding.family == "slice"})
    if any(finding.out and not finding.slice for finding in window.findings):
        slices = []
    chosen = [one.partition("=")[::2] for one in slices]
    return (
        lambda item: (
            window.first_seq <= item.seq <= window.last_seq
            and (not chosen or any(getattr(item.record, name) == value for name, value in chosen))
        ),
        f"; drifted ones are of window {window.window_id}" + (f", {' and '.join(slices)}" if slices else ""),
    )


def _nowhere(_: StoredPrediction) -> bool:
    return False


def parser() -> CommandParser:
    """The arguments, as `--help` shows them."""
    made = CommandParser(
        prog="python -m monitoring.worklist", description="Work lists for readers, and what they said."
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    export = commands.add_parser("export", help="choose cells to ask about and write a reader's work list")
    for reason, number, words in (
        (RANDOM, 50, "cells drawn from all"),
        (DRIFTED, 50, "cells drawn from the drifted slice"),
        (UNCERTAIN, 50, "cells that the model is least sure of"),
    ):
        export.add_argument(f"--{reason}", type=_count, default=number, metavar="N", help=f"{words} (%(default)s)")
    export.add_argument(
        "--slice",
        metavar="NAME=VALUE",
        help="site, stain, scanner or client (default: where the newest window drifted)",
    )
    export.add_argument(
        "--per-patient",
        type=_count,
        default=5,
        metavar="N",
        help="drifted and uncertain cells of a patient (%(default)s)",
    )
    export.add_argument("--readers", type=_readers, default=2, metavar="N", help="readers of each cell (%(default)s)")
    export.add_argument(
        "--latest", type=_readers, default=5000, metavar="N", help="answers to choose from (%(default)s)"
    )
    export.add_argument("--model", metavar="VERSION", help="whose answers (default: the model in production)")
    export.add_argument("--seed", type=_count, default=0, metavar="N", help="of the draws (%(default)s)")
    adjudicate = commands.add_parser(
        "adjudicate", help="write the cells that readers disagree about, for an adjudicator"
    )
    for command in (export, adjudicate):
        command.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder that is not there yet")
        command.add_argument("--by", default="operator", metavar="ROLE", help="who asks, as a role (%(default)s)")
    importing = commands.add_parser("import", help="put a filled work list on record, all of it or nothing")
    importing.add_argument("file", type=Path, metavar="FILE", help=f"the filled {TABLE}")
    importing.add_argument("--reader", required=True, metavar="ROLE", help="who read, as a role or an id, not a name")
    commands.add_parser("agreement", help="how far readers agree: shares, Cohen's kappa, what they confuse")
    return made


def _count(text: str) -> int:
    return _at_least(0, text)


def _readers(text: str) -> int:
    return _at_least(1, text)


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
    return int(text)


if __name__ == "__main__":
    run_command(main)
