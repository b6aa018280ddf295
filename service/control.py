"""What an operator asks of the running workers: python -m service.control status | refer-all | canary | shadow.

Each becomes a row of the ledger, which the workers read every BLASTWATCH_POLL_S seconds; there is no other way in.
"""

import argparse
from collections.abc import Callable
from datetime import datetime

from service.contract.artifact import Artifact, read_artifact
from service.contract.errors import CommandParser, ConfigError, LedgerError, NotFound, run_command
from service.contract.ledger import Ledger, Row
from service.contract.serving import KINDS, Serving, Share, serving_of
from service.contract.shared_models import model_store
from service.settings import Settings, load_settings


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Raises BlastwatchError with a line that says what to do."""
    arguments = _parser().parse_args(argv)
    settings = load_settings()
    ledger = Ledger(settings.store_url, create=False)
    try:
        run: Callable[[argparse.Namespace, Settings, Ledger], None] = arguments.run
        run(arguments, settings, ledger)
    finally:
        ledger.close()
    return 0


def _status(_: argparse.Namespace, __: Settings, ledger: Ledger) -> None:
    rows = ledger.rows(*KINDS)
    now = serving_of(rows)
    last = {row.kind: row for row in rows}
    print(f"production  {ledger.production() or 'nothing yet'}")
    print(f"refer all   {'ON' + _since(last['refer_all_on']) if now.refer_all else 'off'}")
    print(f"canary      {_of(now.canary, last.get('canary_started'), 'patients')}")
    print(f"shadow      {_of(now.shadow, last.get('shadow_started'), 'cells')}")


def _of(share: Share | None, row: Row | None, of: str) -> str:
    if share is None or row is None:
        return "none"
    return f"{share.version}, {100 * share.share:.3g} % of the {of}{_since(row)}"


def _since(row: Row) -> str:
    when = datetime.fromisoformat(row.time).strftime("%Y-%m-%d %H:%M UTC")
    return f", since {when} by {row.body['by']}: {row.body['why']}"


def _refer_all(arguments: argparse.Namespace, _: Settings, ledger: Ledger) -> None:
    on = arguments.switch == "on"
    if _now(ledger).refer_all == on:
        print(f"nothing to do: it is {arguments.switch} already")
        return
    ledger.append("refer_all_on" if on else "refer_all_off", by=arguments.by, why=arguments.why)
    print("every answer is referred from now on" if on else "answers are referred as the model says again")


def _canary(arguments: argparse.Namespace, settings: Settings, ledger: Ledger) -> None:
    if arguments.version == "off":
        _end(arguments, ledger, "canary")
        return
    version = arguments.version
    _check_beside_production(version, settings, ledger)
    if not any(row.version == version for row in ledger.rows("gate_passed")):
        raise LedgerError(f"model {version} has not passed the gate: patients are not answered by it (a shadow may be)")
    if ledger.needs_approval(version):
        raise LedgerError(
            f"model {version} was rolled back: approve it again with "
            f"`python -m service.contract.ledger approve {version} --by ROLE`"
        )
    _begin(arguments, ledger, "canary")
    print(f"{100 * arguments.share:.3g} % of the patients are answered by {version} from now on")


def _shadow(arguments: argparse.Namespace, settings: Settings, ledger: Ledger) -> None:
    if arguments.version == "off":
        _end(arguments, ledger, "shadow")
        return
    _check_beside_production(arguments.version, settings, ledger)
    _begin(arguments, ledger, "shadow")
    print(
        f"{arguments.version} sees {100 * arguments.share:.3g} % of the cells from now on and answers nobody: "
        "`python -m service.shadow report` compares"
    )


def _begin(arguments: argparse.Namespace, ledger: Ledger, what: str) -> None:
    body = {"version": arguments.version, "share": arguments.share, "by": arguments.by, "why": arguments.why}
    ledger.append(f"{what}_started", **body)


def _end(arguments: argparse.Namespace, ledger: Ledger, what: str) -> None:
    now = _now(ledger)
    share = now.canary if what == "canary" else now.shadow
    if share is None:
        print(f"nothing to do: there is no {what}")
        return
    ledger.append(f"{what}_ended", version=share.version, by=arguments.by, why=arguments.why)
    print(f"{share.version} is no {what} any more")


def _check_beside_production(version: str, settings: Settings, ledger: Ledger) -> None:
    """Raises NotFound, LedgerError, ArtifactError for a model that cannot stand beside the one in production."""
    production = ledger.production()
    if production is None:
        raise LedgerError("no model is in production to stand beside: promote one first")
    if version == production:
        raise LedgerError(f"model {version} is in production already: name another one")
    if not ledger.is_registered(version):
        raise NotFound(f"no model {version} is registered: see `python -m service.contract.ledger show`")
    labels, others = (_artifact(settings, name).manifest.labels for name in (version, production))
    if labels != others:
        raise ConfigError(
            f"model {version} has the labels {', '.join(labels)}, production {', '.join(others)}: callers would get "
            "answers that they do not know"
        )


def _artifact(settings: Settings, version: str) -> Artifact:
    return read_artifact(model_store(settings.models, settings.models_url).path(version), expect_version=version)


def _now(ledger: Ledger) -> Serving:
    return serving_of(ledger.rows(*KINDS))


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: give a number above 0 and at most 1")
    return value


def _text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("say it in words: it goes into the ledger")
    return text.strip()


def _parser() -> CommandParser:
    who = CommandParser(add_help=False)
    who.add_argument("--by", metavar="ROLE", type=_text, required=True, help="who asks, as a role, not a name")
    who.add_argument("--why", metavar="TEXT", type=_text, required=True, help="the reason, for the ledger")
    side = CommandParser(add_help=False)
    side.add_argument("version", metavar="VERSION", help="a registered model, or off")
    side.add_argument(
        "--share", metavar="SHARE", type=_share, default=0.05, help="above 0 and at most 1 (default: %(default)s)"
    )
    parser = CommandParser(
        prog="python -m service.control",
        description="Asks something of the running workers; they follow within seconds. Each request is in the ledger.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    status = commands.add_parser("status", help="what is asked now, since when, by whom and why")
    status.set_defaults(run=_status)
    refer_all = commands.add_parser("refer-all", parents=[who], help="the kill switch: refer every answer to a person")
    refer_all.add_argument("switch", choices=("on", "off"))
    refer_all.set_defaults(run=_refer_all)
    canary = commands.add_parser("canary", parents=[side, who], help="a model that answers a share of the patients")
    canary.set_defaults(run=_canary)
    shadow = commands.add_parser("shadow", parents=[side, who], help="a model that sees a share of the cells, unseen")
    shadow.set_defaults(run=_shadow)
    return parser


if __name__ == "__main__":
    run_command(main)
