"""Why a decision was made, from the ledger alone.

    python -m monitoring.explain last | DECISION | RUN | --list

DECISION is the number of its row in the ledger, RUN a retraining's name. What would have changed the decision is found
by asking the policy again with one thing changed.
"""

import json
from collections.abc import Sequence
from typing import Any

from monitoring.counterfactual import Otherwise, otherwise, utc
from monitoring.decisions import DECISION
from monitoring.explain_text import listing, text
from monitoring.given import Given
from monitoring.policy import CAUSES, status
from monitoring.runs import FIRED, retrainings
from monitoring.settings import load_settings
from service.contract.errors import CommandParser, ConfigError, LedgerError, NotFound, run_command
from service.contract.ledger import Ledger, Row

LAST = "last"


def main(argv: list[str] | None = None) -> int:
    """Print it; raises BlastwatchError with a line that says what to do."""
    arguments = _parser().parse_args(argv)
    if (arguments.decision is None) == (not arguments.list):
        raise ConfigError("name a decision (`last`, a number, a retraining) or ask for --list")
    rows = Ledger(load_settings().store_url, create=False).rows()
    if arguments.list:
        every = [row for row in rows if row.kind == DECISION]
        print(json.dumps([_brief(row) for row in every], indent=2) if arguments.json else listing(map(_brief, every)))
        return 0
    explained = explain(rows, arguments.decision)
    print(json.dumps(explained, indent=2) if arguments.json else text(explained))
    return 0


def explain(rows: Sequence[Row], name: str) -> dict[str, Any]:
    """Everything there is to say about one decision, as plain JSON; `rows` is the whole ledger.

    Raises NotFound when there is none of that name, LedgerError when its row cannot be understood.
    """
    row = _find(rows, name)
    if row.kind == FIRED:
        return _brief(row) | {"asked": row.body, "outcome": _outcome(rows, str(row.body["run"]))}
    try:
        given = Given.from_json(row.body)
        again, others = given.decide(), otherwise(given)
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(f"row {row.seq} of the ledger is a decision that this release cannot read: {error}") from None
    body = row.body
    seen = row if given.window is not None else _due_since(rows, row)
    before = given if seen is None or seen is row else Given.from_json(seen.body)
    fired = next((item for item in rows if item.kind == FIRED and item.body.get("decision") == row.seq), None)
    return _brief(row) | {
        "reproduced": (again.kind, list(again.causes), again.blocked_by)
        == (body["decision"], body["causes"], body["blocked_by"]),
        "window": None if seen is None else {name: seen.body[name] for name in ("window", "cells", "patients")},
        "decided_on_window": seen.seq if seen is not None else None,
        "findings": [] if seen is None else seen.body["findings"],
        "history": _history(before),
        "alarms": {"before": list(given.state.alarms), "after": list(again.state.alarms)},
        "pending_before": list(given.state.pending),
        "reviewed": body["reviewed"],
        "settings": body["settings"],
        "settings_sha256": body["settings_sha256"],
        "otherwise": [_other(item) for item in others],
        "outcome": None if fired is None else _outcome(rows, str(fired.body["run"])),
    }


def _find(rows: Sequence[Row], name: str) -> Row:
    every = [row for row in rows if row.kind in (DECISION, FIRED)]
    if name == LAST:
        found = [row for row in every if row.kind == DECISION][-1:]
    else:
        found = [row for row in every if str(row.seq) == name or row.body.get("run") == name]
    if not found:
        raise NotFound(f"the ledger has no decision {name!r}: `python -m monitoring.explain --list` shows what it has")
    led = found[0].body.get("decision") if found[0].kind == FIRED else None
    return next((row for row in every if row.seq == led), found[0])


def _due_since(rows: Sequence[Row], row: Row) -> Row | None:
    """The last decision on a window before this one: what that window said is what this one goes on from."""
    earlier = [
        item for item in rows if item.kind == DECISION and item.seq < row.seq and item.body["closed"] is not None
    ]
    causes = set(row.body["causes"])
    same = [item for item in earlier if item.version == row.version and causes.intersection(item.body["causes"])]
    return same[-1] if same else None


def _brief(row: Row) -> dict[str, Any]:
    """Which decision it is. A person's is a row of kind `trigger_fired`, with no figures behind it."""
    body, person = row.body, row.kind == FIRED
    return {
        "number": row.seq,
        "time": row.time,
        "model": row.version or None,
        "decision": "retrain" if person else body["decision"],
        "why": body["why"],
        "by": body["by"],
        "causes": body["causes"],
        "blocked_by": body.get("blocked_by"),
    }


def _history(given: Given) -> dict[str, Any]:
    """For each cause what the windows said, oldest first; this one is the last."""
    windows = [*given.history, *([given.window] if given.window else [])]
    said = {cause: [status(window, cause, given.settings) for window in windows] for cause in CAUSES}
    return {"closed": [utc(window.closed) for window in windows], "said": said}


def _other(item: Otherwise) -> dict[str, Any]:
    decision = item.decision
    return {
        "change": item.change,
        "decision": decision.kind,
        "causes": list(decision.causes),
        "blocked_by": decision.blocked_by,
    }


def _outcome(rows: Sequence[Row], run: str) -> dict[str, Any]:
    """What became of the retraining."""
    item = next((item for item in retrainings(rows) if item.run == run), None)
    if item is None:
        return {"run": run, "outcome": "did not start"}
    end = {} if item.end is None else item.end.body
    kept: dict[str, Any] = {
        name: end[name] for name in ("reason", "reasons", "version", "promoted", "cost", "commit") if name in end
    }
    return {"run": run, "outcome": item.outcome, "started": utc(item.started), **kept}


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m monitoring.explain",
        description="Why the monitor decided what it did: findings, thresholds, history, what kept a retraining back, "
        "and what would have changed it. Everything comes from the ledger (BLASTWATCH_STORE_URL).",
    )
    parser.add_argument(
        "decision", nargs="?", metavar="DECISION", help=f"`{LAST}`, a number as --list shows it, or a retraining's name"
    )
    parser.add_argument("--list", action="store_true", help="list the decisions on record, oldest first")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


if __name__ == "__main__":
    run_command(main)
