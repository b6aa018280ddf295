"""The client's command line: `blastwatch classify`, `review`, `model`."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from service import converters
from service.client import GRPC_TARGET, AnyClient, Client
from service.client_calls import TIMEOUT_S
from service.client_http import HTTP_BASE, HttpClient
from service.contract.errors import (
    BlastwatchError,
    CommandParser,
    ConfigError,
    Forbidden,
    InvalidRequest,
    NotReady,
    Unauthenticated,
    run_command,
)
from service.domain import TEXTS, Answer, Cell, ModelInfo

ANSWERED, FAILED, REFERRED = 0, 1, 3
HOPELESS = (NotReady, Unauthenticated, Forbidden, ConfigError)
"""What every further file would meet too."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
SHORT = 12
PREFIX = "BLASTWATCH_CLIENT_"
ENVIRONMENT = ("target", "token_file", "ca", "certificate", "key")
"""Options whose default may stand in the environment, as BLASTWATCH_CLIENT_<NAME>."""
EXIT_STATUS = """\
exit status:
  0    every file was answered, the review was taken, the model was described
  1    some files could not be answered: one line each on stderr
  2    wrong arguments, or nobody to answer: the service cannot be reached, is not
       ready, or refuses the caller
  3    with --fail-on-refer: every file was answered, and a person must look at some
  130  interrupted
"""
VARIABLES = f"""\
environment, for options that are not given:
  {PREFIX}TARGET, {PREFIX}TOKEN_FILE,
  {PREFIX}CA, {PREFIX}CERTIFICATE, {PREFIX}KEY
"""


def run() -> NoReturn:
    """The console script."""
    run_command(main)


def main(argv: list[str] | None = None) -> int:
    """The command; its exit status is in --help. Raises BlastwatchError for what ends with 2."""
    args = _parser().parse_args(argv)
    client = _client(args)
    try:
        command: Callable[[AnyClient, argparse.Namespace], int] = args.run
        return command(client, args)
    finally:
        client.close()


def _parser() -> argparse.ArgumentParser:
    common = CommandParser(add_help=False)
    service = common.add_argument_group("the service")
    wire = service.add_mutually_exclusive_group()
    wire.add_argument("--grpc", action="store_true", help=f"ask over gRPC, the default ({GRPC_TARGET})")
    wire.add_argument("--http", action="store_true", help=f"ask over HTTP ({HTTP_BASE})")
    service.add_argument("--target", metavar="WHERE", help="host:port for gRPC, http://… or https://… for HTTP")
    service.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT_S,
        metavar="S",
        help="how long a call may take with its retries (%(default)g s)",
    )
    service.add_argument("--token-file", type=Path, metavar="FILE", help="a bearer token; read for every call")
    service.add_argument("--ca", metavar="FILE", help="TLS: who signed the service's certificate (PEM)")
    service.add_argument("--certificate", metavar="FILE", help="mTLS: this client's certificate (PEM)")
    service.add_argument("--key", metavar="FILE", help="mTLS: its key (PEM)")
    common.add_argument("--json", action="store_true", help="print JSON, one object a line")

    parser = CommandParser(
        prog="blastwatch" if Path(sys.argv[0]).stem == "blastwatch" else "python -m service.client",
        description="Asks a running blastwatch service: cells in, answers out, all of them on record.",
        epilog=f"{EXIT_STATUS}\n{VARIABLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[AnyClient, argparse.Namespace], int], about: str, takes: str = ""
    ) -> argparse.ArgumentParser:
        found = commands.add_parser(
            name,
            parents=[common],
            help=about,
            usage=" ".join(f"{parser.prog} {name} [options] {takes}".split()),
            description=f"{about[0].upper()}{about[1:]}.",
            epilog=f"`{parser.prog} --help` says what exit status and environment mean.",
        )
        found.set_defaults(run=run)
        return found

    classify = command("classify", _classify, "classify images of single cells", "FILE|DIR ...")
    classify.add_argument("files", nargs="+", type=Path, metavar="FILE|DIR", help="PNG, JPEG, TIFF, BMP, or a folder")
    cells = classify.add_argument_group("the cells")
    for name in TEXTS:
        cells.add_argument(f"--{name.replace('_', '-')}", default="", metavar="TEXT", help=_about(name))
    cells.add_argument("--pixel-size-um", type=float, default=0.0, metavar="UM", help="micrometres a pixel, if known")
    cells.add_argument("--test", action="store_true", help="test traffic: never monitored, never trained on")
    classify.add_argument(
        "--full-ids", action="store_true", help="whole record ids in the table, as `review` needs them"
    )
    classify.add_argument("--fail-on-refer", action="store_true", help="exit with 3 when a person must look at a cell")

    review = command("review", _review, "say what a reader sees in a classified cell", "RECORD LABEL")
    review.add_argument("record_id", metavar="RECORD", help="the whole record id of the answer")
    review.add_argument("label", metavar="LABEL", help="one of the model's labels")
    review.add_argument("--role", default="haematologist", help="the reader's role, never a name (%(default)s)")
    review.add_argument("--sampled", action="store_true", help="the cell was drawn at random for review")

    command("model", _model, "describe the model that answers now")
    return parser


def _about(name: str) -> str:
    if name == "request_id":
        return "a name for this one request: the same again gives the same record"
    return f"their {name.removesuffix('_id')}, for all of them"


def _client(args: argparse.Namespace) -> AnyClient:
    """Raises ConfigError for arguments or an environment that cannot work."""
    _read_environment(args)
    target: str = args.target or (HTTP_BASE if args.http else GRPC_TARGET)
    access = {
        "timeout_s": args.timeout,
        "token": args.token_file or "",
        "ca": args.ca,
        "certificate": args.certificate,
        "key": args.key,
    }
    if args.http or target.startswith(("http://", "https://")):
        if args.grpc:
            raise ConfigError(f"{target} is an address of HTTP: give host:port, or leave --grpc out")
        return HttpClient(target, **access)
    return Client(target, **access)


def _read_environment(args: argparse.Namespace) -> None:
    """Fills what was not given. Raises ConfigError for a name that nothing reads: a typo must not pass as a setting."""
    known = {PREFIX + name.upper(): name for name in ENVIRONMENT}
    for variable in sorted(os.environ):
        if variable.startswith(PREFIX) and variable not in known:
            raise ConfigError(f"{variable} is not read by this command: the names are {', '.join(known)}")
    for variable, name in known.items():
        value = os.environ.get(variable)
        if value and getattr(args, name) is None:
            setattr(args, name, Path(value) if name == "token_file" else value)


def _classify(client: AnyClient, args: argparse.Namespace) -> int:
    fields = {name: getattr(args, name) for name in (*TEXTS, "pixel_size_um", "test")}
    Cell(image=b"any", **fields).check()
    files = list(_files(args.files))
    if args.request_id and len(files) > 1:
        raise InvalidRequest("--request-id names one request: give one file with it")
    table = None if args.json else _Table(files, client.model, full_ids=args.full_ids)
    failed = referred = False
    for path in files:
        try:
            answer = client.classify(_read(path), **fields)
        except HOPELESS:
            raise
        except BlastwatchError as error:
            failed = True
            print(f"{_shown(path)}: {' '.join(str(error).split())}", file=sys.stderr)
            continue
        referred |= answer.refer
        if table is None:
            found = converters.to_json(converters.answer_to_message(answer))
            print(json.dumps({"file": str(path), **found}), flush=True)
        else:
            table.add(path, answer)
    if failed:
        return FAILED
    return REFERRED if referred and args.fail_on_refer else ANSWERED


def _files(given: Sequence[Path]) -> Iterator[Path]:
    """The files, and the images in folders and below, in order. A folder without any stays, to fail as a file would."""
    for path in given:
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES) if path.is_dir() else []
        yield from inside or [path]


def _read(path: Path) -> bytes:
    """Raises InvalidRequest."""
    if path.is_dir():
        raise InvalidRequest(f"no images in this folder ({', '.join(SUFFIXES)})")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"cannot be read: {error.strerror}") from None


def _shown(path: Path) -> str:
    """The name, on one line and in UTF-8 whatever it is."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(path))


class _Table:
    """Aligned rows, printed one by one as answers come; the header goes before the first."""

    def __init__(self, files: Sequence[Path], model: Callable[[], ModelInfo], *, full_ids: bool) -> None:
        self._file = max(len("file"), *(len(_shown(path)) for path in files))
        self._model = model
        self._id = 32 if full_ids else SHORT
        self._label = 0

    def add(self, path: Path, answer: Answer) -> None:
        """Prints the row of one file."""
        if not self._label:
            self._label = max(len("label"), len(answer.label), *(len(label) for label in self._model().labels))
            self._row("file", "label", "p", "malignant", "model", "record", "refer")
        self._row(
            _shown(path),
            answer.label,
            f"{answer.probabilities[answer.label]:.3f}",
            f"{answer.malignant_probability:.3f}",
            answer.model_version[:SHORT],
            answer.record_id[: self._id],
            ", ".join(answer.refer_reasons) or "yes" if answer.refer else "no",
        )

    def _row(self, file: str, label: str, p: str, malignant: str, model: str, record: str, refer: str) -> None:
        numbers = f"{p:>5}  {malignant:>9}"
        names = f"{model:{SHORT}}  {record:{self._id}}"
        print(f"{file:{self._file}}  {label:{self._label}}  {numbers}  {names}  {refer}", flush=True)


def _review(client: AnyClient, args: argparse.Namespace) -> int:
    answer = client.review(args.record_id, args.label, args.role, args.sampled)
    if args.json:
        print(json.dumps(converters.to_json(converters.review_answer_to_message(answer))))
    else:
        print(f"review {answer.review_id} taken; {answer.note or 'it counts for training'}")
    return ANSWERED


def _model(client: AnyClient, args: argparse.Namespace) -> int:
    model = client.model()
    if args.json:
        print(json.dumps(converters.to_json(converters.model_to_message(model))))
        return ANSWERED
    rows = {
        "version": model.version,
        "labels": ", ".join(f"{label} (malignant)" if label in model.malignant else label for label in model.labels),
        "field": f"{model.height}×{model.width} pixels, {model.field_um:g} µm wide",
        "refers": f"below a probability of {model.abstain:g}, above an OOD score of {model.ood:g}",
        "made": model.created,
    }
    for name, text in rows.items():
        print(f"{name:8} {text}")
    return ANSWERED
