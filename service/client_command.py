"""The client's command line: classify, review, model."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from service import converters
from service.client import GRPC_TARGET, HTTP_BASE, AnyClient, Client, HttpClient
from service.contract.errors import CommandParser, InvalidRequest
from service.domain import TEXTS


def main(argv: list[str] | None = None) -> int:
    """The command. Raises BlastwatchError for what the caller can put right."""
    args = _parser().parse_args(argv)
    client: AnyClient = HttpClient(args.target or HTTP_BASE) if args.http else Client(args.target or GRPC_TARGET)
    try:
        run: Callable[[AnyClient, argparse.Namespace], None] = args.run
        run(client, args)
    finally:
        client.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    common = CommandParser(add_help=False)
    wire = common.add_mutually_exclusive_group()
    wire.add_argument("--grpc", action="store_true", help=f"over gRPC, the default ({GRPC_TARGET})")
    wire.add_argument("--http", action="store_true", help=f"over HTTP ({HTTP_BASE})")
    common.add_argument("--target", help="where the service is: host:port, with --http an address")
    common.add_argument("--json", action="store_true", help="print JSON, one object a line")
    parser = CommandParser(prog="python -m service.client", description="Calls a running service.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    classify = commands.add_parser("classify", parents=[common], help="classify images of single cells")
    classify.add_argument("files", nargs="+", type=Path, metavar="FILE", help="PNG, JPEG, TIFF or BMP")
    for name in TEXTS:
        classify.add_argument(f"--{name.replace('_', '-')}", default="", help=f"the cell's {name.replace('_', ' ')}")
    classify.add_argument("--pixel-size-um", type=float, default=0.0, help="micrometres a pixel; default: not known")
    classify.add_argument("--test", action="store_true", help="mark as test traffic: never monitored, never trained on")
    classify.set_defaults(run=_classify)

    review = commands.add_parser("review", parents=[common], help="say what a reader sees in a classified cell")
    review.add_argument("record_id", metavar="RECORD", help="the record id of the prediction")
    review.add_argument("label", metavar="LABEL", help="one of the model's labels")
    review.add_argument("--role", default="haematologist", help="the reader's role, never a name (%(default)s)")
    review.add_argument("--sampled", action="store_true", help="the cell was drawn at random for review")
    review.set_defaults(run=_review)

    model = commands.add_parser("model", parents=[common], help="describe the model that answers now")
    model.set_defaults(run=_model)
    return parser


def _classify(client: AnyClient, args: argparse.Namespace) -> None:
    fields = {name: getattr(args, name) for name in (*TEXTS, "pixel_size_um", "test")}
    if not args.json:
        print(f"{'file':24} {'label':10} {'p':>6} {'malignant':>9} {'refer':28} {'model':12} record")
    for path in args.files:
        try:
            image = path.read_bytes()
        except OSError as error:
            raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from None
        answer = client.classify(image, **fields)
        if args.json:
            print(json.dumps({"file": str(path), **converters.to_json(converters.answer_to_message(answer))}))
            continue
        reasons = ", ".join(answer.refer_reasons) if answer.refer else "no"
        print(
            f"{path.name:24} {answer.label:10} {answer.probabilities[answer.label]:6.3f} "
            f"{answer.malignant_probability:9.3f} {reasons:28} {answer.model_version[:12]:12} {answer.record_id}"
        )


def _review(client: AnyClient, args: argparse.Namespace) -> None:
    answer = client.review(args.record_id, args.label, args.role, args.sampled)
    if args.json:
        print(json.dumps(converters.to_json(converters.review_answer_to_message(answer))))
        return
    print(f"review {answer.review_id} taken; {answer.note or 'it counts for training'}")


def _model(client: AnyClient, args: argparse.Namespace) -> None:
    model = client.model()
    if args.json:
        print(json.dumps(converters.to_json(converters.model_to_message(model))))
        return
    print(
        f"model {model.version}: {', '.join(model.labels)}; {model.height}×{model.width} pixels, {model.field_um:g} µm"
    )
