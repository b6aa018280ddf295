"""The trigger's command line: what a person may do to it, through the same door as the policy."""

import argparse
import json
import time

from monitoring.door import refusal
from monitoring.history import History
from monitoring.policy import PolicyState, Reviewed
from monitoring.recalibration import case_mix
from monitoring.reviews import unused
from monitoring.runs import open_runs, policy_state, retrainings, used_until
from monitoring.settings import Settings, load_settings
from monitoring.trigger import LOG, LocalTrigger, Reason
from service.contract.errors import CommandParser, ConfigError
from service.contract.lease import RETRAINING, Leases
from service.contract.ledger import Ledger
from service.contract.pixels import PixelStore
from service.contract.reading import asked_for
from service.contract.store import Store

POLL_S = 0.5


def main(argv: list[str] | None = None) -> int:
    """Run one command; raises BlastwatchError with a line that says what to do."""
    arguments = parser().parse_args(argv)
    settings = load_settings()
    ledger = Ledger(settings.store_url, create=False)
    match arguments.command:
        case "retrain":
            return _retrain(arguments, settings, ledger)
        case "recalibrate":
            return _recalibrate(arguments, settings, ledger)
        case "freeze":
            ledger.append("frozen", by=_said(arguments.by, "--by"), why=_said(arguments.why, "--why"))
            print("triggers are frozen; a retraining that runs is not stopped")
        case "resume":
            ledger.append("resumed", by=_said(arguments.by, "--by"), why=arguments.why)
            print("triggers may fire again; the breaker is closed")
        case "status":
            _status(settings, ledger)
    return 0


def _retrain(arguments: argparse.Namespace, settings: Settings, ledger: Ledger) -> int:
    rows = ledger.rows()
    reviewed = unused(Store(settings.store_url), PixelStore(settings.pixels_dir), used_until(rows), asked_for(rows))
    return _fire(
        arguments, settings, ledger, Reason(_said(arguments.why, "--why"), by=_said(arguments.by, "--by")), reviewed
    )


def _recalibrate(arguments: argparse.Namespace, settings: Settings, ledger: Ledger) -> int:
    production = ledger.production()
    windows = History(settings.store_url).windows(production or "", last=settings.policy.fire_of)
    priors = arguments.priors or case_mix(item.findings for item in windows)
    if priors is None:
        raise ConfigError("no window of the model in production found a label shift: give the case mix with --priors")
    reason = Reason(_said(arguments.why, "--why"), by=_said(arguments.by, "--by"), priors=priors)
    return _fire(arguments, settings, ledger, reason, Reviewed())


def _fire(arguments: argparse.Namespace, settings: Settings, ledger: Ledger, reason: Reason, reviewed: Reviewed) -> int:
    trigger = LocalTrigger(ledger, settings)
    run = trigger.fire(reason, reviewed)
    what = "retraining" if reason.priors is None else "recalibration"
    print(f"{what} {run} runs; its log: {settings.work_dir / run / LOG}", flush=True)
    if not arguments.wait:
        return 0
    try:
        while trigger.watch(time.time()):
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        print("no longer waiting; the retraining goes on")
        raise
    item = next(item for item in retrainings(ledger.rows()) if item.run == run)
    body = item.end.body if item.end else {}
    print(f"{what} {run}: {item.outcome}" + (f" ({body['reason']})" if "reason" in body else ""))
    for reason in body.get("reasons", []):
        print(f"  {reason}")
    return 1 if item.outcome == "failed" else 0


def _status(settings: Settings, ledger: Ledger) -> None:
    rows = ledger.rows()
    state = policy_state(rows, PolicyState(), saved=0.0)
    reviewed = unused(Store(settings.store_url), PixelStore(settings.pixels_dir), used_until(rows), asked_for(rows))
    print(f"in production: {ledger.production() or 'nothing yet'}")
    print(f"frozen: {'yes' if state.frozen else 'no'}")
    print(f"running: {', '.join(open_runs(rows)) or 'nothing'}")
    if held := Leases(settings.store_url).held(RETRAINING):
        print(f"lease: {held.lease.holder}, {held.left_s:.0f} s unless it is renewed")
    print(f"new reviewed cells with pixels: {reviewed.cells}, of {reviewed.patients} patients")
    print(f"a retraining may start: {refusal(rows, settings.policy, time.time(), reviewed) or 'yes'}")
    for item in retrainings(rows)[-5:]:
        print(f"  {item.run}  {item.outcome}")
    print("why: `python -m monitoring.explain last`, or RUN in place of last")


def _said(text: str, option: str) -> str:
    if not text.strip():
        raise ConfigError(f"{option} is empty: say it, it goes on record")
    return text.strip()


def _priors(text: str) -> dict[str, float]:
    try:
        return {str(label): float(share) for label, share in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object of labels and their shares") from None


def parser() -> CommandParser:
    """The arguments, as `--help` shows them."""
    made = CommandParser(
        prog="python -m monitoring.trigger",
        description="Start a retraining, stop triggers from firing, or let them go again. Everything goes on record in "
        "the ledger. Settings are those of the monitor (BLASTWATCH_…).",
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    retrain = commands.add_parser(
        "retrain", help="start a retraining now, if freeze, breaker, budget, cooldown and reviews allow it"
    )
    retrain.add_argument("--why", required=True, metavar="TEXT", help="the reason, for the ledger")
    retrain.add_argument("--by", default="operator", metavar="ROLE", help="who asks, as a role (default: %(default)s)")
    retrain.add_argument("--wait", action="store_true", help="wait for its end and print the result; 1 when it failed")
    again = commands.add_parser(
        "recalibrate", help="answer for another case mix, with nothing trained: by default the one of the last windows"
    )
    again.add_argument("--priors", type=_priors, metavar="JSON", help='the case mix: {"label": share, ...}')
    again.add_argument("--why", required=True, metavar="TEXT", help="the reason, for the ledger")
    again.add_argument("--by", default="operator", metavar="ROLE", help="who asks, as a role (default: %(default)s)")
    again.add_argument("--wait", action="store_true", help="wait for its end and print the result; 1 when it failed")
    freeze = commands.add_parser("freeze", help="let nothing start a retraining until `resume`")
    freeze.add_argument("--why", required=True, metavar="TEXT", help="the reason, for the ledger")
    freeze.add_argument("--by", default="operator", metavar="ROLE", help="who asks, as a role (default: %(default)s)")
    resume = commands.add_parser("resume", help="end a freeze, and close the breaker that refused candidates opened")
    resume.add_argument("--by", required=True, metavar="ROLE", help="who decides, as a role, not a name")
    resume.add_argument("--why", default="", metavar="TEXT", help="the reason, for the ledger")
    commands.add_parser("status", help="what runs, what ran, and whether one may start")
    return made
